"""Norms, products and the feed-forward on a flattened stream: matmuls are 2-D, [B L, D], which XLA runs about twice as
fast.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxode.config import ModelConfig
from jaxode.model.adapters import Adapters, LowRank, merged_product
from jaxode.model.tensor_parallel import Fused, collect, deal
from jaxode.types import Key, State

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
    "tanh": jnp.tanh,
}


class Unit(nnx.Module):
    """U(x) = x / sqrt(sum x^2 + eps), onto the unit sphere (Loshchilov et al. 2024, nGPT), in float32."""

    def __init__(self, epsilon: float):
        """Without parameters."""
        self.epsilon = epsilon

    def __call__(self, x: Array) -> Array:
        """Along the last axis."""
        x = x.astype(jnp.float32)
        return x * jax.lax.rsqrt(jnp.sum(jnp.square(x), axis=-1, keepdims=True) + self.epsilon)


AnyNorm = nnx.LayerNorm | nnx.RMSNorm | Unit


def make_norm(config: ModelConfig, width: int, rngs: nnx.Rngs, kind: str = "same") -> AnyNorm:
    """A norm in float32 whatever the compute type: Flax would round the state before it is centred."""
    kind = config.norm if kind == "same" else kind
    if kind == "unit":
        return Unit(config.norm_epsilon)
    if kind == "layer":
        return nnx.LayerNorm(width, epsilon=config.norm_epsilon, dtype=jnp.float32, rngs=rngs)
    weight = kind == "rms"
    return nnx.RMSNorm(width, epsilon=config.norm_epsilon, dtype=jnp.float32, use_scale=weight, rngs=rngs)


class StoredScale(nnx.Module):
    """A learned scale a channel that is stored small, so that it learns as fast as a weight (nGPT, section 2.5)."""

    def __init__(self, width: int, initial: float, size: float):
        """Of value `initial`, stored as `size`."""
        self.stored = nnx.Param(jnp.full(width, size))
        self.factor = initial / size

    def __call__(self) -> Float[Array, " width"]:
        """Its value, in float32."""
        return self.stored[...].astype(jnp.float32) * self.factor


def product(x: Float[Array, "rows E"], table: Float[Array, "E V"]) -> Float[Array, "rows V"]:
    """X T in float32: what 16-bit factors add up to is not rounded, but its gradient is, before it meets them again."""
    return jnp.matmul(x, table) if x.dtype == jnp.float32 else _wide_product(x, table)


@jax.custom_jvp
def _wide_product(x: Array, table: Array) -> Array:
    return jnp.matmul(x, table, preferred_element_type=jnp.float32)


@_wide_product.defjvp
def _wide_product_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
    # JAX's own derivative multiplies in float32, at half the speed of 16 bits or less: two thirds of a head's work
    (x, table), (x_dot, table_dot) = primals, tangents
    tangent = jnp.matmul(x_dot, table) + jnp.matmul(x, table_dot)
    return _wide_product(x, table), tangent.astype(jnp.float32)


def output_scale(config: ModelConfig) -> float:
    """Factor on the initial output projections.

    The updates of a shared block are the same function, so they add up along depth like N, not like sqrt(N):
    1/N where blocks are shared, 1/sqrt(2 N) (Radford et al. 2019, section 2.3) where they are not.
    """
    if config.output_init:
        return config.output_init
    return (2 * config.steps) ** -0.5 if config.sharing == "none" else 1.0 / config.steps


def output_initializer(config: ModelConfig) -> nnx.Initializer:
    """Of a projection that ends a branch, at `output_scale`."""
    return nnx.initializers.variance_scaling(output_scale(config) ** 2, "fan_in", "truncated_normal")


class FeedForward(Fused):
    """act(x W1) W2, or (silu(x W1a) * x W1b) W2 for swiglu (Shazeer 2020)."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs, dtype: DTypeLike):
        """Projections [D, F] (twice F for swiglu, fused) and [F, D]."""
        self.kind = config.feed_forward
        hidden, bias = config.hidden_width, config.bias == "all"
        self.sizes = (hidden, hidden) if self.kind == "swiglu" else (hidden,)
        self.groups, inner = 1, sum(self.sizes)
        self.inner = nnx.Linear(config.width, inner, use_bias=bias, dtype=dtype, rngs=rngs)
        init = output_initializer(config)
        self.output = nnx.Linear(hidden, config.width, kernel_init=init, use_bias=bias, dtype=dtype, rngs=rngs)
        sphere = config.norm_position == "sphere"
        self.inner_scale = nnx.Param(jnp.ones(inner)) if sphere else None
        self.factor = config.width**0.5
        self.output_norm = Unit(config.norm_epsilon) if sphere else None

    @property
    def fused(self) -> nnx.Linear:
        """To hidden units, and what gates them."""
        return self.inner

    def __call__(
        self, x: State, *, gain: Float[Array, "*B F"] | None = None, adapters: Adapters | None = None
    ) -> State:
        """Position by position; `gain` scales the hidden units, for all rows or by row; `adapters` change both."""
        change = None if adapters is None else adapters.inner
        hidden = adapted(self.inner, x.reshape(-1, x.shape[-1]), change, self.sizes, self.groups)
        if self.inner_scale is not None:
            scale = deal(self.inner_scale[...], self.sizes, self.groups)
            hidden = (hidden * (scale * self.factor)).astype(hidden.dtype)
        if self.kind == "swiglu":
            gate, value = collect(hidden, self.sizes, self.groups)
            hidden = jax.nn.silu(gate) * value
        else:
            hidden = ACTIVATIONS[self.kind](hidden)
        hidden = scaled(hidden, gain)
        if self.output_norm is not None:
            hidden = self.output_norm(hidden)
        return adapted(self.output, hidden, None if adapters is None else adapters.outer).reshape(x.shape)


def adapted(
    linear: nnx.Linear,
    rows: Float[Array, "rows E"],
    change: LowRank | None,
    sizes: Sequence[int] = (),
    groups: int = 1,
) -> Float[Array, "rows F"]:
    """A linear layer with a low-rank change, whose columns are dealt out as those of a fused matrix are."""
    kernel = linear.kernel[...]
    if change is not None and kernel.dtype == linear.dtype == jnp.float32 and change.merges(rows):
        up = deal(jnp.asarray(change.up), sizes, groups)
        out = merged_product(rows, kernel, jnp.asarray(change.down), up)
        return out if linear.bias is None else out + linear.bias[...]
    out = linear(rows)
    return out if change is None else out + deal(change(rows.astype(out.dtype)), sizes, groups)


def scaled(features: Float[Array, "rows F"], gain: Float[Array, "*B F"] | None) -> Float[Array, "rows F"]:
    """Features times their gain, of all rows or by row of the batch."""
    if gain is None:
        return features
    gain = gain.astype(features.dtype)
    if gain.ndim == 1:
        return features * gain
    return (features.reshape(len(gain), -1, features.shape[-1]) * gain[:, None]).reshape(features.shape)


def dropout(x: Array, rate: float, key: Key | None) -> Array:
    """Zero a unit with probability `rate` and rescale the rest; the identity without a key (at inference)."""
    if key is None or rate == 0.0:
        return x
    return jnp.where(jax.random.bernoulli(key, 1 - rate, x.shape), x / (1 - rate), 0.0)
