"""Whole models: embedding -> looped stack over depth -> head: language models, classifiers, encoders."""

from __future__ import annotations

from abc import abstractmethod
from functools import partial
from typing import Any, cast, get_args, no_type_check

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx, struct
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from jaxode.config import DepthConfig, ModelConfig, check_seed, require
from jaxode.depth import Coefficients, Trace
from jaxode.model import cost
from jaxode.model.block import Context
from jaxode.model.embedding import Embedding
from jaxode.model.heads import ClassifierHead, PoolerHead, ProblemType, TokenHead, VocabularyHead
from jaxode.model.layers import rotary_angles
from jaxode.model.room import check_memory
from jaxode.model.stack import Stack, StackOutput
from jaxode.types import Key, Logits, Mask, Segments, State, Tokens, TokenTypes

FULL_DEPTH = DepthConfig()


@no_type_check  # JAX rebuilds pytrees with leaves of any kind
@struct.dataclass
class ModelOutput:
    """What a forward pass returns.

    Attributes:
        logits: [B, L, V], or [B, classes] for a classifier, [B, L, classes] for one of tokens; float32.
        state: x(N), [B, L, D], before the head.
        block_evaluations: applications of a block that were made (an array for adaptive solvers).
        solver: the one that ran.
        trace: the looped part's trajectory, when asked for.
    """

    logits: Float[Array, " B *out"]
    state: State
    block_evaluations: Any
    solver: str = struct.field(pytree_node=False)
    trace: Trace | None = None


@no_type_check  # JAX rebuilds pytrees with leaves of any kind
@struct.dataclass
class EncoderOutput:
    """What a forward pass of an `Encoder` returns.

    Attributes:
        state: x(N), [B, L, D].
        pooled: [B, D], one vector a sequence; None for an encoder without a pooler.
        block_evaluations: applications of a block that were made (an array for adaptive solvers).
        solver: the one that ran.
        trace: the looped part's trajectory, when asked for.
    """

    state: State
    pooled: Float[Array, "B D"] | None
    block_evaluations: Any
    solver: str = struct.field(pytree_node=False)
    trace: Trace | None = None


