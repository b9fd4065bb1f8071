"""A training run: text, optimizer, the loop."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from jaxode.config.checks import at_least, at_most, require, within
from jaxode.config.data import DataConfig
from jaxode.config.fields import COUNT, Place, Seed, check_fields
from jaxode.config.hosts import HostsConfig
from jaxode.config.mesh import MeshConfig
from jaxode.config.model import DepthConfig, ModelConfig
from jaxode.config.objective import ObjectiveConfig

RATES = ("branch_rate", "conditioning_rate", "head_rate", "embedding_rate")
"""Factors on the learning rate of parts of a model."""


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW (Loshchilov & Hutter 2019) or Muon (Jordan et al. 2024) with linear warm-up and cosine decay."""

    name: Literal["adamw", "muon"] = "muon"
    """muon: orthogonalised momentum for the blocks' matrices, AdamW for all else; one shared block makes it cheap."""
    learning_rate: float = 8e-3
    """Peak, reached at the end of the warm-up."""
    final_fraction: float = 0.1
    """Learning rate at the last update as a share of the peak."""
    warmup_fraction: float = 0.05
    """Share of the updates spent on linear warm-up."""
    beta1: float = 0.9
    beta2: float = 0.98
    epsilon: float = 1e-8
    branch_rate: float = 1.0
    """Factor on the updates of the blocks' output projections: 1 / model.step_size undoes what a smaller step does to
    the speed of learning."""
    conditioning_rate: float = 1.0
    """Factor on the updates of what tells the blocks t and h: fresh parameters beside trained ones move faster."""
    head_rate: float = 1.0
    """Factor on the updates of the head: a fresh one on a model that exists moves faster than what it reads."""
    embedding_rate: float = 1.0
    """Factor on the updates of the embedding, to keep what it knows of rare tokens; of a tied head as well."""
    weight_decay: float = 0.1
    """Decoupled, on matrices only (not on biases, norms and gates)."""
    clip: float = 1.0
    """Largest global gradient norm; 0 turns clipping off."""

    def __post_init__(self) -> None:
        check_fields(self, "optimizer")
        require(self.learning_rate > 0, f"optimizer.learning_rate = {self.learning_rate}: must be positive")
        within("optimizer.final_fraction", self.final_fraction, 0.0, 1.0)
        within("optimizer.warmup_fraction", self.warmup_fraction, 0.0, 0.9)
        for name in ("beta1", "beta2"):
            within(f"optimizer.{name}", getattr(self, name), 0.0, 0.9999999)
        for name in ("weight_decay", "clip"):
            at_least(f"optimizer.{name}", getattr(self, name), 0)
        for name in RATES:
            require(getattr(self, name) > 0, f"optimizer.{name} = {getattr(self, name)}: must be positive")
        require(self.epsilon > 0, f"optimizer.epsilon = {self.epsilon}: must be positive")


WARM_UP, PROFILED = 3, 5
"""Updates of a start before its trace, and in it."""


@dataclass(frozen=True)
class TrainConfig:
    """The loop: how long, how large, on what, what to keep."""

    updates: int = 700
    """Optimizer updates in all."""
    batch_size: int = 16
    """B, rows of L tokens an update, over all devices."""
    accumulate: int = 1
    """Micro-batches an update (a divisor of batch_size); the result is that of the large batch."""
    seed: Seed = 0
    trains: Literal["all", "norms", "lora", "told"] = "all"
    """What moves of a model that the run began with (`init`): everything; its norms; low-rank changes beside the
    blocks' matrices, which are merged when the run is read; or nothing (told) but what tells blocks t and h
    (`model.conditioning`, `model.clock.rank`), which moves with all of these."""
    lora_rank: int = 8
    """R of "lora"."""
    lora_matrices: str = ""
    """Matrices of "lora" by the ends of their names, "qkv,feed_forward.inner"; empty: all of the blocks."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Type of the block's matmuls; parameters and the residual stream stay float32."""
    parallel: Literal["jit", "pmap"] = "jit"
    """jit: one program over a device mesh with shardings; pmap: one replica a device."""
    devices: int = 0
    """Devices to use; 0 means all."""
    mesh: MeshConfig = field(default_factory=MeshConfig)
    """How they stand to each other under jit."""
    hosts: HostsConfig = field(default_factory=HostsConfig)
    """Which other processes train along."""
    log_every: int = 10
    validate_every: int = 250
    """Updates between validations; 0 only at the end."""
    validation_batches: int = 16
    """Batches of a validation during training; 0 reads the whole split."""
    final_batches: int = 0
    """Batches of the validation at the end, and of the sweep over depth after it; 0 reads the whole split."""
    checkpoint_every: int = 250
    """Updates between checkpoints (one is always written at the end)."""
    keep: int = 2
    """Newest checkpoints to keep."""
    keep_every: int = 0
    """Keep for good what is saved at multiples of so many updates; 0: nothing."""
    nonfinite: Literal["stop", "skip"] = "stop"
    """What an update does whose loss or gradient is not finite: it ends the run, or is left out and counted (20 in a
    row end the run); the schedule of the learning rate waits meanwhile."""
    best: str = ""
    """Keep the checkpoint that validated best as well, and read the run as that one: by "loss", or of a classifier by
    one of its metrics (accuracy, f1, matthews, pearson, entity_f1, ..). Empty: the newest counts."""
    patience: int = 0
    """With best: validations in a row without a better one after which the run ends early; 0: it never does."""
    sweep: bool = True
    """At the end, measure the validation loss at N, N/2, N/3, N/4 steps: a table, sweep.csv, sweep.png."""
    profile: bool = False
    """Record a trace of five updates, after three that warm up, in the run folder (profile/)."""
    tensorboard: bool = False
    wandb: str = ""
    """Weights & Biases project; empty turns it off."""

    def __post_init__(self) -> None:
        check_fields(self, "train")
        for name in (
            "updates",
            "batch_size",
            "accumulate",
            "log_every",
            "checkpoint_every",
            "keep",
            "lora_rank",
        ):
            at_least(f"train.{name}", getattr(self, name), 1)
        for name in (
            "devices",
            "validate_every",
            "validation_batches",
            "final_batches",
            "seed",
            "patience",
            "keep_every",
        ):
            at_least(f"train.{name}", getattr(self, name), 0)
        require(
            self.parallel == "jit" or self.mesh == MeshConfig(),
            f'train.parallel = "{self.parallel}" with train.mesh: pmap keeps one whole model a device; leave the mesh '
            'out, or set train.parallel = "jit"',
        )
        require(
            not self.hosts.coordinator or (self.parallel == "jit" and self.devices == 0),
            f'train.hosts.coordinator = "{self.hosts.coordinator}" with train.parallel = "{self.parallel}", '
            f'train.devices = {self.devices}: several processes train under "jit", with all of their devices',
        )
        require(
            not self.profile or self.updates >= WARM_UP + PROFILED,
            f"train.profile = true with train.updates = {self.updates}: a trace takes {PROFILED} updates after "
            f"{WARM_UP} that warm up; make it at least {WARM_UP + PROFILED}, or leave the trace out",
        )
        require(
            self.keep_every % self.checkpoint_every == 0,
            f"train.keep_every = {self.keep_every} with train.checkpoint_every = {self.checkpoint_every}: only what is "
            f"saved can be kept; make it a multiple of {self.checkpoint_every}, or 0",
        )
        require(
            not self.best or self.validate_every > 0,
            f'train.best = "{self.best}" with train.validate_every = 0: the best is found by validating on the way; '
            "say how often",
        )
        require(
            not self.patience or bool(self.best),
            f"train.patience = {self.patience} without train.best: patient with what? Name loss, or a classifier's "
            "metric",
        )
        require(
            self.batch_size % self.accumulate == 0,
            f"train.batch_size = {self.batch_size} is not divisible by train.accumulate = {self.accumulate}: "
            "choose a divisor",
        )


