"""Every knob of jaxode: frozen dataclasses that refuse a wrong value when they are made."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


class UserError(ValueError):
    """Something the user can mend: one line that names the field or file, the value, what is allowed, what to do."""


def require(condition: bool, message: str) -> None:
    """Raise `UserError(message)` unless `condition` holds."""
    if not condition:
        raise UserError(message)


def _at_least(name: str, value: float | int, least: float | int) -> None:
    require(value >= least, f"{name} = {value}: must be at least {least}")


def _in(name: str, value: float, low: float, high: float) -> None:
    require(low <= value <= high, f"{name} = {value}: must lie in [{low}, {high}]")


@dataclass(frozen=True)
class ModelConfig:
    """One transformer whose looped part stores `groups` blocks and applies them `steps` times in all."""

    kind: Literal["causal", "masked"] = "causal"
    """causal: a GPT-like decoder; masked: a BERT-like encoder."""
    vocab_size: int = 0
    """V; 0 takes the tokenizer's size."""
    width: int = 128
    """D, the width of the residual stream."""
    heads: int = 4
    """H, attention heads; each is width / heads wide."""
    kv_heads: int = 0
    """Key/value heads for grouped-query attention (a divisor of heads); 0 means heads."""
    ff_width: int = 0
    """F, the feed-forward width; 0 means 4 D (gelu, relu) or 8/3 D rounded up to a multiple of 8 (swiglu)."""
    embedding_width: int = 0
    """E of the factorised embedding [V, E] [E, D] (ALBERT); 0 means D, without the projection."""
    length: int = 128
    """L, the longest sequence in tokens (a hard limit for learned positions)."""
    steps: int = 12
    """N, block applications of the looped part at full depth = its interval of depth-time."""
    sharing: Literal["full", "sequence", "cycle", "none"] = "full"
    """full: one block; sequence: A A B B; cycle: A B A B; none: N different blocks, each applied once."""
    groups: int = 1
    """G, distinct blocks of the looped part for "sequence" and "cycle" (a divisor of steps)."""
    group_steps: str = ""
    """Sharing "sequence" with uneven groups: how many of the N steps each takes, as "3,2"; empty: N / G each."""
    inner_blocks: int = 1
    """Different blocks that one application of a group runs one after the other; a step counts them as one."""
    prelude: int = 0
    """Unshared blocks before the looped part, each applied once."""
    coda: int = 0
    """Unshared blocks after the looped part, each applied once."""
    norm: Literal["layer", "rms"] = "layer"
    norm_epsilon: float = 1e-6
    """Added to the variance before its root is taken, in every norm."""
    norm_position: Literal["pre", "post"] = "pre"
    """pre: x + S(norm x), the residual stream is free; post: norm(x + S(x)), as ALBERT."""
    feed_forward: Literal["gelu", "gelu_tanh", "relu", "silu", "tanh", "swiglu"] = "gelu_tanh"
    """Activation between the two projections; gelu_tanh is the tanh approximation of gelu."""
    head_activation: Literal["gelu", "gelu_tanh", "relu", "silu", "tanh"] = "gelu_tanh"
    """Activation in the head of a masked model."""
    positions: Literal["rotary", "learned"] = "rotary"
    rotary_base: float = 10_000.0
    token_types: int = 0
    """Size of a second embedding table, for the kind of each token (sentence A or B); 0 leaves it out."""
    embedding_norm: bool = False
    """Normalise the embedding before its projection to D, as ALBERT."""
    inject_input: bool = False
    """Add x(0), through a learned per-channel gate that starts at 0, to the block's input at every step."""
    dropout: float = 0.0
    """Probability of dropping a unit of each sublayer's output and of the embedding, in training."""
    tied: bool = True
    """Use the embedding matrix as the output head."""
    output_init: float = 0.0
    """Factor on the initial output projections of each sublayer; 0 means 1/N for shared, 1/sqrt(2N) for unshared."""

    def __post_init__(self) -> None:
        for name in ("width", "heads", "length", "steps", "groups", "inner_blocks"):
            _at_least(f"model.{name}", getattr(self, name), 1)
        for name in (
            "vocab_size",
            "kv_heads",
            "ff_width",
            "embedding_width",
            "prelude",
            "coda",
            "output_init",
            "token_types",
        ):
            _at_least(f"model.{name}", getattr(self, name), 0)
        require(self.norm_epsilon > 0, f"model.norm_epsilon = {self.norm_epsilon}: must be positive")
        _in("model.dropout", self.dropout, 0.0, 0.99)
        require(self.rotary_base > 0, f"model.rotary_base = {self.rotary_base}: must be positive")
        require(
            self.width % self.heads == 0,
            f"model.width = {self.width} is not divisible by model.heads = {self.heads}: choose a multiple of it",
        )
        require(
            self.kv_heads == 0 or self.heads % self.kv_heads == 0,
            f"model.kv_heads = {self.kv_heads} does not divide model.heads = {self.heads}: choose a divisor, or 0",
        )
        require(
            self.positions != "rotary" or self.head_width % 2 == 0,
            f"model.width / model.heads = {self.head_width} is odd: rotary positions need an even head width",
        )
        shared = self.sharing in ("sequence", "cycle")
        require(
            shared or self.groups == 1,
            f'model.groups = {self.groups} with model.sharing = "{self.sharing}": they belong to "sequence" or "cycle"',
        )
        require(
            bool(self.group_steps) or self.steps % self.groups == 0,
            f"model.groups = {self.groups} does not divide model.steps = {self.steps}: choose a divisor of it",
        )
        if self.group_steps:
            self._check_group_steps()

    def _check_group_steps(self) -> None:
        name = f'model.group_steps = "{self.group_steps}"'
        require(
            self.sharing == "sequence",
            f'{name} with model.sharing = "{self.sharing}": it belongs to "sequence"',
        )
        try:
            sizes = self.group_sizes
        except ValueError:
            raise UserError(f'{name}: must be whole numbers such as "3,2"') from None
        require(
            len(sizes) == self.groups and min(sizes) >= 1 and sum(sizes) == self.steps,
            f"{name}: must be model.groups = {self.groups} numbers from 1 that sum to model.steps = {self.steps}",
        )

    @property
    def group_sizes(self) -> tuple[int, ...]:
        """Steps of every group of "sequence", after resolving empty `group_steps`."""
        if self.group_steps:
            return tuple(int(part) for part in self.group_steps.split(","))
        return (self.steps // self.groups,) * self.groups

    @property
    def head_width(self) -> int:
        """K = D / H."""
        return self.width // self.heads

    @property
    def num_kv_heads(self) -> int:
        """Key/value heads after resolving 0."""
        return self.kv_heads or self.heads

    @property
    def hidden_width(self) -> int:
        """F after resolving 0."""
        if self.ff_width:
            return self.ff_width
        return -(-8 * self.width // 24) * 8 if self.feed_forward == "swiglu" else 4 * self.width

    @property
    def distinct_blocks(self) -> int:
        """Blocks stored for the looped part."""
        return self.inner_blocks * (self.steps if self.sharing == "none" else self.groups)


@dataclass(frozen=True)
class DepthConfig:
    """How to integrate the looped part over depth. Static: one compilation a value."""

    steps: int | None = None
    """n, solver steps counted in block applications of a one-stage solver; None means the model's N."""
    solver: str = "euler"
    """euler | lie | heun | midpoint | rk4; ab2 | ab3 | secant (one evaluation a step, with memory); calibrated (the
    coefficients that were fitted for this number of steps); tsit5 | dopri5 (adaptive, for analysis)."""
    schedule: str = "even"
    """even | unit (truncation: n steps of size 1) | geometric:r (each step r times the last) | step sizes "1,2,4,5"."""
    adjoint: Literal["recursive", "remat", "unroll"] = "recursive"
    """Backward pass: recursive keeps one state a step and recomputes the block (Diffrax's own loop); remat also keeps
    q, k, v and the attention's result (a little more memory, less time); unroll keeps everything."""
    tolerance: float = 1e-3
    """Relative and absolute tolerance of the adaptive solvers."""

    def __post_init__(self) -> None:
        require(
            self.steps is None or self.steps >= 1,
            f"depth.steps = {self.steps}: must be at least 1 (None runs the model's full depth)",
        )
        require(self.tolerance > 0, f"depth.tolerance = {self.tolerance}: must be positive")


@dataclass(frozen=True)
class DataConfig:
    """Which text, which tokenizer, how it is packed."""

    corpus: str = "stdlib"
    """stdlib (embedded) | files | wikitext-2 | books | tinyshakespeare (folders in root) | a TFDS text set by name."""
    files: str = ""
    """Glob of text files (.txt .md .py .jsonl, also .gz .xz) for corpus "files"; giving it selects that corpus."""
    root: str = ""
    """Folder that holds the named corpora; the variable JAXODE_DATA when empty."""
    separator: str = ""
    """A line that ends a document inside a text file; empty: each file is one document."""
    text_key: str = "text"
    """Field of a jsonl line or of a TFDS example that holds the text."""
    valid_fraction: float = 0.05
    """Share of documents held out for validation where the corpus brings no validation split."""
    tokenizer: str = "bpe"
    """bpe (byte-level, trained on the corpus) | bytes | name or folder of a Hugging Face tokenizer."""
    vocab_size: int = 2048
    """Size of a trained BPE vocabulary."""
    document_mask: bool = False
    """Keep attention within a document of a packed row."""
    mask_fraction: float = 0.15
    """Masked models: share of tokens to predict (80% [MASK], 10% random, 10% kept; Devlin et al. 2019, section 3.1)."""
    cache: str = ""
    """Folder for prepared corpora and tokenizers; JAXODE_CACHE or ~/.cache/jaxode when empty."""

    def __post_init__(self) -> None:
        if self.files and self.corpus == "stdlib":
            object.__setattr__(self, "corpus", "files")
        require(
            self.corpus != "files" or bool(self.files), 'data.files is empty: corpus "files" needs a glob of text files'
        )
        require(
            not self.files or self.corpus == "files",
            f'data.files = "{self.files}" together with data.corpus = "{self.corpus}": give one of them',
        )
        require(0.0 < self.valid_fraction <= 0.5, f"data.valid_fraction = {self.valid_fraction}: must lie in (0, 0.5]")
        require(0.0 < self.mask_fraction < 1.0, f"data.mask_fraction = {self.mask_fraction}: must lie in (0, 1)")
        require(
            self.vocab_size >= 300,
            f"data.vocab_size = {self.vocab_size}: must be at least 300 (256 bytes and the special tokens); "
            'for raw bytes use data.tokenizer = "bytes"',
        )


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
    weight_decay: float = 0.1
    """Decoupled, on matrices only (not on biases, norms and gates)."""
    clip: float = 1.0
    """Largest global gradient norm; 0 turns clipping off."""

    def __post_init__(self) -> None:
        require(self.learning_rate > 0, f"optimizer.learning_rate = {self.learning_rate}: must be positive")
        _in("optimizer.final_fraction", self.final_fraction, 0.0, 1.0)
        _in("optimizer.warmup_fraction", self.warmup_fraction, 0.0, 0.9)
        for name in ("beta1", "beta2"):
            _in(f"optimizer.{name}", getattr(self, name), 0.0, 0.9999999)
        for name in ("weight_decay", "clip"):
            _at_least(f"optimizer.{name}", getattr(self, name), 0)
        require(self.epsilon > 0, f"optimizer.epsilon = {self.epsilon}: must be positive")


@dataclass(frozen=True)
class TrainConfig:
    """The loop: how long, how large, on what, what to keep."""

    updates: int = 700
    """Optimizer updates in all."""
    batch_size: int = 16
    """B, rows of L tokens an update, over all devices."""
    accumulate: int = 1
    """Micro-batches an update (a divisor of batch_size); the result is that of the large batch."""
    seed: int = 0
    precision: Literal["float32", "bfloat16"] = "float32"
    """Type of the block's matmuls; parameters and the residual stream stay float32."""
    parallel: Literal["jit", "pmap"] = "jit"
    """jit: one program over a device mesh with shardings; pmap: one replica a device."""
    devices: int = 0
    """Devices to use; 0 means all."""
    log_every: int = 10
    validate_every: int = 250
    """Updates between validations; 0 only at the end."""
    validation_batches: int = 16
    """Batches of a validation during training; the one at the end reads the whole split."""
    checkpoint_every: int = 250
    """Updates between checkpoints (one is always written at the end)."""
    keep: int = 2
    """Newest checkpoints to keep."""
    sweep: bool = True
    """At the end, measure the validation loss at N, N/2, N/3, N/4 steps: a table, sweep.csv, sweep.png."""
    tensorboard: bool = False
    wandb: str = ""
    """Weights & Biases project; empty turns it off."""

    def __post_init__(self) -> None:
        for name in (
            "updates",
            "batch_size",
            "accumulate",
            "log_every",
            "validation_batches",
            "checkpoint_every",
            "keep",
        ):
            _at_least(f"train.{name}", getattr(self, name), 1)
        for name in ("devices", "validate_every", "seed"):
            _at_least(f"train.{name}", getattr(self, name), 0)
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
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    out: str = ""
    """Run folder; runs/DATE-TIME when empty."""
    resume: bool = False
    """Continue the run in `out` from its newest checkpoint."""

    def __post_init__(self) -> None:
        require(not self.resume or bool(self.out), "resume without out: name the run folder to continue with --out")


@dataclass(frozen=True)
class InferConfig:
    """A trained run at work. Results go to standard output, everything else to standard error."""

    checkpoint: str = ""
    """Run folder, or folder of a Hugging Face ALBERT with its tokenizer; the newest run under runs/ when empty."""
    task: Literal["auto", "generate", "fill", "score", "sweep", "report", "calibrate"] = "auto"
    """auto: generate (causal) or fill (masked); score: perplexity of a file; sweep: quality and latency by steps;
    report: the same for every method of solving, at equal block evaluations, with the solves' norms along depth;
    calibrate: fit the solver to the full depth at `steps`, and keep it beside the checkpoint."""
    prompt: str = ""
    """Text to continue; for a masked model, text with [MASK] where a token is to be filled in."""
    file: str = ""
    """Text file for score, sweep, report and calibrate; the run's own text when empty (not for score)."""
    steps: int | None = None
    """Depth steps n; the model's N when absent."""
    budget: float | None = None
    """Share of the full depth's block evaluations; chooses the steps."""
    max_loss_increase: float | None = None
    """Nats per token over the full depth's loss; chooses the fewest calibrated steps that keep it with `confidence`."""
    confidence: float = 0.95
    solver: str = "auto"
    """auto: calibrated where the run holds a calibration for `steps`, else euler; or as depth.solver in training."""
    schedule: str = "even"
    temperature: float = 0.8
    """0 takes the most likely token."""
    seed: int = 0
    max_new_tokens: int = 128
    top: int = 5
    """Candidates listed for each mask."""
    batches: int = 32
    """Batches that a sweep, a report, or a calibration on a file reads."""
    out: str = ""
    """Folder for the CSV and PNG files of a sweep or a report; the run folder when empty."""

    def __post_init__(self) -> None:
        require(
            self.steps is None or self.steps >= 1,
            f"steps = {self.steps}: must be at least 1 (None runs the model's full depth)",
        )
        given = [name for name in ("steps", "budget", "max_loss_increase") if getattr(self, name) is not None]
        require(len(given) <= 1, f"{' and '.join(given)} both choose the depth: give one of them")
        for name in given:
            if name != "steps":
                self._check_chosen_depth(name)
        require(
            self.task != "calibrate" or self.steps is not None,
            "task = calibrate needs --steps: how many steps to fit",
        )
        require(
            self.budget is None or 0 < self.budget <= 1,
            f"budget = {self.budget}: a share of the block evaluations, above 0 and at most 1",
        )
        require(
            self.max_loss_increase is None or self.max_loss_increase > 0,
            f"max_loss_increase = {self.max_loss_increase}: nats per token, above 0",
        )
        require(0 < self.confidence < 1, f"confidence = {self.confidence}: must lie between 0 and 1")
        for name in ("max_new_tokens", "top", "batches"):
            _at_least(name, getattr(self, name), 1)
        _at_least("temperature", self.temperature, 0.0)
        _at_least("seed", self.seed, 0)
        require(self.task != "score" or bool(self.file), "task = score needs --file: the text file to score")

    def _check_chosen_depth(self, name: str) -> None:
        """What names the depth itself cannot stand beside `budget` or `max_loss_increase`, which choose it."""
        given = f"{name} = {getattr(self, name)}"
        require(
            self.task not in ("sweep", "report", "calibrate"),
            f"{given} with task = {self.task}: it chooses the depth of generate, fill and score alone; leave it out",
        )
        for knob, free in (("solver", "auto"), ("schedule", "even")):
            value = getattr(self, knob)
            require(value == free, f"{given} with {knob} = {value}: both choose the solver; give one of them")
