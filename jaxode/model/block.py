"""The shared transformer block, read as a vector field f(t, x) = B(x) - x over depth."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, no_type_check

import jax
import jax.numpy as jnp
from flax import nnx, struct
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from jaxode.config import ModelConfig, UserError, require
from jaxode.model.adapters import Adapters
from jaxode.model.attention import Attention
from jaxode.model.conditioning import Conditioning, time_by_row
from jaxode.model.gains import ATTENTION, FEED_FORWARD, Gains
from jaxode.model.layers import FeedForward, StoredScale, make_norm
from jaxode.model.loop import Pass
from jaxode.model.rotary import Rotary
from jaxode.model.rounding import Copies, with_copies
from jaxode.model.steps import StepsByRow, StepsOverDepth
from jaxode.model.sublayer import (
    BranchNorm,
    Norm,
    NormOfSum,
    PostNorm,
    PreNorm,
    ResidualRule,
    Sandwich,
    Sphere,
    Sublayer,
)
from jaxode.plugins import Table
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
        far: rotation angles of blocks without a window, where they have their own.
        places: of the tokens in their texts; None: 0, 1, ..
        code: of this t and size, where the blocks share a clock.
    """

    mask: Mask | None = None
    rotary: Rotary | None = None
    x0: State | None = None
    key: Key | None = None
    gains: Gains | None = None
    size: Any = 1.0
    memory: Any = struct.field(pytree_node=False, default=None)
    far: Rotary | None = None
    places: Int[Array, "B L"] | None = None
    code: Float[Array, "*B clock"] | None = None


class Block(nnx.Module):
    """One transformer block B as its residual increment: two sublayers under one residual rule.

    Pre-norm: x' = x + Attn(norm x), B(x) = x' + FF(norm x').
    Post-norm (ALBERT): x' = norm(x + Attn(x)), B(x) = norm(x' + FF(x')). Others: `model.norm_position`.
    """

    def __init__(
        self,
        config: ModelConfig,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike = jnp.float32,
        conditioned: bool = False,
        index: int = 0,
    ):
        """`dtype` is the type of the matmuls; parameters are float32. A conditioned block is told t and h.

        `index` is its place among prelude, looped blocks and coda: some have a window, others none.
        """
        self.rule, self.rate = config.norm_position, config.dropout or 0.0
        self.full = index in config.attention.full_layers
        self.attention = Attention(config, rngs=rngs, dtype=dtype, full=self.full)
        self.attention_norm = make_norm(config, config.width, rngs)
        self.feed_forward = FeedForward(config, rngs=rngs, dtype=dtype)
        self.feed_forward_norm = make_norm(config, config.width, rngs)
        two = self.rule in ("sandwich", "sum")
        self.attention_output_norm = make_norm(config, config.width, rngs) if two else None
        self.feed_forward_output_norm = make_norm(config, config.width, rngs) if two else None
        sphere, scales = self.rule == "sphere", config.sphere
        self.attention_rate = StoredScale(config.width, scales.rate, scales.size) if sphere else None
        self.feed_forward_rate = StoredScale(config.width, scales.rate, scales.size) if sphere else None
        self.gate = nnx.Param(jnp.zeros(config.width)) if config.inject_input else None
        self.conditioning = Conditioning(config, rngs=rngs) if conditioned else None

    @property
    def post(self) -> bool:
        """Whether the state lies near a sphere, behind a norm."""
        return self.rule == "post"

    def increment(self, t: Any, x: State, context: Context) -> State:
        """f(t, x) = B(x) - x, in the type of x."""
        first = self.attention_increment(t, x, context)
        return first + self.feed_forward_increment(t, x + first, context)

    def attention_increment(self, t: Any, x: State, context: Context) -> State:
        """The attention sublayer's share of the increment."""
        gain = None if context.gains is None else jnp.asarray(context.gains.heads)
        adapters = self._adapters(t, context)
        rotary = context.rotary if context.far is None or not self.full else context.far

        def branch(read: State) -> State:
            options = {"gain": gain, "adapters": adapters, "memory": context.memory}
            return self.attention(read, mask=context.mask, rotary=rotary, **options)

        source = x if self.gate is None or context.x0 is None else x + self.gate[...] * context.x0
        norm = self._own_norm(self.attention_norm, ATTENTION, adapters)
        rule = self._rule(norm, self.attention_output_norm, self.attention_rate)
        return self._sublayer(ATTENTION, rule).increment(branch, t, x, context, source)

    def feed_forward_increment(self, t: Any, x: State, context: Context) -> State:
        """The feed-forward sublayer's share of the increment."""
        gain = None if context.gains is None else jnp.asarray(context.gains.hidden)
        adapters = self._adapters(t, context)
        norm = self._own_norm(self.feed_forward_norm, FEED_FORWARD, adapters)
        rule = self._rule(norm, self.feed_forward_output_norm, self.feed_forward_rate)
        branch = partial(self.feed_forward, gain=gain, adapters=adapters)
        return self._sublayer(FEED_FORWARD, rule).increment(branch, t, x, context)

    def _adapters(self, t: Any, context: Context) -> Adapters | None:
        """What the clock changes in the matrices, and then a calibration."""
        fitted = None if context.gains is None else context.gains.adapters
        if self.conditioning is None:
            return fitted
        told = self.conditioning.adapters(time_by_row(t), context.size, context.code)
        return fitted if told is None else told if fitted is None else told.then(fitted)

    def _own_norm(self, norm: Norm, sublayer: int, adapters: Adapters | None) -> Norm:
        """A norm that stands behind the branch, as the step's adapters change it."""
        if adapters is None or not self.post:
            return norm
        return lambda u: adapters.normed(norm(u), sublayer)

    def _rule(self, norm: Norm, output: Norm | None, rate: StoredScale | None) -> ResidualRule:
        if output is not None:
            return (Sandwich if self.rule == "sandwich" else NormOfSum)(norm, output)
        if rate is not None:
            return Sphere(norm, rate)
        return {"pre": PreNorm, "post": PostNorm, "branch": BranchNorm}[self.rule](norm)

    def _sublayer(self, number: int, rule: ResidualRule) -> Sublayer:
        return Sublayer(number, rule, self.conditioning, self.rate)


