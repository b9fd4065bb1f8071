"""The shared transformer block, read as a vector field f(t, x) = B(x) - x over depth."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, no_type_check

import jax
import jax.numpy as jnp
from flax import nnx, struct
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxode.config import ModelConfig
from jaxode.model.conditioning import Conditioning, Modulation
from jaxode.model.gains import ATTENTION, FEED_FORWARD, Gains
from jaxode.model.layers import Attention, FeedForward, Rotary, dropout, make_norm
from jaxode.model.rounding import Copies, with_copies
from jaxode.model.steps import StepsByRow, StepsOverDepth
from jaxode.types import Field, Key, Mask, State


@no_type_check  # JAX rebuilds pytrees with leaves of any kind
@struct.dataclass
class Context:
    """What a block reads besides t and x.

    Attributes:
        mask: which key a query may look at; None means all (and causality where the model is causal).
        rotary: rotation angles, or None for learned positions.
        x0: the initial state, for models that inject it.
        key: dropout key, or None at inference.
        gains: of this block at this t, where a calibration holds some.
        size: h of the step that begins at this t, for blocks that are told; the rest is constant along depth.
        memory: keys and values of earlier tokens, a `Memory`; it changes while the solve is traced.
    """

    mask: Mask | None = None
    rotary: Rotary | None = None
    x0: State | None = None
    key: Key | None = None
    gains: Gains | None = None
    size: Any = 1.0
    memory: Any = struct.field(pytree_node=False, default=None)


class Block(nnx.Module):
    """One transformer block B as its residual increment.

    Pre-norm: x' = x + Attn(norm x), B(x) = x' + FF(norm x').
    Post-norm (ALBERT): x' = norm(x + Attn(x)), B(x) = norm(x' + FF(x')).
    """

    def __init__(
        self, config: ModelConfig, *, rngs: nnx.Rngs, dtype: DTypeLike = jnp.float32, conditioned: bool = False
    ):
        """`dtype` is the type of the matmuls; parameters are float32. A conditioned block is told t and h."""
        self.post = config.norm_position == "post"
        self.rate = config.dropout
        self.attention = Attention(config, rngs=rngs, dtype=dtype)
        self.attention_norm = make_norm(config, config.width, rngs)
        self.feed_forward = FeedForward(config, rngs=rngs, dtype=dtype)
        self.feed_forward_norm = make_norm(config, config.width, rngs)
        self.gate = nnx.Param(jnp.zeros(config.width)) if config.inject_input else None
        self.conditioning = Conditioning(config, rngs=rngs) if conditioned else None

    def increment(self, t: Any, x: State, context: Context) -> State:
        """f(t, x) = B(x) - x, in the type of x."""
        first = self.attention_increment(t, x, context)
        return first + self.feed_forward_increment(t, x + first, context)

    def attention_increment(self, t: Any, x: State, context: Context) -> State:
        """The attention sublayer's share of the increment."""
        source = x if self.gate is None or context.x0 is None else x + self.gate[...] * context.x0
        read, gain = (source if self.post else self.attention_norm(source)), None
        modulation = self._modulation(t, context, ATTENTION)
        if modulation is not None:
            read = (read * (1.0 + modulation.scale)).astype(read.dtype)
        if context.gains is not None:
            read, gain = context.gains.read(read, ATTENTION), jnp.asarray(context.gains.heads)
        branch = self.attention(read, mask=context.mask, rotary=context.rotary, gain=gain, memory=context.memory)
        return self._increment(x, branch, self.attention_norm, t, context, ATTENTION, modulation)

    def feed_forward_increment(self, t: Any, x: State, context: Context) -> State:
        """The feed-forward sublayer's share of the increment."""
        read, gain = (x if self.post else self.feed_forward_norm(x)), None
        modulation = self._modulation(t, context, FEED_FORWARD)
        if modulation is not None:
            read = (read * (1.0 + modulation.scale)).astype(read.dtype)
        if context.gains is not None:
            read, gain = context.gains.read(read, FEED_FORWARD), jnp.asarray(context.gains.hidden)
        branch = self.feed_forward(read, gain=gain)
        return self._increment(x, branch, self.feed_forward_norm, t, context, FEED_FORWARD, modulation)

    def _modulation(self, t: Any, context: Context, sublayer: int) -> Modulation | None:
        if self.conditioning is None:
            return None
        # rows at times of their own bring them as [B, 1, 1]
        time = jnp.reshape(jnp.asarray(t, jnp.float32), -1) if jnp.ndim(t) else t
        return self.conditioning(time, context.size, sublayer)

    def _increment(
        self,
        x: State,
        branch: State,
        norm: Any,
        t: Any,
        context: Context,
        sublayer: int,
        modulation: Modulation | None,
    ) -> State:
        branch = self._drop(branch, t, context, sublayer)
        if modulation is not None:
            branch = (branch * modulation.gate).astype(branch.dtype)
        return norm(x + branch).astype(x.dtype) - x if self.post else branch.astype(x.dtype)

    def _drop(self, branch: Float[Array, "B L D"], t: Any, context: Context, sublayer: int) -> Float[Array, "B L D"]:
        if context.key is None or self.rate == 0.0:
            return branch
        # The mask is a function of t, so f stays a field and the backward pass recomputes the same one.
        bits = jax.lax.bitcast_convert_type(jnp.float32(t), jnp.uint32)
        return dropout(branch, self.rate, jax.random.fold_in(jax.random.fold_in(context.key, bits), sublayer))


@no_type_check  # JAX rebuilds pytrees with leaves of any kind
@struct.dataclass
class FieldArgs:
    """What the solver hands to a field: parameters enter here, never through a closure.

    Attributes:
        params: of each block.
        context: the same at every t.
        steps: what changes from step to step.
        copies: weights of each block in the type of its matmuls; without them every application makes its own.
    """

    params: Any
    context: Context
    steps: StepsOverDepth | StepsByRow | None = None
    copies: tuple[Copies, ...] = ()


@dataclass(frozen=True)
class BlockField:
    """f(t, x, args) = C(x) - x for one pass C through the blocks of `graphs`.

    Two fields of the same blocks are equal, so outside `jax.jit` a second solve finds the first one's compilation.
    `scale` multiplies the increment (`model.step_size`).
    """

    graphs: tuple[nnx.GraphDef[Block], ...]
    scale: float = 1.0

    def __call__(self, t: Any, x: State, args: FieldArgs) -> State:
        """The increment of the whole pass."""
        total = None
        for index, graph in enumerate(self.graphs):
            block, context = _block(graph, args, index), _here(t, args, index, len(self.graphs))
            step = block.increment(t, x if total is None else x + total, context)
            total = step if total is None else total + step
        assert total is not None
        return total if self.scale == 1.0 else self.scale * total


@dataclass(frozen=True)
class SublayerField:
    """One part of `BlockField`: a sublayer of block `index` out of `count`."""

    graph: nnx.GraphDef[Block]
    index: int
    count: int
    method: str
    scale: float = 1.0

    def __call__(self, t: Any, x: State, args: FieldArgs) -> State:
        """The increment of this sublayer."""
        block = _block(self.graph, args, self.index)
        increment = getattr(block, self.method)(t, x, _here(t, args, self.index, self.count))
        return increment if self.scale == 1.0 else self.scale * increment


def block_field(blocks: tuple[Block, ...], scale: float = 1.0) -> tuple[Field, Any]:
    """The field of one pass through `blocks`, and the parameters to put into `FieldArgs`."""
    graphs, params = _split(blocks)
    return BlockField(graphs, scale), params


def sublayer_fields(blocks: tuple[Block, ...], scale: float = 1.0) -> tuple[tuple[Field, ...], Any]:
    """The parts of `block_field`, sublayer by sublayer, for a Lie splitting."""
    graphs, params = _split(blocks)
    methods = ("attention_increment", "feed_forward_increment")
    fields = [
        SublayerField(graph, i, len(graphs), method, scale) for i, graph in enumerate(graphs) for method in methods
    ]
    return tuple(fields), params


def fold(context: Context, index: int, count: int | None = None) -> Context:
    """Give each block its own dropout key; one block alone (`count` = 1) keeps the context's."""
    if context.key is None or count == 1:
        return context
    return dataclasses.replace(context, key=jax.random.fold_in(context.key, index))


def _block(graph: Any, args: FieldArgs, index: int) -> Block:
    """Block `index` of a pass."""
    param = args.params[index]
    return nnx.merge(graph, with_copies(param, args.copies[index]) if args.copies else param)


def _here(t: Any, args: FieldArgs, index: int, count: int) -> Context:
    """What block `index` of a pass reads at depth-time t."""
    context = fold(args.context, index, count)
    if args.steps is None:
        return context
    step = args.steps.at(t)
    gains = jax.tree.map(lambda row: row[index], step.gains)
    return dataclasses.replace(context, gains=gains, size=step.sizes)


def _split(blocks: tuple[Block, ...]) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    pairs = [nnx.split(block) for block in blocks]
    return tuple(graph for graph, _ in pairs), tuple(param for _, param in pairs)
