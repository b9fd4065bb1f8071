"""Attention and feed-forward on a flattened stream: matmuls are 2-D, [B L, D], which XLA runs about twice as fast."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, no_type_check

import jax
import jax.numpy as jnp
from flax import nnx, struct
from jax.ad_checkpoint import checkpoint_name
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from jaxode.config import ModelConfig
from jaxode.depth import KEPT
from jaxode.model.adapters import Adapters, LowRank, merged_product
from jaxode.model.kernels import attention_kernel, capability
from jaxode.model.tensor_parallel import Fused, collect, deal
from jaxode.types import Key, Mask, State

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
    "tanh": jnp.tanh,
}


@no_type_check  # JAX rebuilds pytrees with leaves of any kind
@struct.dataclass
class Rotary:
    """cos and sin of the rotation angles of each position and channel pair, for all rows or by row."""

    cos: Float[Array, "*B L half_K"]
    sin: Float[Array, "*B L half_K"]


def rotary_angles(
    places: int | Int[Array, "*B L"],
    head_width: int,
    base: float,
    *,
    rounded: bool = False,
    scaling: tuple[float, ...] = (),
) -> Rotary:
    """angle(l, i) = l · base^(-2 i / K) at places l, or at the first so many (Su et al. 2021, section 3.2.2).

    Args:
        places: of tokens in their texts, or how many there are.
        head_width: K.
        base: of the frequencies.
        rounded: round the frequencies to bfloat16.
        scaling: see `stretched`; empty for none.
    """
    places = jnp.arange(places) if isinstance(places, int) else places
    frequency = base ** (-jnp.arange(0, head_width, 2, dtype=jnp.float32) / head_width)
    frequency = stretched(frequency, *scaling) if scaling else frequency
    if rounded:
        frequency = frequency.astype(jnp.bfloat16).astype(jnp.float32)
    angle = places.astype(jnp.float32)[..., None] * frequency
    return Rotary(cos=jnp.cos(angle), sin=jnp.sin(angle))


def stretched(
    frequency: Float[Array, " half_K"], factor: float, low: float, high: float, length: float
) -> Float[Array, " half_K"]:
    """Frequencies for longer texts: waves longer than `length` / `low` turn `factor` times slower, those shorter than
    `length` / `high` as before, those between partly (Llama 3.1, its released configuration).
    """
    turns = length * frequency / (2 * jnp.pi)
    kept = jnp.clip((turns - low) / (high - low), 0.0, 1.0)
    return kept * frequency + (1 - kept) * frequency / factor


def rotate(x: Float[Array, "B L heads K"], rotary: Rotary, pairs: str = "halves") -> Float[Array, "B L heads K"]:
    """Rotate channel i together with channel i + K/2 of every head, or 2i with 2i + 1, by its position's angle."""
    cos, sin = (jnp.expand_dims(part, -2).astype(x.dtype) for part in (rotary.cos, rotary.sin))
    if pairs == "neighbours":
        first, second = x[..., 0::2], x[..., 1::2]
        turned = jnp.stack([first * cos - second * sin, second * cos + first * sin], axis=-1)
        return turned.reshape(x.shape)
    first, second = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


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


def _output_init(config: ModelConfig) -> nnx.Initializer:
    return nnx.initializers.variance_scaling(output_scale(config) ** 2, "fan_in", "truncated_normal")


