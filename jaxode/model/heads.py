"""Heads: from the state x(N) to logits over the vocabulary or over classes."""

from __future__ import annotations

from typing import Literal

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxode.config import ModelConfig
from jaxode.model.embedding import Embedding
from jaxode.model.layers import ACTIVATIONS, StoredScale, make_norm, product
from jaxode.types import Logits, Segments, State

ProblemType = Literal["single_label_classification", "multi_label_classification", "regression"]
"""What a classifier's outputs are: a choice of one label (softmax), a question for each label (sigmoid), or numbers."""


class VocabularyHead(nnx.Module):
    """Final norm, then the vocabulary.

    causal: logits = norm(x) [W_E] T^T. masked: logits = norm(act(norm(x) W)) T^T + b (Devlin et al. 2019, appendix A).
    With a factorised embedding the first projection goes from D to E.
    """

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs, dtype: DTypeLike = jnp.float32):
        """T is the embedding's table where the head is tied, otherwise its own."""
        inner = config.embedding_width or config.width
        self.dtype = dtype
        self.activation = config.head_activation
        self.norm = None if config.ends_normalised else make_norm(config, config.width, rngs, config.final_norm)
        masked = config.kind == "masked"
        transform = masked or inner != config.width
        self.transform = nnx.Linear(config.width, inner, dtype=dtype, rngs=rngs) if transform else None
        self.inner_norm = make_norm(config, inner, rngs) if masked else None
        self.bias = nnx.Param(jnp.zeros(config.vocab_size)) if masked else None
        own = None if config.tied else nnx.Linear(inner, config.vocab_size, use_bias=False, dtype=dtype, rngs=rngs)
        self.own = own
        sphere = config.norm_position == "sphere"
        self.scale = StoredScale(config.vocab_size, 1.0, config.sphere.size) if sphere else None

    def __call__(self, x: State, embedding: Embedding) -> Logits:
        """Logits in float32."""
        rows = x.reshape(-1, x.shape[-1])
        if self.norm is not None:
            rows = self.norm(rows)
        if self.transform is not None:
            rows = self.transform(rows)
        if self.inner_norm is not None:
            rows = self.inner_norm(ACTIVATIONS[self.activation](rows))
        if self.own is None:
            logits = embedding.decode(rows, self.dtype)
        else:
            logits = product(rows.astype(self.dtype), self.own.kernel[...].astype(self.dtype))
        if self.scale is not None:
            logits = logits * self.scale()
        if self.bias is not None:
            logits = logits + self.bias[...]
        return logits.reshape(*x.shape[:-1], -1)


class PoolerHead(nnx.Module):
    """tanh(norm(pooled) W). The pooled position is place 0 (masked) or that of the last real token (causal).

    Real tokens are those with a segment above 0; without segments all are, and a row without any pools place 0. So a
    causal model reads the same padded left, right or not at all. A masked one reads place 0 whatever stands there:
    padded on the left that is padding, as elsewhere. Of several documents in a row, a causal model pools the last token
    of the last document, a masked one the first token of the first: one vector a row, none for the others.
    """

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs, dtype: DTypeLike = jnp.float32):
        """Pooler [D, D]."""
        self.first = config.kind == "masked"
        self.norm = None if config.ends_normalised else make_norm(config, config.width, rngs, config.final_norm)
        self.pooler = nnx.Linear(config.width, config.width, dtype=dtype, rngs=rngs)

    def pool(self, x: State, segments: Segments | None) -> Float[Array, "B D"]:
        """One vector a sequence, its entries within (-1, 1)."""
        if self.first:
            pooled = x[:, 0]
        elif segments is None:
            pooled = x[:, -1]
        else:
            last = jnp.max(jnp.where(segments > 0, jnp.arange(segments.shape[1]), 0), axis=1)
            pooled = jnp.take_along_axis(x, last[:, None, None], axis=1)[:, 0]
        if self.norm is not None:
            pooled = self.norm(pooled)
        return jnp.tanh(self.pooler(pooled))


class ClassifierHead(PoolerHead):
    """pool(x) W_c, with the pooled vector of `PoolerHead`."""

    def __init__(self, config: ModelConfig, classes: int, *, rngs: nnx.Rngs, dtype: DTypeLike = jnp.float32):
        """Pooler [D, D] and classifier [D, classes]."""
        super().__init__(config, rngs=rngs, dtype=dtype)
        self.classifier = nnx.Linear(config.width, classes, dtype=dtype, rngs=rngs)

    def __call__(self, x: State, segments: Segments | None) -> Float[Array, "B classes"]:
        """Class logits in float32."""
        return self.classifier(self.pool(x, segments)).astype(jnp.float32)


class TokenHead(nnx.Module):
    """norm(x) W_c at every token: labels of tokens, or with `spans` the logits of where a span begins and ends."""

    def __init__(
        self, config: ModelConfig, outputs: int, *, spans: bool, rngs: nnx.Rngs, dtype: DTypeLike = jnp.float32
    ):
        """W_c [D, outputs]."""
        self.norm = None if config.ends_normalised else make_norm(config, config.width, rngs, config.final_norm)
        linear = nnx.Linear(config.width, outputs, dtype=dtype, rngs=rngs)
        self.span = linear if spans else None
        self.classifier = None if spans else linear

    def __call__(self, x: State) -> Float[Array, "B L outputs"]:
        """Logits in float32."""
        rows = x.reshape(-1, x.shape[-1])
        if self.norm is not None:
            rows = self.norm(rows)
        linear = self.classifier if self.span is None else self.span
        assert linear is not None
        return linear(rows).astype(jnp.float32).reshape(*x.shape[:-1], -1)
