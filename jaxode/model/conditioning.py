"""Telling a shared block where along depth it is, and how long a step it is asked for."""

from __future__ import annotations

import math
from typing import Any, no_type_check

import jax
import jax.numpy as jnp
from flax import nnx, struct
from jaxtyping import Array, Float

from jaxode.config import ModelConfig
from jaxode.config.size import FEATURES


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


class Conditioning(nnx.Module):
    """(t, h) -> scale and gate of both sublayers: sinusoids -> two layers each -> their sum -> one layer from zero.

    As adaptive layer norms condition diffusion transformers (Peebles & Xie 2023, section 3.2), without a shift, as
    LoopFormer does (Jeddi et al. 2026, arXiv 2602.11451). "time" reads t alone, "step" and "loopformer" also h. The
    first two begin as the plain block, with gates 1 + 0. With "loopformer" gates begin at 0, and the increment is that
    of the whole step, whatever h: the block has to learn what a longer step is, so the field is the increment over h.
    """

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        """One a block; small vectors, so everything is float32."""
        width = config.width
        self.kind = config.conditioning
        self.longest = 4.0 * config.steps
        self.time = nnx.Linear(FEATURES, width, rngs=rngs)
        self.step = None if self.kind == "time" else nnx.Linear(FEATURES, width, rngs=rngs)
        self.time_output = nnx.Linear(width, width, rngs=rngs)
        self.step_output = None if self.kind == "time" else nnx.Linear(width, width, rngs=rngs)
        zero = nnx.initializers.zeros_init()
        self.output = nnx.Linear(width, 4 * width, kernel_init=zero, rngs=rngs)

    def __call__(self, t: Any, h: Any, sublayer: int) -> Modulation:
        """For depth-time t and step size h, numbers or arrays of rows' own, [B]."""
        code = self.time_output(jax.nn.silu(self.time(self._features(t))))
        if self.step is not None and self.step_output is not None:
            code = code + self.step_output(jax.nn.silu(self.step(self._features(h))))
        scales, gates = jnp.split(self.output(jax.nn.silu(code)), 2, axis=-1)
        scale, gate = jnp.split(scales, 2, axis=-1)[sublayer], jnp.split(gates, 2, axis=-1)[sublayer]
        size = jnp.asarray(h, jnp.float32)[..., None]
        gate = gate / size if self.kind == "loopformer" else 1.0 + gate
        rows = (lambda v: v[:, None]) if scale.ndim == 2 else (lambda v: v)
        return Modulation(rows(scale), rows(gate))

    def _features(self, value: Any) -> Float[Array, "*B features"]:
        """Cos and sin, with periods from 2 units of depth-time to 4 N."""
        half = FEATURES // 2
        periods = jnp.geomspace(2.0, self.longest, half)
        angle = 2.0 * math.pi * jnp.asarray(value, jnp.float32)[..., None] / periods
        return jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], axis=-1)