def attend(
    q: Float[Array, "B L H K"],
    k: Float[Array, "B M kv_heads K"],
    v: Float[Array, "B M kv_heads K"],
    *,
    mask: Bool[Array, "#B 1 L M"] | None = None,
    causal: bool = False,
    window: int = 0,
) -> Float[Array, "B L H K"]:
    """Softmax(q k^T / sqrt(K)) v, the softmax in float32; query heads share key/value heads in equal groups.

    With a `window` a query reads so many keys at most, up to its own place.

    Written out because the weights are normalised after the product with v, on [L, K] instead of [L, M] numbers; or
    cuDNN's kernel, where `attention_kernel` says so, which does not write the [L, M] scores to memory. A mask stays a
    mask there, read once a head: documents and padding are numbers of the batch, so no shape says that a row is one
    text with its padding last, which is all that cuDNN could be told by lengths instead.
    """
    batch, length, heads, width = q.shape
    if window and window < k.shape[1]:
        place = jnp.arange(k.shape[1])
        near = (place[k.shape[1] - length :, None] - place < window)[None, None]
        mask = near if mask is None else mask & near
    if attention_kernel(q, k, masked=mask is not None, causal=causal, capability=capability()) == "cudnn":
        # marking this as kept would not spare the kernel: see KEPT_KERNEL
        return jax.nn.dot_product_attention(q, k, v, mask=mask, is_causal=causal, implementation="cudnn")
    keys, groups = k.shape[1], k.shape[2]
    q = (q * width**-0.5).reshape(batch, length, groups, heads // groups, width)
    scores = jnp.einsum("blgrk,bmgk->bgrlm", q, k, preferred_element_type=jnp.float32)
    if causal:
        visible = jnp.tril(jnp.ones((length, keys), bool), keys - length)
        mask = visible if mask is None else jnp.logical_and(mask, visible)
    if mask is not None:
        scores = jnp.where(mask if mask.ndim == 2 else mask[:, :, None], scores, -1e30)
    weights = jnp.exp(scores - jax.lax.stop_gradient(jnp.max(scores, axis=-1, keepdims=True)))
    total = jnp.sum(weights, axis=-1, keepdims=True)
    out = jnp.einsum("bgrlm,bmgk->bgrlk", weights.astype(v.dtype), v) / total.astype(v.dtype)
    return checkpoint_name(out.transpose(0, 3, 1, 2, 4).reshape(batch, length, heads, width), KEPT)


def attend_heads_first(
    q: Float[Array, "B L H K"],
    keys: Float[Array, "B_kv_heads M K"],
    values: Float[Array, "B_kv_heads M K"],
    mask: Bool[Array, "B 1 L M"],
) -> Float[Array, "B L H K"]:
    """As `attend`, over keys and values with rows times heads first, which it reads as they lie."""
    batch, length, heads, width = q.shape
    rows, tokens = keys.shape[:2]
    repeats = batch * heads // rows
    q = (q * width**-0.5).reshape(batch, length, rows // batch, repeats, width).transpose(0, 2, 3, 1, 4)
    scores = jnp.einsum(
        "bqk,bmk->bqm", q.reshape(rows, repeats * length, width), keys, preferred_element_type=jnp.float32
    )
    scores = jnp.where(mask, scores.reshape(batch, heads, length, tokens), -1e30)
    weights = jnp.exp(scores - jnp.max(scores, axis=-1, keepdims=True)).reshape(rows, repeats * length, tokens)
    out = jnp.einsum("bqm,bmk->bqk", weights.astype(values.dtype), values)
    out = out / jnp.sum(weights, axis=-1, keepdims=True).astype(out.dtype)
    return out.reshape(batch, heads, length, width).transpose(0, 2, 1, 3)


class Attention(Fused):
    """Multi-head self-attention with grouped key/value heads; q, k, v and the gate come from one fused matmul."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs, dtype: DTypeLike, full: bool = False):
        """Projections [D, (H + 2 H_kv) K], H K more columns for a gate, and [H K, D]. A `full` one has no window."""
        options = config.attention
        self.heads, self.kv_heads, self.head_width = config.heads, config.num_kv_heads, config.head_width
        # with a prefix the mask says everything
        self.causal = config.kind == "causal" and not options.prefix
        self.window = 0 if full else options.window
        self.pairs = options.rotary_pairs
        rows, bias = self.heads * self.head_width, config.bias == "all"
        self.sizes = (rows, self.kv_heads * self.head_width, self.kv_heads * self.head_width) + (rows,) * options.gate
        self.groups = 1
        self.qkv = nnx.Linear(config.width, sum(self.sizes), use_bias=bias, dtype=dtype, rngs=rngs)
        init = _output_init(config)
        self.output = nnx.Linear(rows, config.width, kernel_init=init, use_bias=bias, dtype=dtype, rngs=rngs)
        turned = (self.heads + self.kv_heads) * self.head_width
        self.query_key_bias = nnx.Param(jnp.zeros(turned)) if config.bias == "query_key" else None
        whole, unit = options.norm == "whole", options.norm == "unit"
        self.query_norm = make_norm(config, rows, rngs) if whole else Unit(config.norm_epsilon) if unit else None
        self.key_norm = make_norm(config, self.sizes[1], rngs) if whole else Unit(config.norm_epsilon) if unit else None
        # queries of unit length keep their sharpness in a scale of their own
        size, sphere = config.sphere.size, config.norm_position == "sphere"
        self.query_scale = StoredScale(rows, self.head_width**0.5, size) if unit else None
        self.gate_scale = StoredScale(rows, config.width**0.25, size) if sphere and options.gate else None
        self.output_norm = Unit(config.norm_epsilon) if sphere else None

    @property
    def fused(self) -> nnx.Linear:
        """To queries, keys and values."""
        return self.qkv

    def __call__(
        self,
        x: State,
        *,
        mask: Mask | None,
        rotary: Rotary | None,
        gain: Float[Array, "*B HK"] | None = None,
        adapters: Adapters | None = None,
        memory: Any = None,
    ) -> State:
        """Softmax(q k / sqrt(K)) v, the softmax in float32; `gain` scales the heads, for all rows or by row.

        `adapters` change the projections.

        With a `Memory` (jaxode.model.memory) the queries also read what earlier tokens left there.
        """
        batch, length, width = x.shape
        change = None if adapters is None else adapters.qkv
        fused = _adapted(self.qkv, x.reshape(batch * length, width), change, self.sizes, self.groups)
        fused = checkpoint_name(fused, KEPT)
        q, k, v, gate = self._parts(fused, batch, length)
        if rotary is not None:
            q, k = rotate(q, rotary, self.pairs), rotate(k, rotary, self.pairs)
        if self.query_scale is not None:
            scale = jnp.square(self.query_scale()).reshape(self.heads, self.head_width)
            q = (q * scale).astype(v.dtype)
        read = attend if memory is None else memory.attend
        options = {"window": self.window} if self.window else {}
        out = read(q, k, v, mask=mask, causal=self.causal, **options)
        out = _scaled(out.reshape(batch * length, -1), gain)
        if gate is not None:
            gate = gate if self.gate_scale is None else gate * jnp.square(self.gate_scale())
            out = (out * jax.nn.sigmoid(gate)).astype(out.dtype)
        if self.output_norm is not None:
            out = self.output_norm(out)
        return _adapted(self.output, out, None if adapters is None else adapters.output).reshape(batch, length, width)

    def _parts(self, fused: Float[Array, "rows F"], batch: int, length: int) -> tuple[Any, Any, Any, Any]:
        """Queries, keys and values by head, before the rotation, and what the gate is read from."""
        if self.query_key_bias is None and self.query_norm is None and len(self.sizes) == 3 and self.groups == 1:
            heads = fused.reshape(batch, length, self.heads + 2 * self.kv_heads, self.head_width)
            q, k, v = jnp.split(heads, (self.heads, self.heads + self.kv_heads), axis=2)
            return q, k, v, None
        q, k, v, *gate = collect(fused, self.sizes, self.groups)
        if self.query_key_bias is not None:
            shifts = jnp.split(self.query_key_bias[...].astype(fused.dtype), (q.shape[-1],))
            q, k = q + shifts[0], k + shifts[1]
        q, k = self._normed(self.query_norm, q), self._normed(self.key_norm, k)
        q, k, v = (part.reshape(batch, length, -1, self.head_width) for part in (q, k, v))
        return q, k, v, gate[0] if gate else None

    def _normed(self, norm: AnyNorm | None, heads: Float[Array, "rows F"]) -> Float[Array, "rows F"]:
        """Over all heads together, or each by itself onto the sphere."""
        if norm is None:
            return heads
        apart = heads.reshape(len(heads), -1, self.head_width) if isinstance(norm, Unit) else heads
        return norm(apart).astype(heads.dtype).reshape(heads.shape)


class FeedForward(Fused):
    """act(x W1) W2, or (silu(x W1a) * x W1b) W2 for swiglu (Shazeer 2020)."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs, dtype: DTypeLike):
        """Projections [D, F] (twice F for swiglu, fused) and [F, D]."""
        self.kind = config.feed_forward
        hidden, bias = config.hidden_width, config.bias == "all"
        self.sizes = (hidden, hidden) if self.kind == "swiglu" else (hidden,)
        self.groups, inner = 1, sum(self.sizes)
        self.inner = nnx.Linear(config.width, inner, use_bias=bias, dtype=dtype, rngs=rngs)
        init = _output_init(config)
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
        hidden = _adapted(self.inner, x.reshape(-1, x.shape[-1]), change, self.sizes, self.groups)
        if self.inner_scale is not None:
            scale = deal(self.inner_scale[...], self.sizes, self.groups)
            hidden = (hidden * (scale * self.factor)).astype(hidden.dtype)
        if self.kind == "swiglu":
            gate, value = collect(hidden, self.sizes, self.groups)
            hidden = jax.nn.silu(gate) * value
        else:
            hidden = ACTIVATIONS[self.kind](hidden)
        hidden = _scaled(hidden, gain)
        if self.output_norm is not None:
            hidden = self.output_norm(hidden)
        return _adapted(self.output, hidden, None if adapters is None else adapters.outer).reshape(x.shape)


def _adapted(
    linear: nnx.Linear,
    rows: Float[Array, "rows E"],
    change: LowRank | None,
    sizes: Sequence[int] = (),
    groups: int = 1,
) -> Float[Array, "rows F"]:
    kernel = linear.kernel[...]
    if change is not None and kernel.dtype == linear.dtype == jnp.float32 and change.merges(rows):
        up = deal(jnp.asarray(change.up), sizes, groups)
        out = merged_product(rows, kernel, jnp.asarray(change.down), up)
        return out if linear.bias is None else out + linear.bias[...]
    out = linear(rows)
    return out if change is None else out + deal(change(rows.astype(out.dtype)), sizes, groups)


def _scaled(features: Float[Array, "rows F"], gain: Float[Array, "*B F"] | None) -> Float[Array, "rows F"]:
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
