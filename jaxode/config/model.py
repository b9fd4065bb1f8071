"""What the model is, and how its depth is integrated."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Annotated, Literal

from jaxode.config.checks import UserError, at_least, at_most, require, within
from jaxode.config.fields import Most, Seed, Steps, check_fields
from jaxode.config.parts import AttentionConfig, ClockConfig, LoopConfig, SphereConfig
from jaxode.config.size import check_size


@dataclass(frozen=True)
class ModelConfig:
    """One transformer whose looped part stores `groups` blocks and applies them `steps` times in all."""

    kind: Literal["causal", "masked"] = "causal"
    """causal: a GPT-like decoder; masked: a BERT-like encoder."""
    head: Literal["vocabulary", "pooler", "none", "classifier", "token_classifier"] = "vocabulary"
    """What reads the state at the end: vocabulary: tokens are predicted; pooler, none: an encoder's states are the
    result, with one more vector a text or without; classifier: labels of a text; token_classifier: labels of its
    words, each at its first token."""
    problem_type: Literal["single_label_classification", "multi_label_classification", "regression"] = (
        "single_label_classification"
    )
    """Of a classifier: a choice of one label, a yes or no for each label, or numbers."""
    labels: tuple[str, ...] = ()
    """Names of a classifier's labels by number; when empty those of its training data, in order."""
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
    """E of the factorised embedding, V x E and E x D (ALBERT); 0 means D, without the projection."""
    length: Annotated[int, Most(2**24, "float32 counts positions to there")] = 128
    """L, the longest sequence in tokens (a hard limit for learned positions)."""
    steps: Steps = 12
    """N, block applications of the looped part at full depth = its interval of depth-time."""
    sharing: Literal["full", "sequence", "cycle", "none"] = "full"
    """full: one block; sequence: A A B B; cycle: A B A B; none: N different blocks, each applied once."""
    groups: int = 1
    """G, distinct blocks of the looped part for "sequence" and "cycle" (a divisor of steps)."""
    group_steps: str = ""
    """Sharing "sequence" with uneven groups: how many of the N steps each takes, as "3,2"; empty: N / G each."""
    block: str = "standard"
    """Of prelude, loop and coda. standard: attention, then feed-forward; or the name that a plug-in brings
    (`--plugins`), of a block with the same parameters and more."""
    inner_blocks: int = 1
    """Different blocks that one application of a group runs one after the other; a step counts them as one."""
    prelude: int = 0
    """Unshared blocks before the looped part, each applied once."""
    coda: int = 0
    """Unshared blocks after the looped part, each applied once."""
    norm: Literal["layer", "rms", "rms_plain", "unit"] = "layer"
    """Of the blocks: with mean and bias; by the root mean square, with or without a weight; x / |x|."""
    final_norm: Literal["same", "layer", "rms", "rms_plain", "unit"] = "same"
    """Before the head; same: as `norm`."""
    norm_epsilon: float = 1e-6
    """Added to the variance before its root is taken, in every norm."""
    norm_position: Literal["pre", "post", "sandwich", "branch", "sum", "sphere"] = "pre"
    """The residual rule of a sublayer S. pre: x + S(norm x), the residual stream is free; post: norm(x + S(x)), as
    ALBERT; sandwich: x + norm S(norm x), as Ouro; branch: x + norm S(x), as OLMo 2; sum: norm(x + S(norm x)), as
    Huginn; sphere: U(x) + a (U(S(U x)) - U(x)) at a learned rate a of each channel, with U(x) = x / |x|, as nGPT."""
    bias: Literal["all", "none", "query_key"] = "all"
    """Which projections of the blocks have one."""
    feed_forward: Literal["gelu", "gelu_tanh", "relu", "silu", "tanh", "swiglu"] = "gelu_tanh"
    """Activation between the two projections; gelu_tanh is the tanh approximation of gelu."""
    head_activation: Literal["gelu", "gelu_tanh", "relu", "silu", "tanh"] = "gelu_tanh"
    """Activation in the head of a masked model."""
    positions: Literal["rotary", "learned"] = "rotary"
    rotary_base: float = 10_000.0
    """b of the rotation angles l b^(-2 i / K), from 1."""
    token_types: int = 0
    """Size of a second embedding table, for the kind of each token (sentence A or B); 0 leaves it out."""
    embedding_norm: bool = False
    """Normalise the embedding before its projection to D, as ALBERT."""
    inject_input: bool = False
    """Add x(0), through a learned per-channel gate that starts at 0, to the block's input at every step."""
    conditioning: Literal["none", "time", "step", "loopformer"] = "none"
    """What the looped blocks are told besides their input: time: t; step: t and the step's size h; loopformer: both,
    with gates that begin at 0 and an increment that stands for the whole step, whatever h (Jeddi et al. 2026)."""
    step_size: float = 1.0
    """s0 in (0, 1]: the increments of the looped part are multiplied by it (the scaled-down step). Depth-time goes on
    counting trained applications, so N of them span N s0 of the unscaled time; steps = N / s0 span N of it."""
    dropout: float | None = None
    """Probability of dropping a unit of each sublayer's output and of the embedding, in training; when absent that of
    the model that a run begins with (`init`), else 0."""
    embedding_scale: float = 1.0
    """Factor on what is embedded."""
    tied: bool = True
    """Use the embedding matrix as the output head."""
    output_init: float = 0.0
    """Factor on the initial output projections of each sublayer; 0 means 1/N for shared, 1/sqrt(2N) for unshared."""
    attention: AttentionConfig = field(default_factory=AttentionConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)
    clock: ClockConfig = field(default_factory=ClockConfig)
    sphere: SphereConfig = field(default_factory=SphereConfig)

    def __post_init__(self) -> None:
        check_fields(self, "model")
        for name in ("width", "heads", "length", "steps", "groups", "inner_blocks"):
            at_least(f"model.{name}", getattr(self, name), 1)
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
            at_least(f"model.{name}", getattr(self, name), 0)
        # the square of larger ones leaves float32
        at_most("model.output_init", self.output_init, 1000)
        require(self.norm_epsilon > 0, f"model.norm_epsilon = {self.norm_epsilon}: must be positive")
        if self.dropout is not None:
            within("model.dropout", self.dropout, 0.0, 0.99)
        require(0.0 < self.step_size <= 1.0, f"model.step_size = {self.step_size}: must lie in (0, 1]")
        for name, plain in (("conditioning", "none"), ("step_size", 1.0)):
            value = getattr(self, name)
            require(
                self.sharing != "none" or value == plain,
                f'model.{name} = {value!r} with model.sharing = "none": it belongs to blocks that are applied again',
            )
        require(self.rotary_base > 0, f"model.rotary_base = {self.rotary_base}: must be positive")
        # below 1 the angles grow with i instead of falling, and overflow
        at_least("model.rotary_base", self.rotary_base, 1)
        require(
            self.attention.head_width > 0 or self.width % self.heads == 0,
            f"model.width = {self.width} is not divisible by model.heads = {self.heads}: choose a multiple of it, or "
            "set model.attention.head_width",
        )
        require(
            self.kv_heads == 0 or self.heads % self.kv_heads == 0,
            f"model.kv_heads = {self.kv_heads} does not divide model.heads = {self.heads}: choose a divisor, or 0",
        )
        require(
            self.positions != "rotary" or self.head_width % 2 == 0,
            f"model.width / model.heads = {self.head_width} is odd: rotary positions need an even head width",
        )
        require(self.embedding_scale > 0, f"model.embedding_scale = {self.embedding_scale}: must be positive")
        self._check_parts()
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
        check_size(self)

    def _check_parts(self) -> None:
        """Choices that stand or fall together."""
        rule, loop = self.norm_position, self.loop
        require(
            self.head in ("vocabulary", "classifier", "token_classifier") or self.kind == "masked",
            f'model.head = "{self.head}" with model.kind = "{self.kind}": an encoder reads both sides; set model.kind '
            '= "masked"',
        )
        for name, plain, heads in (
            ("problem_type", "single_label_classification", ("classifier",)),
            ("labels", (), ("classifier", "token_classifier")),
        ):
            value = getattr(self, name)
            require(
                self.head in heads or value == plain,
                f'model.{name} = {value!r} with model.head = "{self.head}": it belongs to "classifier"; leave it out',
            )
        require(
            len(set(self.labels)) == len(self.labels) and all(label.strip() == label != "" for label in self.labels),
            f"model.labels = {self.labels!r}: must be different names without white space around them",
        )
        require(
            len(self.labels) != 1 or self.problem_type != "single_label_classification",
            f"model.labels = {self.labels!r}: a choice of one label needs at least two of them",
        )
        require(
            (rule == "sphere") == (self.norm == "unit") == (self.attention.norm == "unit"),
            f'model.norm_position = "{rule}" with model.norm = "{self.norm}" and model.attention.norm = '
            f'"{self.attention.norm}": a model on the sphere has "sphere", "unit" and "unit", another one none of them',
        )
        require(
            rule != "sphere" or (self.bias == "none" and self.feed_forward == "swiglu"),
            f'model.bias = "{self.bias}", model.feed_forward = "{self.feed_forward}" with model.norm_position = '
            '"sphere": must be "none" and "swiglu"',
        )
        looped, any_sharing = self.sharing in ("full", "cycle"), ("exit_norm", "schedule")
        for one in fields(loop):
            value = getattr(loop, one.name)
            require(
                looped or one.name in any_sharing or value == one.default,
                f'model.loop.{one.name} = {value!r} with model.sharing = "{self.sharing}": a loop\'s rules belong to '
                '"full" or "cycle"; choose one of these, or leave it out',
            )
        require(
            not (self.inject_input and self.prelude and loop.injection != "none"),
            f'model.inject_input = true with model.loop.injection = "{loop.injection}" and a prelude: one adds the '
            "embedding, the other what the prelude makes of it; choose one of them",
        )
        require(
            loop.low_cycles == 0 or self.sharing == "full",
            f'model.loop.low_cycles = {loop.low_cycles} with model.sharing = "{self.sharing}": must be "full"',
        )
        require(
            rule != "post" or loop.boundary != "norm",
            'model.loop.boundary = "norm" with model.norm_position = "post": the state is normalised already; choose '
            '"none"',
        )
        require(
            not self.clock.per_pass or self.conditioning in ("step", "loopformer"),
            f'model.clock.per_pass = true with model.conditioning = "{self.conditioning}": it belongs to "step" and '
            '"loopformer", which are told h',
        )
        require(
            not self.clock.anchored or self.conditioning == "step",
            f'model.clock.anchored = true with model.conditioning = "{self.conditioning}": it belongs to "step", which '
            "is told h, and whose gates begin at 1",
        )
        for name in ("features", "width", "shared", "unit"):
            value = getattr(self.clock, name)
            require(
                self.conditioning != "none" or value == getattr(ClockConfig, name),
                f'model.clock.{name} = {str(value).lower()} with model.conditioning = "none": nothing is told t; '
                "choose a conditioning, or leave it out",
            )
        for name in ("size", "rate"):
            value = getattr(self.sphere, name)
            require(
                rule == "sphere" or value == getattr(SphereConfig, name),
                f'model.sphere.{name} = {value} with model.norm_position = "{rule}": it belongs to "sphere"; leave it '
                "out",
            )
        narrow = min(map(min, self.matrices))
        require(
            self.clock.rank == 0 or (self.conditioning != "none" and self.clock.rank <= narrow),
            f'model.clock.rank = {self.clock.rank} with model.conditioning = "{self.conditioning}": needs a '
            f"conditioning, and must be at most {narrow}, the narrowest of the matrices that it changes",
        )
        blocks = self.prelude + self.distinct_blocks + self.coda
        outside = [index for index in self.attention.full_layers if not 0 <= index < blocks]
        require(
            not outside,
            f"model.attention.full_layers holds {outside}: there are {blocks} blocks, counted from 0",
        )
        require(
            not self.attention.prefix or (self.kind == "causal" and self.token_types == 0),
            'model.attention.prefix = true: needs model.kind = "causal" and model.token_types = 0',
        )

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
    def has_one_loop(self) -> bool:
        """Whether it is one loop, of which a part can be left out or done again."""
        return self.sharing in ("full", "cycle")

    @property
    def group_sizes(self) -> tuple[int, ...]:
        """Steps of every group of "sequence", after resolving empty `group_steps`."""
        if self.group_steps:
            return tuple(int(part) for part in self.group_steps.split(","))
        return (self.steps // self.groups,) * self.groups

    @property
    def clock_width(self) -> int:
        """Of the code of t and h, after resolving 0: D."""
        return self.clock.width or self.width

    @property
    def head_width(self) -> int:
        """K after resolving 0: D / H."""
        return self.attention.head_width or self.width // self.heads

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
    def matrices(self) -> tuple[tuple[int, int], ...]:
        """Inputs and outputs of a block's: to queries, keys and values; from the heads; to the hidden units; back."""
        rows, hidden = self.heads * self.head_width, self.hidden_width
        fused = rows * (1 + self.attention.gate) + 2 * self.num_kv_heads * self.head_width
        inner = 2 * hidden if self.feed_forward == "swiglu" else hidden
        return (self.width, fused), (rows, self.width), (self.width, inner), (hidden, self.width)

    @property
    def distinct_blocks(self) -> int:
        """Blocks stored for the looped part."""
        groups = 2 if self.loop.low_cycles else self.groups
        return self.inner_blocks * (self.steps if self.sharing == "none" else groups)

    @property
    def ends_normalised(self) -> bool:
        """Whether what the head reads comes out of a norm already."""
        return self.norm_position == "post" or (self.loop.boundary == "norm" and self.coda == 0)

    @property
    def learns(self) -> Literal["causal", "masked", "encoder", "classifier", "token_classifier"]:
        """What a batch of text is for, as `jaxode.data.BatchSpec` takes it."""
        if self.head in ("classifier", "token_classifier"):
            return self.head
        return self.kind if self.head == "vocabulary" else "encoder"

    @property
    def labels_texts(self) -> bool:
        """Whether it learns from labels of texts or of their words."""
        return self.head in ("classifier", "token_classifier")

    @property
    def reads_places(self) -> bool:
        """Whether a token's place in its text says more than how far others are: a row padded left must not move."""
        learned = self.kind == "causal" and self.positions == "learned"
        return learned or self.attention.norm == "unit" or self.loop.start == "noise"

    @property
    def streams(self) -> int:
        """S: the state of the looped part is [B, L, S D]."""
        return 2 if self.loop.low_cycles else self.loop.streams

    @property
    def pass_blocks(self) -> tuple[int, ...]:
        """One pass of a group's field: which of its blocks are applied, in order."""
        inner = tuple(range(self.inner_blocks))
        if self.loop.low_cycles:
            return inner * self.loop.low_cycles + tuple(self.inner_blocks + index for index in inner)
        return tuple(range(self.inner_blocks * (self.groups if self.sharing == "cycle" else 1)))


@dataclass(frozen=True)
class DepthConfig:
    """How to integrate the looped part over depth. Static: one compilation a value."""

    steps: Steps | None = None
    """n, solver steps counted in block applications of a one-stage solver; None means the model's N."""
    solver: str = "auto"
    """auto: calibrated where the model holds a calibration for n steps and the schedule is even, else euler; or a name:
    euler | lie | heun | midpoint | rk4; ab2 | ab3 | secant (one evaluation a step, with memory); calibrated (the
    coefficients that were fitted for this number of steps); tsit5 | dopri5 (adaptive, for analysis)."""
    schedule: str = "auto"
    """auto: even, or what the model was made for (`model.loop.schedule`); even | unit (n steps of size 1: below N
    truncation, above N the loop run longer) | geometric:r (each step r times the last) | step sizes "1,2,4,5"."""
    start_seed: Seed = 0
    """Of the noise at which `model.loop.start = "noise"` begins; the same for every batch and number of devices."""
    start: Literal["model", "zeros"] = "model"
    """The state at t = 0: as `model.loop.start` says, or 0 in the place of noise."""
    adjoint: Literal["recursive", "remat", "nested", "unroll"] = "recursive"
    """Backward pass: recursive keeps one state a step and recomputes the block (Diffrax's own loop); remat also keeps
    q, k, v and the attention's result (a little more memory, less time); nested keeps every sqrt(n)-th state, so that
    memory hardly grows with depth, and runs the steps between two of them once more; unroll keeps everything. The last
    three allow every derivative; recursive neither forward mode alone (jax.jvp) nor reverse over reverse (jax.grad
    twice)."""
    tolerance: float = 1e-3
    """Relative and absolute tolerance of the adaptive solvers."""

    def __post_init__(self) -> None:
        # JAX's arrays, traced ones among them; config knows no jax
        require(
            not hasattr(self.steps, "aval"),
            "depth.steps is traced, or an array of JAX: steps are static, a compiled program each; give a whole number "
            "(see static_argnums of jax.jit); `solve_budgets` solves rows in different numbers of steps in one program",
        )
        check_fields(self, "depth")
        require(
            self.steps is None or self.steps >= 1,
            f"depth.steps = {self.steps}: must be at least 1 (None runs the model's full depth)",
        )
        at_least("depth.start_seed", self.start_seed, 0)
        require(self.tolerance > 0, f"depth.tolerance = {self.tolerance}: must be positive")
