"""One pass of the looped part, besides its blocks: how the input is injected, how a pass ends, how many states run."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from jaxode.config import ModelConfig, UserError, require
from jaxode.model.conditioning import Clock, time_by_row
from jaxode.model.layers import Unit, make_norm
from jaxode.model.streams import Streams
from jaxode.plugins import Table
from jaxode.types import LoopState, State

Blocks = Callable[..., State]
"""State -> state after some of the blocks; all of them where none are named."""


def _final_norm(config: ModelConfig, *, rngs: nnx.Rngs, dtype: DTypeLike) -> Any:
    return make_norm(config, config.width, rngs, config.final_norm)


def _nothing(config: ModelConfig, *, rngs: nnx.Rngs, dtype: DTypeLike) -> None:
    return None


def _fit(name: str, part: Any) -> Callable[..., Any]:
    """A plug-in's: what makes the rule."""
    module = isinstance(part, type)
    require(
        callable(part) and (not module or issubclass(part, nnx.Module)),
        f"{part!r}: must be a function of the state, or a class that inherits from flax.nnx.Module",
    )
    called = getattr(part, "__name__", repr(part))
    # a class itself can always be called
    require(not module or any("__call__" in vars(kind) for kind in part.__mro__), f"{called}: lacks __call__(self, x)")
    try:
        if module:
            inspect.signature(part.__init__).bind(None, None, rngs=None, dtype=None)
        else:
            inspect.signature(part).bind(None)
    except TypeError as error:
        how = "config, rngs=.., dtype=.." if module else "x"
        raise UserError(f"{called}: is called with ({how}), which it does not take ({error})") from None
    return part if module else lambda config, **options: part


BOUNDARIES: Table[Callable[..., Any]] = Table(
    "boundary", "model.loop.boundary", {"none": _nothing, "norm": _final_norm}, _fit
)
"""By name, what makes the rule by which a pass ends: the state there to the one that the next pass begins with."""


def has_rules(config: ModelConfig) -> bool:
    """Whether a pass is more than its blocks."""
    loop = config.loop
    clock = config.conditioning != "none" and (config.clock.shared or config.clock.per_pass)
    several = loop.low_cycles > 0 or loop.streams > 1
    return loop.injection != "none" or loop.boundary != "none" or several or clock


class Pass(nnx.Module):
    """y = boundary(blocks(injection(x, e))), e what the prelude gives; with `low_cycles` that of two states, with
    `streams` of a sum of several, which all take its increment.
    """

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs, dtype: DTypeLike):
        """Only what `model.loop` asks for.

        Raises:
            UserError: an unknown `model.loop.boundary`.
        """
        loop, width = config.loop, config.width
        self.injection, self.low_cycles, self.half = loop.injection, loop.low_cycles, config.inner_blocks
        concat = loop.injection == "concat"
        self.adapter = nnx.Linear(2 * width, width, use_bias=False, dtype=dtype, rngs=rngs) if concat else None
        self.unit = Unit(config.norm_epsilon)
        rule = BOUNDARIES.find(loop.boundary)(config, rngs=rngs, dtype=dtype)
        # under the name that runs have
        self.norm, self.boundary = (rule, None) if loop.boundary == "norm" else (None, rule)
        told = config.clock.shared and config.conditioning != "none"
        self.clock = Clock(config, rngs=rngs) if told else None
        self.per_pass = config.clock.per_pass
        self.streams = Streams(config, rngs=rngs) if loop.streams > 1 else None

    def code(self, t: Any, h: Any) -> Float[Array, "*B clock"] | None:
        """What the blocks are told of this step, where they share a clock."""
        if self.clock is None:
            return None
        return self.clock.code(time_by_row(t), h)

    def rate(self, increment: LoopState, h: Any) -> LoopState:
        """What the field is of a pass's increment: all of it, or its share a unit of a step of size h."""
        if not self.per_pass:
            return increment
        size = jnp.asarray(h, jnp.float32)
        return (increment / (size.reshape(-1, 1, 1) if size.ndim else size)).astype(increment.dtype)

    def increment(self, t: Any, h: Any, x: LoopState, entered: State | None, blocks: Blocks) -> LoopState:
        """What the pass adds to the state, with blocks that were told t and h."""
        if self.streams is None:
            return self._after(x, entered, blocks) - x
        connections = self.streams.connections(time_by_row(t), h, self.code(t, h))
        read = connections.gather(x)
        return connections.increment(x, self._after(read, entered, blocks) - read)

    def _after(self, x: LoopState, entered: State | None, blocks: Blocks) -> LoopState:
        if self.low_cycles:
            return self._two_speeds(x, blocks)
        return self._end(blocks(self._inject(x, entered)))

    def _inject(self, x: State, entered: State | None) -> State:
        if self.injection == "none":
            return x
        assert entered is not None
        if self.adapter is None:
            return (self.unit(x) + self.unit(entered)).astype(x.dtype)
        return self.adapter(jnp.concatenate([x, entered], axis=-1)).astype(x.dtype)

    def _end(self, x: State) -> State:
        rule = self.boundary if self.norm is None else self.norm
        return x if rule is None else rule(x).astype(x.dtype)

    def _two_speeds(self, x: LoopState, blocks: Blocks) -> LoopState:
        """z_L a few times for each z_H (Wang et al. 2025, HRM)."""
        high, low = jnp.split(x, 2, axis=-1)
        first, second = range(self.half), range(self.half, 2 * self.half)
        for _ in range(self.low_cycles):
            low = self._end(blocks(low + high, first))
        high = self._end(blocks(high + low, second))
        return jnp.concatenate([high, low], axis=-1)


class Start(nnx.Module):
    """The state at t = 0."""

    def __init__(self, config: ModelConfig):
        """By `model.loop.start`; a second state begins at a vector of its own."""
        self.kind, self.size = config.loop.start, config.loop.start_size
        self.low = nnx.Param(jnp.zeros(config.width)) if config.loop.low_cycles else None

    def __call__(self, entered: State, places: Int[Array, "B L"] | None, seed: int, zeros: bool) -> LoopState:
        """From what the prelude gives."""
        if self.low is not None:
            low = jnp.broadcast_to(self.low[...].astype(entered.dtype), entered.shape)
            return jnp.concatenate([entered, low], axis=-1)
        if self.kind == "entered":
            return entered
        if self.kind == "zeros" or zeros:
            return jnp.zeros_like(entered)
        places = jnp.arange(entered.shape[1])[None] if places is None else places
        draw = jax.vmap(jax.vmap(lambda place: noise(seed, place, entered.shape[-1])))
        return jnp.broadcast_to(self.size * draw(places), entered.shape).astype(entered.dtype)


def noise(seed: int, place: Any, width: int) -> Float[Array, " width"]:
    """A normal vector cut off at three standard deviations, the same for a place in any row, batch and text."""
    return jax.random.truncated_normal(jax.random.fold_in(jax.random.key(seed), place), -3.0, 3.0, (width,))
