"""Token embedding, factorised where asked (Lan et al. 2020, section 3.1), with what else the configuration asks for."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from jaxode.config import ModelConfig, require
from jaxode.model.layers import dropout, make_norm, product
from jaxode.types import Key, State, Tokens, TokenTypes


class Embedding(nnx.Module):
    """x(0) = norm(T[token] + P[position] + S[type]) W, with T [V, E], P [L, E], S [types, E] and W [E, D].

    Each part but T is there where the configuration asks for it: without `embedding_width`, E = D and there is no W.
    """

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs, dtype: DTypeLike = jnp.float32):
        """Tables start at N(0, 0.02^2)."""
        require(
            config.vocab_size > 0, "model.vocab_size = 0: set it to the tokenizer's size (0 only means it in a run)"
        )
        self.limit = config.length if config.positions == "learned" else None
        self.rate, self.scale = config.dropout or 0.0, config.embedding_scale
        init = nnx.initializers.normal(0.02)
        width = config.embedding_width or config.width
        self.tokens = nnx.Embed(config.vocab_size, width, embedding_init=init, rngs=rngs)
        self.positions = nnx.Embed(config.length, width, embedding_init=init, rngs=rngs) if self.limit else None
        self.types = (
            nnx.Embed(config.token_types, width, embedding_init=init, rngs=rngs) if config.token_types else None
        )
        self.norm = make_norm(config, width, rngs) if config.embedding_norm else None
        self.project = nnx.Linear(width, config.width, dtype=dtype, rngs=rngs) if config.embedding_width else None
        self.output: Any = nnx.data(None)
        """T in the type of the matmuls, where `round_weights` has put it."""

    def __call__(
        self,
        tokens: Tokens,
        token_types: TokenTypes | None = None,
        *,
        places: Int[Array, "B L"] | None = None,
        key: Key | None = None,
    ) -> State:
        """Look up; the state is float32 whatever the compute type. Without `token_types` every token is of type 0.

        `places` in their sequences, of tokens that do not begin at 0; those beyond learned positions read the last.

        Raises:
            UserError: a sequence longer than the learned positions, or types for a model that has none.
        """
        length = tokens.shape[1]
        require(
            self.limit is None or length <= self.limit,
            f"sequence of {length} tokens: the learned positions end at model.length = {self.limit}; shorten it",
        )
        require(
            token_types is None or self.types is not None,
            "token_types were given, but model.token_types = 0: this model has no table for them; leave them out",
        )
        x = _vectors(self.tokens, tokens)
        if self.types is not None:
            x = x + _vectors(self.types, jnp.zeros_like(tokens) if token_types is None else token_types)
        if self.positions is not None and self.limit is not None:
            at = jnp.arange(length)[None] if places is None else jnp.minimum(places, self.limit - 1)
            x = x + _vectors(self.positions, at)
        if self.norm is not None:
            x = self.norm(x)
        if self.project is not None:
            x = self.project(x.reshape(-1, x.shape[-1])).reshape(*tokens.shape, -1)
        x = x.astype(jnp.float32)
        return dropout(x if self.scale == 1.0 else x * self.scale, self.rate, key)

    def decode(self, x: Float[Array, "rows E"], dtype: DTypeLike) -> Float[Array, "rows V"]:
        """X T^T: the tied output head, in float32."""
        table = self.tokens.embedding[...].astype(dtype) if self.output is None else self.output
        return product(x.astype(dtype), table.T)


def _vectors(table: nnx.Embed, ids: Int[Array, "*B L"]) -> Float[Array, "*B L E"]:
    """Rows of a table in float32, so that their sum is not rounded; Flax would first cast the table, all of it."""
    if table.num_embeddings == 1:  # as Flax has it: every id means the one row
        ids = jnp.zeros_like(ids)
    return jnp.take(table.embedding[...], ids, axis=0).astype(jnp.float32)
