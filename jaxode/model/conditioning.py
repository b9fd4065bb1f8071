"""Telling a shared block where along depth it is, and how long a step it is asked for."""

from __future__ import annotations

import math
from typing import Any, no_type_check

import jax
import jax.numpy as jnp
from flax import nnx, struct
from jaxtyping import Array, Float

from jaxode.config import ModelConfig
from jaxode.model.adapters import Adapters, ToldAdapters


@no_type_check  # JAX rebuilds pytrees with leaves of any kind
@struct.dataclass
class Modulation:
    """What conditioning does to one sublayer S at one time: x + S(norm x) becomes x + gate * S((1 + scale) * norm x).

    Attributes:
        scale: [D], or [B, 1, D] where rows are at times of their own.
        gate: of the same shape.
    """

    scale: Float[Array, "*B D"]
    gate: Float[Array, "*B D"]


def time_by_row(t: Any) -> Any:
    """A solve's time as a clock reads it: one number, or [B] of rows at times of their own, which bring [B, 1, 1]."""
    return jnp.reshape(jnp.asarray(t, jnp.float32), -1) if jnp.ndim(t) else t


class Clock(nnx.Module):
    """(t, h) -> a vector: sinusoids -> two layers each -> their sum, as diffusion transformers read their time."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs, empty: bool = False):
        """One a block, or one for all (`model.clock.shared`); small, so everything is float32."""
        self.features, self.unit, self.steps = config.clock.features, config.clock.unit, float(config.steps)
        self.anchored = config.clock.anchored

        def layer(inputs: int, wanted: bool = True) -> nnx.Linear | None:
            return nnx.Linear(inputs, config.clock_width, rngs=rngs) if wanted and not empty else None

        told = config.conditioning != "time"
        self.time, self.step = layer(self.features), layer(self.features, told)
        self.time_output, self.step_output = layer(config.clock_width), layer(config.clock_width, told)

    def code(self, t: Any, h: Any) -> Float[Array, "*B clock"]:
        """For depth-time t and step size h, numbers or arrays of rows' own, [B]."""
        assert self.time is not None
        assert self.time_output is not None
        code = self.time_output(jax.nn.silu(self.time(self._sinusoids(t))))
        if self.step is not None and self.step_output is not None:
            code = code + self.step_output(jax.nn.silu(self.step(self._sinusoids(h))))
        return code

    def told(self, output: nnx.Linear, code: Float[Array, "*B clock"], h: Any) -> Float[Array, "*B told"]:
        """What one layer reads from the code of a step of size h; nothing up to h = 1 where it is anchored there."""
        told = output(jax.nn.silu(code))
        if not self.anchored:
            return told
        return told * jnp.maximum(0.0, 1.0 - 1.0 / jnp.asarray(h, jnp.float32)[..., None])

    def _sinusoids(self, value: Any) -> Float[Array, "*B features"]:
        """Cos and sin, with periods from 2 units of depth-time to 4 N, or of t/N with frequencies from 1 down."""
        half = self.features // 2
        value = jnp.asarray(value, jnp.float32)[..., None]
        if self.unit:
            angle = value / self.steps * 10_000.0 ** (-jnp.arange(half, dtype=jnp.float32) / half)
        else:
            angle = 2.0 * math.pi * value / jnp.geomspace(2.0, 4.0 * self.steps, half)
        return jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], axis=-1)


class Conditioning(Clock):
    """(t, h) -> scale and gate of both sublayers, by a `Clock` and one layer from zero.

    As adaptive layer norms condition diffusion transformers (Peebles & Xie 2023, section 3.2), without a shift, as
    LoopFormer does (Jeddi et al. 2026, arXiv 2602.11451). "time" reads t alone, "step" and "loopformer" also h. The
    first two begin as the plain block, with gates 1 + 0. With "loopformer" gates begin at 0, and the increment is that
    of the whole step, whatever h: the block has to learn what a longer step is, so the field is the increment over h.
    """

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        """One a block; where the clock is shared, without one."""
        super().__init__(config, rngs=rngs, empty=config.clock.shared)
        self.kind, self.divided = config.conditioning, not config.clock.per_pass
        zero = nnx.initializers.zeros_init()
        self.output = nnx.Linear(config.clock_width, 4 * config.width, kernel_init=zero, rngs=rngs)
        self.changes = ToldAdapters(config, rngs=rngs) if config.clock.rank else None

    def adapters(self, t: Any, h: Any, code: Float[Array, "*B clock"] | None = None) -> Adapters | None:
        """What they change in the block's matrices, where the clock has a rank; arguments as of a call."""
        if self.changes is None:
            return None
        return self.changes(self.told(self.changes.output, self.code(t, h) if code is None else code, h))

    def __call__(self, t: Any, h: Any, sublayer: int, code: Float[Array, "*B clock"] | None = None) -> Modulation:
        """For depth-time t and step size h, numbers or arrays of rows' own, [B]; `code` of a clock that is shared."""
        code = self.code(t, h) if code is None else code
        scales, gates = jnp.split(self.told(self.output, code, h), 2, axis=-1)
        scale, gate = jnp.split(scales, 2, axis=-1)[sublayer], jnp.split(gates, 2, axis=-1)[sublayer]
        if self.kind != "loopformer":
            gate = 1.0 + gate
        elif self.divided:
            gate = gate / jnp.asarray(h, jnp.float32)[..., None]
        rows = (lambda v: v[:, None]) if scale.ndim == 2 else (lambda v: v)
        return Modulation(rows(scale), rows(gate))