class Transformer(nnx.Module):
    """Embedding and stack, shared by every whole model; `hidden` gives x(N)."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs, dtype: DTypeLike = jnp.float32):
        """`dtype` is the type of the matmuls; parameters and the state are float32."""
        check_memory(config)
        self.config = config
        self.calibrations: dict[int, Coefficients] = nnx.data({})
        """Coefficients of solver "calibrated", by number of steps; `Architecture.bind` fills it."""
        self.embedding = Embedding(config, rngs=rngs, dtype=dtype)
        self.stack = Stack(config, rngs=rngs, dtype=dtype)

    def hidden(
        self,
        tokens: Tokens,
        depth: DepthConfig = FULL_DEPTH,
        *,
        segments: Segments | None = None,
        token_types: TokenTypes | None = None,
        places: Int[Array, "B L"] | None = None,
        key: Key | None = None,
        coefficients: Coefficients | None = None,
        trace: bool = False,
    ) -> StackOutput:
        """x(N) for a batch of tokens.

        Args:
            tokens: ids below the vocabulary size.
            depth: solver, steps and schedule; static under `jax.jit`. Solver "auto" is what `resolve` says.
            segments: keeps attention within rows' documents (numbers from 1, 0 is padding); None: everything is seen.
                With one document a row this is a padding mask: 1 for a real token, 0 for one that no query looks at.
            token_types: the kind of each token, for a model with `token_types`; None: all of kind 0.
            places: of the tokens in their sequences, where several stand in a row; None: `start` says.
            key: turns dropout on.
            coefficients: of solver "calibrated" (or "auto", which then is), in place of those in `calibrations`; may be
                traced and differentiated.
            trace: also return the trajectory.
        """
        x0, context = self.start(tokens, segments=segments, token_types=token_types, key=key, places=places)
        if coefficients is None:
            depth = self.resolve(depth)
            coefficients = self.coefficients(depth)
        return self.stack(x0, depth, context, coefficients=coefficients, trace=trace)

    def start(
        self,
        tokens: Tokens,
        *,
        segments: Segments | None = None,
        token_types: TokenTypes | None = None,
        key: Key | None = None,
        places: Int[Array, "B L"] | None = None,
    ) -> tuple[State, Context]:
        """The embedded tokens, and what the blocks read besides the state; arguments as for `hidden`.

        `places` of the tokens in their sequences, where those do not begin at 0. Of a row that is padded on the left
        they are counted from its first real token, so that it is read as it is alone.
        """
        if places is None and segments is not None and self.config.reads_places:
            places = text_places(segments)
        embed_key, block_key = (None, None) if key is None else jax.random.split(key)
        prefix = self.config.attention.prefix
        x0 = self.embedding(tokens, None if prefix else token_types, places=places, key=embed_key)
        mask = None if segments is None else document_mask(segments, causal=self.config.kind == "causal")
        options, rotary, far = self.config.attention, None, None
        if options.prefix:
            seen = prefix_mask(jnp.zeros_like(tokens) if token_types is None else token_types)
            mask = seen if mask is None else mask & seen
        if self.config.positions == "rotary":
            turn = partial(
                rotary_angles,
                tokens.shape[1] if places is None else places,
                self.config.head_width,
                rounded=options.rotary_rounded,
                scaling=options.rotary_scaling,
            )
            rotary = turn(self.config.rotary_base)
            far = turn(options.full_rotary_base) if options.full_rotary_base else None
        return x0, Context(
            mask=mask,
            rotary=rotary,
            x0=x0 if self.config.inject_input else None,
            key=block_key,
            far=far,
            places=places,
        )

    def resolve(self, depth: DepthConfig = FULL_DEPTH) -> DepthConfig:
        """The same depth with its solver named.

        "auto" is "calibrated" where this model holds a calibration for as many steps and the schedule is even, else
        "euler".

        Raises:
            UserError: an unknown solver.
        """
        return cost.resolve(self.config, depth, self.calibrations)

    def coefficients(self, depth: DepthConfig) -> Coefficients | None:
        """Those of `calibrations` that solver "calibrated" takes at this depth; None for another solver.

        Raises:
            UserError: the model is not calibrated for this number of steps.
        """
        depth = self.resolve(depth)
        if depth.solver != "calibrated":
            return None
        steps = self.config.steps if depth.steps is None else depth.steps
        require(
            steps in self.calibrations,
            f'depth.solver = "calibrated" with depth.steps = {steps}: this model is calibrated for '
            f"{', '.join(map(str, self.calibrations)) or 'no number of steps'}; calibrate it for {steps} first",
        )
        return self.calibrations[steps]

    @property
    def matmul_type(self) -> np.dtype:
        """Of the matmuls, and so of the keys and values that tokens leave behind."""
        return jnp.dtype(self.stack.looped[0].attention.qkv.dtype)

    def _share_norm(self, norm: Any) -> None:
        """Give the stack the head's norm, where the coda begins with it."""
        if self.config.loop.exit_norm:
            require(norm is not None, "model.loop.exit_norm = true: this model has no final norm; leave it out")
            self.stack.exit_norm = nnx.data(norm)

    @property
    def num_parameters(self) -> int:
        """Stored parameters: a shared block counts once."""
        return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(nnx.state(self, nnx.Param)))

    def flops_per_token(self, depth: DepthConfig = FULL_DEPTH, length: int | None = None) -> int:
        """Forward floating-point operations per token at this depth."""
        return cost.flops_per_token(self.config, depth, length).total

    def block_evaluations(self, depth: DepthConfig = FULL_DEPTH) -> int:
        """Applications of a block in one forward pass at this depth."""
        return cost.block_evaluations(self.config, depth)