def _fit(name: str, part: Any) -> type[Block]:
    """A plug-in's: the standard block with another increment."""
    require(
        isinstance(part, type) and issubclass(part, Block),
        f"{part!r}: must be a class that inherits from jaxode.Block",
    )
    try:
        inspect.signature(part.__init__).bind(None, None, rngs=None, dtype=None, conditioned=False, index=0)
    except TypeError as error:
        raise UserError(
            f"{part.__name__}: is made as {part.__name__}(config, rngs=.., dtype=.., conditioned=.., index=..), which "
            f"its __init__ does not take ({error})"
        ) from None
    return part


BLOCKS: Table[type[Block]] = Table("block", "model.block", {"standard": Block}, _fit)
"""By name."""


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
    `scale` multiplies the increment (`model.step_size`). A loop with rules of its own brings them as its last graph.
    """

    graphs: tuple[nnx.GraphDef[Block], ...]
    scale: float = 1.0
    loop: nnx.GraphDef[Pass] | None = None

    def __call__(self, t: Any, x: State, args: FieldArgs) -> State:
        """The increment of the whole pass."""
        total = self._blocks(t, x, args) if self.loop is None else self._loop(t, x, args, self.loop)
        return total if self.scale == 1.0 else self.scale * total

    def _blocks(self, t: Any, x: State, args: FieldArgs, which: Sequence[int] | None = None, code: Any = None) -> State:
        """The increment of these blocks, one after the other."""
        total = None
        for index in range(len(self.graphs)) if which is None else which:
            block, context = _block(self.graphs[index], args, index), _here(t, args, index, len(self.graphs))
            context = context if code is None else dataclasses.replace(context, code=code)
            step = block.increment(t, x if total is None else x + total, context)
            total = step if total is None else total + step
        assert total is not None
        return total

    def _loop(self, t: Any, x: State, args: FieldArgs, graph: nnx.GraphDef[Pass]) -> State:
        """The same between the loop's own rules."""
        rules = nnx.merge(graph, args.params[-1])
        size = args.context.size if args.steps is None else args.steps.at(t).sizes
        code = rules.code(t, size)

        def blocks(y: State, which: Sequence[int] | None = None) -> State:
            return y + self._blocks(t, y, args, which, code)

        return rules.rate(rules.increment(t, size, x, args.context.x0, blocks), size)


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


def block_field(blocks: tuple[Block, ...], scale: float = 1.0, loop: Pass | None = None) -> tuple[Field, Any]:
    """The field of one pass through `blocks` by the rules of `loop`, and the parameters to put into `FieldArgs`."""
    graphs, params = _split(blocks)
    if loop is None:
        return BlockField(graphs, scale), params
    graph, rules = nnx.split(loop)
    return BlockField(graphs, scale, graph), (*params, rules)


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
