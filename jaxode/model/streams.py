"""Hyper-connections at the boundary of a loop: several residual streams that one loop reads, writes and mixes."""

from __future__ import annotations

from typing import Any, no_type_check

import jax.numpy as jnp
from flax import nnx, struct
from jaxtyping import Array, Float

from jaxode.config import ModelConfig
from jaxode.model.conditioning import Clock
from jaxode.types import LoopState, State


@no_type_check  # JAX rebuilds pytrees with leaves of any kind
@struct.dataclass
class Connections:
    """How one pass is connected to S streams x_s: it reads r = sum_s read_s x_s, and with its increment d(r)

        x_s becomes x_s + sum_u mix_su x_u + write_s d(r).

    Attributes:
        read: [S], or [B, S] where rows are at times of their own.
        write: the same.
        mix: [S, S] or [B, S, S]; what is mixed besides the identity.
    """

    read: Float[Array, "*B S"]
    write: Float[Array, "*B S"]
    mix: Float[Array, "*B S S"]

    def gather(self, x: LoopState) -> State:
        """What the pass reads."""
        return _weighted(self.read, _apart(x, self.read.shape[-1])).astype(x.dtype)

    def increment(self, x: LoopState, step: State) -> LoopState:
        """Of all streams, from that of the pass."""
        streams = _apart(x, self.read.shape[-1])
        rows = "b" if self.mix.ndim == 3 else ""
        mixed = jnp.einsum(f"{rows}su,bldu->blds", self.mix, jnp.moveaxis(streams, -2, -1))
        written = step[..., None] * (self.write[:, None, None] if self.write.ndim == 2 else self.write)
        return jnp.moveaxis(mixed + written, -1, -2).reshape(x.shape).astype(x.dtype)


class Streams(nnx.Module):
    """S states of width D beside each other, [B, L, S D], connected with every pass in the same way, or as t and h say.

    Reads are means and writes differ from stream to stream around 1, so the model begins as the one with a single
    stream, and no two of them stay alike. Sources: Zhu et al. 2024 (arXiv 2409.19606), hyper-connections that depend on
    nothing but their place; around a loop as a whole, arXiv 2604.21106.
    """

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        """Small, so everything is float32."""
        count = self.count = config.loop.streams
        self.read = nnx.Param(jnp.full(count, 1 / count))
        self.write = nnx.Param((2 * jnp.arange(count) + 1) / count)
        self.mix = nnx.Param(jnp.zeros((count, count)))
        self.out = nnx.Param(jnp.full(count, 1 / count))
        self.conditioning = _Offsets(config, rngs=rngs) if config.conditioning != "none" else None

    def connections(self, t: Any, h: Any, code: Float[Array, "*B clock"] | None = None) -> Connections:
        """Of a pass at depth-time t and step size h, numbers or arrays of rows' own, [B]; `code` of a shared clock."""
        read, write, mix = self.read[...], self.write[...], self.mix[...]
        if self.conditioning is None:
            return Connections(read, write, mix)
        told = self.conditioning(t, h, code)
        first, second, rest = jnp.split(told, (self.count, 2 * self.count), axis=-1)
        return Connections(read + first, write + second, mix + rest.reshape(*rest.shape[:-1], *mix.shape))

    def enter(self, x: State) -> LoopState:
        """Every stream begins at x."""
        return jnp.tile(x, self.count)

    def leave(self, x: LoopState) -> State:
        """The stream that coda and head read: a weighted sum of all."""
        return _weighted(self.out[...], _apart(x, self.count)).astype(x.dtype)


class _Offsets(Clock):
    """(t, h) -> what is added to the connections, by one layer from zero."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        super().__init__(config, rngs=rngs, empty=config.clock.shared)
        count = config.loop.streams
        zero = nnx.initializers.zeros_init()
        self.output = nnx.Linear(config.clock_width, count * (2 + count), kernel_init=zero, rngs=rngs)

    def __call__(self, t: Any, h: Any, code: Float[Array, "*B clock"] | None) -> Float[Array, "*B offsets"]:
        return self.told(self.output, self.code(t, h) if code is None else code, h)


def _apart(x: LoopState, count: int) -> Float[Array, "B L S D"]:
    return x.reshape(*x.shape[:-1], count, -1)


def _weighted(weights: Float[Array, "*B S"], streams: Float[Array, "B L S D"]) -> State:
    return jnp.einsum("bs,blsd->bld" if weights.ndim == 2 else "s,blsd->bld", weights, streams)