class Predictor(Transformer):
    """A transformer with a head that predicts."""

    def __call__(
        self,
        tokens: Tokens,
        depth: DepthConfig = FULL_DEPTH,
        *,
        segments: Segments | None = None,
        token_types: TokenTypes | None = None,
        places: Int[Array, "B L"] | None = None,
        key: Key | None = None,
        coefficients: Coefficients | None = None,
        trace: bool = False,
    ) -> ModelOutput:
        """Logits for a batch of tokens, [B, L, V], [B, classes] or [B, L, classes]; arguments as for `hidden`."""
        out = self.hidden(
            tokens,
            depth,
            segments=segments,
            token_types=token_types,
            places=places,
            key=key,
            coefficients=coefficients,
            trace=trace,
        )
        logits = self.read_out(out.state, segments)
        return ModelOutput(logits, out.state, out.block_evaluations, out.solver, out.trace)

    @abstractmethod
    def read_out(self, state: State, segments: Segments | None = None) -> Array:
        """Logits of a state after the coda."""


class LanguageModel(Predictor):
    """A transformer with a head over the vocabulary."""

    kind: str

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs, dtype: DTypeLike = jnp.float32):
        """Build with fresh parameters; `make_model` picks the class from the configuration."""
        require(
            config.kind == self.kind,
            f'model.kind = "{config.kind}": {type(self).__name__} needs "{self.kind}" (make_model picks the class)',
        )
        super().__init__(config, rngs=rngs, dtype=dtype)
        self.head = VocabularyHead(config, rngs=rngs, dtype=dtype)
        self._share_norm(self.head.norm)

    def read_out(self, state: State, segments: Segments | None = None) -> Logits:
        """Logits of a state after the coda; every position reads its own, so `segments` change nothing."""
        return self.head(state, self.embedding)


class CausalLM(LanguageModel):
    """GPT-like decoder: position l predicts token l + 1 from tokens 0 .. l."""

    kind = "causal"


class MaskedLM(LanguageModel):
    """BERT-like encoder: predicts the tokens under the mask from both sides."""

    kind = "masked"


class SequenceClassifier(Predictor):
    """`classes` outputs a sequence; `problem_type` says what they are, and so how logits are read."""

    def __init__(
        self,
        config: ModelConfig,
        classes: int,
        *,
        problem_type: str = "single_label_classification",
        rngs: nnx.Rngs,
        dtype: DTypeLike = jnp.float32,
    ):
        """`classes` labels or numbers, by `problem_type` (a `ProblemType`), on either kind of transformer."""
        allowed = get_args(ProblemType)
        require(problem_type in allowed, f'problem_type = "{problem_type}": allowed are {", ".join(allowed)}')
        require(
            classes >= 2 or problem_type != "single_label_classification",
            f"classes = {classes}: a classifier needs at least 2; for one output choose problem_type = "
            '"regression" (a number) or "multi_label_classification" (yes or no)',
        )
        require(classes >= 1, f"classes = {classes}: must be at least 1")
        super().__init__(config, rngs=rngs, dtype=dtype)
        self.problem_type: ProblemType = cast(ProblemType, problem_type)
        self.head = ClassifierHead(config, classes, rngs=rngs, dtype=dtype)
        self._share_norm(self.head.norm)

    def read_out(self, state: State, segments: Segments | None = None) -> Float[Array, "B classes"]:
        """Class logits of a state after the coda."""
        return self.head(state, segments)


class TokenClassifier(Predictor):
    """`classes` logits a token; or with `spans` two, of where the answer to a question begins and ends."""

    def __init__(
        self,
        config: ModelConfig,
        classes: int,
        *,
        spans: bool = False,
        rngs: nnx.Rngs,
        dtype: DTypeLike = jnp.float32,
    ):
        """`classes` labels of every token; 2 with `spans`."""
        require(
            classes >= 2 and (not spans or classes == 2),
            f"classes = {classes}, spans = {spans}: a token classifier needs at least 2, a finder of spans just 2",
        )
        super().__init__(config, rngs=rngs, dtype=dtype)
        self.spans = spans
        self.head = TokenHead(config, classes, spans=spans, rngs=rngs, dtype=dtype)
        self._share_norm(self.head.norm)

    def read_out(self, state: State, segments: Segments | None = None) -> Float[Array, "B L classes"]:
        """Logits of a state after the coda; every position reads its own, so `segments` change nothing."""
        return self.head(state)


