"""How fast the machine multiplies matrices, measured: the yardstick for the fraction of peak."""

from __future__ import annotations

import time
from functools import cache

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxode.types import Device


@cache
def matmul_peak(dtype: DTypeLike, device: Device, size: int = 0, repeats: int = 5) -> float:
    """Best rate of a square matmul on one device, in floating-point operations per second.

    Measured once in a process. The default size is large enough that launching the product costs nothing beside it.
    """
    size = size or (1024 if device.platform == "cpu" else 8192)
    with jax.default_device(device):
        a = jnp.full((size, size), 0.5, dtype)
        multiply = jax.jit(lambda x: x @ x)
        multiply(a).block_until_ready()
        best = float("inf")
        for _ in range(repeats):
            start = time.perf_counter()
            multiply(a).block_until_ready()
            best = min(best, time.perf_counter() - start)
    return 2.0 * size**3 / best
