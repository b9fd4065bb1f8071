"""A training run: text, optimizer, the loop."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from jaxode.config.checks import at_least, at_most, parse_frame, require, within
from jaxode.config.fields import COUNT, Most, Place, Seed, check_fields
from jaxode.config.hosts import HostsConfig
from jaxode.config.mesh import MeshConfig
from jaxode.config.mixture import parse_mixture
from jaxode.config.model import DepthConfig, ModelConfig
from jaxode.config.objective import ObjectiveConfig
from jaxode.config.task import TASKS_PREFIX, TaskConfig


@dataclass(frozen=True)
class DataConfig:
    """Which text, which tokenizer, how it is packed."""

    corpus: str = "stdlib"
    """stdlib (embedded) | files | wikitext-2 | books | tinyshakespeare (folders in root) | tasks/NAME (questions made
    by the program: p-hop, s3, s5, parity, rule-30, addition, reachable; rows are "texts", answers alone are predicted)
    | a TFDS text set by name | the name that a plug-in brings (`--plugins`)."""
    task: TaskConfig = field(default_factory=TaskConfig)
    """Of a corpus tasks/NAME, which questions."""
    files: Place = ""
    """Glob of text files, a file or a folder (.txt .md .py .jsonl, also .gz .xz, and .parquet); giving it selects
    corpus "files". Names that begin with train and validation tell the splits."""
    mixture: tuple[str, ...] = ()
    """Several corpora at once, each with its weight: "stdlib=1" "wiki/*.parquet=2.5". Before the last "=" stands the
    name of a corpus, or files as in `files`; a corpus has its weight's share of the rows, and so of the tokens."""
    root: Place = ""
    """Folder that holds the named corpora; the variable JAXODE_DATA when empty."""
    separator: str = ""
    """A line that ends a document inside a text file; empty: each file is one document."""
    lines: bool = False
    """Each line of a text file is a document; blank ones are passed over."""
    text_key: str = "text"
    """Field of a jsonl line or of a TFDS example, or column of a Parquet file, that holds the text."""
    train: Place = ""
    """Labelled texts of a classifier: a table (.tsv, .csv, .parquet), JSON lines, or the name of a TFDS set
    (glue/sst2); of a token_classifier JSON lines or Parquet with lists of words and labels, a word and its label a line
    as CoNLL has them, or a TFDS set of such (conll2003)."""
    valid: Place = ""
    """The same to measure on; when empty the TFDS set's own validation split, or a part of `train`, as valid_fraction
    says."""
    text: str = ""
    """Column of the texts in both, by name or by number from 1; when empty one of a common name (text, sentence,
    sentence1, premise, ..)."""
    pair: str = ""
    """Column of second texts, of pairs; when empty one of a common name (sentence2, hypothesis, ..)."""
    label: str = ""
    """Column of the labels; when empty one of a common name (label, class, ..)."""
    header: Literal["auto", "yes", "no"] = "auto"
    """Whether their first line names the columns; auto: where it holds a name that is looked for."""
    class_weights: Literal["none", "balanced"] = "none"
    """balanced: a text counts by one over how often its label is in the training texts, 1 in the mean; of a choice of
    one label."""
    valid_fraction: float = 0.05
    """Share of documents held out for validation where the corpus brings no validation split."""
    tokenizer: Place = "bpe"
    """bpe (byte-level, trained on the corpus) | bytes | name or folder of a Hugging Face tokenizer, or the folder
    "tokenizer" of a run or a shipped model."""
    vocab_size: Annotated[int, Most(1_000_000)] = 2048
    """Size of a trained BPE vocabulary."""
    rows: Literal["stream", "texts"] = "stream"
    """stream: documents end to end, cut into rows of model.length tokens; texts: documents stay whole (longer ones are
    cut), several in a row, each read as if it stood alone: places from 0, attention within."""
    frame: str = ""
    """With rows "texts", what stands around every document: two entries of the vocabulary such as `[CLS] [SEP]`, or
    "none"; when empty what the model's own tokenizer puts there."""
    answer_after: str = ""
    """With rows "texts": of every text what ends with the first of these marks ("=", "Answer:") is read, and only what
    comes behind it is predicted. Empty: all of it is."""
    document_mask: bool = False
    """Keep attention within a document of a packed row; of rows "texts" it always is."""
    mask_fraction: float = 0.15
    """Masked models: share of tokens to predict (80% [MASK], 10% random, 10% kept; Devlin et al. 2019, section 3.1)."""
    cache: Place = ""
    """Folder for prepared corpora and tokenizers; JAXODE_CACHE or ~/.cache/jaxode when empty."""
    edited: bool = False
    """Resume a run although its text was changed; otherwise that is refused."""

    def __post_init__(self) -> None:
        check_fields(self, "data")
        if self.files and self.corpus == "stdlib":
            object.__setattr__(self, "corpus", "files")
        if self.mixture and self.corpus == "stdlib":
            object.__setattr__(self, "corpus", "mixture")
        require(
            bool(self.mixture) == (self.corpus == "mixture"),
            f'data.mixture = {list(self.mixture)} with data.corpus = "{self.corpus}": a mixture names its corpora '
            "itself; leave data.corpus and data.files out, or the mixture",
        )
        parse_mixture("data.mixture", self.mixture)
        require(
            self.corpus != "files" or bool(self.files), 'data.files is empty: corpus "files" needs a glob of text files'
        )
        require(
            not self.files or self.corpus == "files",
            f'data.files = "{self.files}" together with data.corpus = "{self.corpus}": give one of them',
        )
        require(
            not (self.lines and self.separator),
            f'data.lines = true with data.separator = "{self.separator}": documents are lines, or end at such lines; '
            "give one of them",
        )
        require(
            not self.lines or self.corpus in ("files", "mixture"),
            f'data.lines = true with data.corpus = "{self.corpus}": it belongs to text files of your own (data.files)',
        )
        if self.corpus.startswith(TASKS_PREFIX):
            require(
                self.tokenizer != "bpe",
                f'data.tokenizer = "bpe" with data.corpus = "{self.corpus}": a question is digits and letters one by '
                'one; set data.tokenizer = "bytes"',
            )
            require(
                self.answer_after in ("", "="),
                f'data.answer_after = "{self.answer_after}" with data.corpus = "{self.corpus}": an answer stands '
                'behind "=" there; leave it out',
            )
            object.__setattr__(self, "rows", "texts")
            object.__setattr__(self, "answer_after", "=")
        parse_frame("data.frame", self.frame)
        for name, plain in (("valid", ""), ("text", ""), ("pair", ""), ("label", ""), ("header", "auto")):
            require(
                bool(self.train) or getattr(self, name) == plain,
                f"data.{name} = {getattr(self, name)} without data.train: it belongs to labelled texts; name them",
            )
        require(
            not self.train or (not self.files and self.corpus == "stdlib"),
            f'data.train = "{self.train}" with data.corpus = "{self.corpus}", data.files = "{self.files}": '
            "labelled texts, or text without labels",
        )
        require(
            bool(self.train) or self.class_weights == "none",
            f'data.class_weights = "{self.class_weights}" without data.train: it belongs to labelled texts',
        )
        require(
            not self.frame or self.rows == "texts" or bool(self.train),
            f'data.frame = "{self.frame}" with data.rows = "{self.rows}": only whole texts stand within one; set '
            'data.rows = "texts"',
        )
        require(
            not self.answer_after or self.rows == "texts",
            f'data.answer_after = "{self.answer_after}" with data.rows = "{self.rows}": only whole texts have a part '
            'that is not predicted; set data.rows = "texts"',
        )
        require(
            self.corpus.startswith(TASKS_PREFIX) or self.task == TaskConfig(),
            f'data.task with data.corpus = "{self.corpus}": it belongs to a corpus "{TASKS_PREFIX}NAME"; leave it out',
        )
        if self.rows == "texts":
            object.__setattr__(self, "document_mask", True)
        require(0.0 < self.valid_fraction <= 0.5, f"data.valid_fraction = {self.valid_fraction}: must lie in (0, 0.5]")
        require(0.0 < self.mask_fraction < 1.0, f"data.mask_fraction = {self.mask_fraction}: must lie in (0, 1)")
        require(
            self.vocab_size >= 300,
            f"data.vocab_size = {self.vocab_size}: must be at least 300 (256 bytes and the special tokens); "
            'for raw bytes use data.tokenizer = "bytes"',
        )


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
    """Batches of the validation at the end; 0 reads the whole split."""
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