class Encoder(Transformer):
    """States and, where asked for, a pooled vector: a transformer without a task."""

    def __init__(self, config: ModelConfig, *, pooler: bool = True, rngs: nnx.Rngs, dtype: DTypeLike = jnp.float32):
        """Without `pooler` there is no pooled vector."""
        super().__init__(config, rngs=rngs, dtype=dtype)
        self.head = PoolerHead(config, rngs=rngs, dtype=dtype) if pooler else None
        self._share_norm(None if self.head is None else self.head.norm)

    def __call__(
        self,
        tokens: Tokens,
        depth: DepthConfig = FULL_DEPTH,
        *,
        segments: Segments | None = None,
        token_types: TokenTypes | None = None,
        places: Int[Array, "B L"] | None = None,
        key: Key | None = None,
        coefficients: Coefficients | None = None,
        trace: bool = False,
    ) -> EncoderOutput:
        """States and pooled vector; arguments as for `hidden`."""
        out = self.hidden(
            tokens,
            depth,
            segments=segments,
            token_types=token_types,
            places=places,
            key=key,
            coefficients=coefficients,
            trace=trace,
        )
        pooled = None if self.head is None else self.head.pool(out.state, segments)
        return EncoderOutput(out.state, pooled, out.block_evaluations, out.solver, out.trace)

    def read_out(self, state: State, segments: Segments | None = None) -> Array:
        """The pooled vector of a state after the coda; without a pooler, the state itself."""
        return state if self.head is None else self.head.pool(state, segments)


def make_model(
    config: ModelConfig, *, seed: int = 0, dtype: DTypeLike = jnp.float32
) -> CausalLM | MaskedLM | Encoder | SequenceClassifier | TokenClassifier:
    """The language model of `config.kind`, or with another `config.head` the encoder or classifier, with fresh
    parameters.

    Raises:
        UserError: a model that does not fit into memory, or a seed outside [0, 2^32 - 1].
    """
    rngs = nnx.Rngs(check_seed(seed))
    if config.head == "classifier":
        problem = config.problem_type
        return SequenceClassifier(config, len(config.labels), problem_type=problem, rngs=rngs, dtype=dtype)
    if config.head == "token_classifier":
        return TokenClassifier(config, len(config.labels), rngs=rngs, dtype=dtype)
    if config.head != "vocabulary":
        return Encoder(config, pooler=config.head == "pooler", rngs=rngs, dtype=dtype)
    return (CausalLM if config.kind == "causal" else MaskedLM)(config, rngs=rngs, dtype=dtype)


def normalised(model: Transformer, state: State) -> State:
    """A state after the coda as its head reads it: behind the final norm, where there is one."""
    norm = getattr(getattr(model, "head", None), "norm", None)
    return state if norm is None else norm(state).astype(state.dtype)


def prefix_mask(token_types: TokenTypes) -> Mask:
    """True where a query may look at a key: at every earlier one, and within the tokens of type 1 both ways."""
    place, first = jnp.arange(token_types.shape[1]), token_types == 1
    return ((place[:, None] >= place) | (first[:, :, None] & first[:, None, :]))[:, None]


def text_places(segments: Segments) -> Int[Array, "B L"]:
    """Places of tokens in their texts, which begin behind what pads a row on the left; padding there is at 0."""
    first = jnp.argmax(segments > 0, axis=1)
    return jnp.maximum(jnp.arange(segments.shape[1]) - first[:, None], 0)


def document_mask(segments: Segments, causal: bool) -> Mask:
    """True where query and key lie in the same document; no query of a document sees padding (0).

    A padding query of a causal model sees the padding, which forms a document of its own; that of a masked model reads
    the row's last document, so that with one document a row every query reads exactly the real tokens, as BERT-like
    models are run elsewhere. Either way every query sees something.
    """
    own = segments
    if not causal:
        own = jnp.where(segments > 0, segments, jnp.max(segments, axis=1, keepdims=True))
    return (own[:, :, None] == segments[:, None, :])[:, None]
