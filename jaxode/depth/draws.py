"""Schedules drawn at random inside a compiled program: their number of steps is static, their sizes are not."""

from __future__ import annotations

from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxode.config import require
from jaxode.types import Key

Spacing = Literal["random", "coarse-early", "fine-early"]


def draw_sizes(key: Key, span: int, steps: int, spacing: str) -> Float[Array, " N"]:
    """Whole step sizes h_i >= 1 that sum to `span`, in depth-time.

    "random" takes every such schedule equally often: n - 1 of the span - 1 whole times between, all choices alike.
    "coarse-early" draws one step after the other, each uniform over what leaves the rest a unit each, so that the first
    is the longest on average (the sampler of LoopFormer, Jeddi et al. 2026); "fine-early" is its mirror image.

    Raises:
        UserError: an unknown spacing, or more steps than units.
    """
    require(spacing in get_args(Spacing), f'spacing "{spacing}": to draw from are {", ".join(get_args(Spacing))}')
    require(1 <= steps <= span, f"{steps} steps over {span} units of depth-time: draw from 1 to {span}")
    if spacing == "random":
        inner = jnp.sort(jax.random.permutation(key, jnp.arange(1, span))[: steps - 1])
        times = jnp.concatenate([jnp.zeros(1, int), inner, jnp.full(1, span)])
        return jnp.diff(times).astype(jnp.float32)
    sizes, left = [], jnp.asarray(span)
    for i, own in enumerate(jax.random.split(key, steps)):
        behind = steps - 1 - i
        size = jax.random.randint(own, (), 1, left - behind + 1) if behind else left
        sizes.append(size)
        left = left - size
    drawn = jnp.stack(sizes).astype(jnp.float32)
    return drawn if spacing == "coarse-early" else drawn[::-1]
