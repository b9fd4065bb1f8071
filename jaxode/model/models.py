"""Whole models, a transformer and a head each: language models, classifiers, encoders."""

from __future__ import annotations

from abc import abstractmethod
from typing import cast, get_args

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from jaxode.config import DepthConfig, ModelConfig, check_seed, require
from jaxode.depth import Coefficients
from jaxode.model.heads import ClassifierHead, PoolerHead, ProblemType, TokenHead, VocabularyHead
from jaxode.model.outputs import EncoderOutput, ModelOutput
from jaxode.model.transformer import FULL_DEPTH, Transformer
from jaxode.types import Key, Logits, Segments, State, Tokens, TokenTypes


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
