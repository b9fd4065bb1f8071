"""The chip: how many operations and bytes a second it gives at most."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from accelerators.scale import Scale
from accelerators.timing import median_seconds

PEAK, BANDWIDTH = "matrix product, TFLOP/s", "copy, GB/s read and written"
TIMES = 8
"""Products or copies in one call, so that starting it takes no part."""


def chip(scale: Scale, known: Mapping[str, float]) -> tuple[dict[str, float], dict[str, str]]:
    """The largest rate that a matrix product and a copy reach."""
    del known
    keys = jax.random.split(jax.random.key(0), 3)
    side = scale.matrix
    # random numbers: zeros are faster than what a model multiplies
    x = jax.random.normal(keys[0], (side, side), scale.type)
    w = (jax.random.normal(keys[1], (side, side)) * side**-0.5).astype(scale.type)
    copied = jax.random.normal(keys[2], (scale.copied // 4,))

    @jax.jit
    def products(x: jax.Array, w: jax.Array) -> jax.Array:
        return jax.lax.fori_loop(0, TIMES, lambda _, x: x @ w, x)

    @jax.jit
    def copies(x: jax.Array) -> jax.Array:
        return jax.lax.fori_loop(0, TIMES, lambda _, x: x * jnp.float32(0.999), x)

    seconds = median_seconds({"products": lambda: products(x, w), "copies": lambda: copies(copied)})
    return {
        PEAK: TIMES * 2 * side**3 / seconds["products"] / 1e12,
        BANDWIDTH: TIMES * 2 * copied.nbytes / seconds["copies"] / 1e9,
    }, {}
