"""Token embedding, factorised where asked (Lan et al. 2020, section 3.1), with learned positions where asked."""

from __future__ import annotations

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxode.config import ModelConfig, require
from jaxode.model.layers import dropout
from jaxode.types import Key, State, Tokens


class Embedding(nnx.Module):
    """x(0) = (T[token] + P[position]) W, with T [V, E], P [L, E] and W [E, D] (absent when E = D)."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs, dtype: DTypeLike = jnp.float32):
        """Tables start at N(0, 0.02^2)."""
        require(
            config.vocab_size > 0, "model.vocab_size = 0: set it to the tokenizer's size (0 only means it in a run)"
        )
        self.limit = config.length if config.positions == "learned" else None
        self.rate = config.dropout
        init = nnx.initializers.normal(0.02)
        width = config.embedding_width or config.width
        self.tokens = nnx.Embed(config.vocab_size, width, embedding_init=init, rngs=rngs)
        self.positions = nnx.Embed(config.length, width, embedding_init=init, rngs=rngs) if self.limit else None
        self.project = nnx.Linear(width, config.width, dtype=dtype, rngs=rngs) if config.embedding_width else None

    def __call__(self, tokens: Tokens, *, key: Key | None = None) -> State:
        """Look up; the state is float32 whatever the compute type.

        Raises:
            UserError: a sequence longer than the learned positions.
        """
        length = tokens.shape[1]
        require(
            self.limit is None or length <= self.limit,
            f"sequence of {length} tokens: the learned positions end at model.length = {self.limit}; shorten it",
        )
        x = self.tokens(tokens)
        if self.positions is not None:
            x = x + self.positions(jnp.arange(length))[None]
        if self.project is not None:
            x = self.project(x.reshape(-1, x.shape[-1])).reshape(*tokens.shape, -1)
        return dropout(x.astype(jnp.float32), self.rate, key)

    def decode(self, x: Float[Array, "rows E"], dtype: DTypeLike) -> Float[Array, "rows V"]:
        """X T^T: the tied output head, in float32."""
        table = self.tokens.embedding[...].astype(dtype)
        return jnp.matmul(x.astype(dtype), table.T, preferred_element_type=jnp.float32)
