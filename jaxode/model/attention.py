"""Attention on a flattened stream: matmuls are 2-D, [B L, D], which XLA runs about twice as fast."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from jaxode.config import ModelConfig
from jaxode.depth import KEPT
from jaxode.model.adapters import Adapters
from jaxode.model.kernels import attention_kernel, capability
from jaxode.model.layers import AnyNorm, StoredScale, Unit, adapted, make_norm, output_initializer, scaled
from jaxode.model.rotary import Rotary, rotate
from jaxode.model.tensor_parallel import Fused, collect
from jaxode.types import Mask, State


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
        init = output_initializer(config)
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
        fused = adapted(self.qkv, x.reshape(batch * length, width), change, self.sizes, self.groups)
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
        out = scaled(out.reshape(batch * length, -1), gain)
        if gate is not None:
            gate = gate if self.gate_scale is None else gate * jnp.square(self.gate_scale())
            out = (out * jax.nn.sigmoid(gate)).astype(out.dtype)
        if self.output_norm is not None:
            out = self.output_norm(out)
        return adapted(self.output, out, None if adapters is None else adapters.output).reshape(batch, length, width)

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