@dataclass(frozen=True)
class Config:
    """A training run."""

    model: ModelConfig = field(default_factory=ModelConfig)
    depth: DepthConfig = field(default_factory=DepthConfig)
    data: DataConfig = field(default_factory=DataConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    init: Place = ""
    """A language model to train on from: a run, an exported or shipped model, or a Hugging Face folder or name. Its
    weights, its tokenizer and its architecture are the run's; settings of model that contradict it are refused, but for
    dropout, steps, conditioning, clock, and with rotary positions length; what stands at its default is the model's."""
    plugins: tuple[Place, ...] = ()
    """Files of Python (or entry points of installed packages) that bring parts of your own: docs/extending.md. A run
    records which of them made it, and is resumed with the same ones."""
    out: Place = ""
    """Run folder; runs/DATE-TIME when empty."""
    resume: bool = False
    """Continue the run in `out` from its newest checkpoint."""

    def __post_init__(self) -> None:
        check_fields(self)
        tokens = self.train.batch_size * self.model.length
        at_most("train.batch_size * model.length", tokens, COUNT.value, COUNT.why)
        require(
            self.objective.resolved.teacher == "main" or bool(self.init),
            'objective.teacher = "init" without init: name the model that the run begins with, which teaches it',
        )
        require(
            self.model.labels_texts == bool(self.data.train),
            f'model.head = "{self.model.head}" with data.train = "{self.data.train}": a classifier learns from '
            'labelled texts, and only it does; set model.head = "classifier" or "token_classifier" and data.train, or '
            "neither",
        )
        require(
            self.data.class_weights == "none" or self.model.problem_type == "single_label_classification",
            f'data.class_weights = "{self.data.class_weights}" with model.problem_type = "{self.model.problem_type}": '
            "labels are weighed where one of them is chosen; leave it out",
        )
        require(
            self.train.trains == "all" or bool(self.init),
            f'train.trains = "{self.train.trains}" without init: a part trains alone only beside weights that '
            "exist; name the model that the run begins with",
        )
        for name, plain in (("lora_rank", 8), ("lora_matrices", "")):
            value = getattr(self.train, name)
            require(
                self.train.trains == "lora" or value == plain,
                f'train.{name} = {value!r} with train.trains = "{self.train.trains}": it belongs to "lora"; leave it '
                "out",
            )
        require(
            not self.train.hosts.coordinator or bool(self.out),
            f'train.hosts.coordinator = "{self.train.hosts.coordinator}" without out: name the run folder with --out, '
            "on a disk that all processes share",
        )
        require(not self.resume or bool(self.out), "resume without out: name the run folder to continue with --out")
        require(
            self.resume or not self.data.edited,
            "data.edited = true without resume: counts where a run is resumed over another text than it began with",
        )

    @property
    def only_steps(self) -> int | None:
        """The one number of steps that every update solves, where it is not N: the full depth is never trained then."""
        objective = self.objective.resolved
        several = bool(objective.steps or objective.short)
        return None if several or self.depth.steps == self.model.steps else self.depth.steps
