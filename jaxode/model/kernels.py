"""Which kernel computes attention: cuDNN's where it is sure to compile, otherwise the formula written out."""

from __future__ import annotations

import functools
from typing import Any, Literal

import jax

AttentionKernel = Literal["cudnn", "written out"]
AMPERE = 8.0
"""Compute capability from which cuDNN has the kernel."""
SHORTEST = 64
"""Below so many tokens the scores are as small as what they are made of, and older versions of cuDNN refuse some."""
WIDEST = 128
"""Of a head. Hopper takes 256, but not in every version of cuDNN."""


def attention_kernel(q: Any, k: Any, *, masked: bool, causal: bool, capability: float) -> AttentionKernel:
    """The kernel for these shapes and types, forward and backward.

    Args:
        q: anything with a shape, [B, L, H, K], and a dtype.
        k: as q, [B, M, kv_heads, K].
        masked: by an array of booleans. cuDNN adds it to the scores and differentiates that sum, at even L and M alone.
        causal: beside the mask. cuDNN counts from the first key, the formula from the last.
        capability: of the GPU, 0 where there is none.
    """
    (length, _, width), keys = q.shape[1:], k.shape[1]
    fits = (
        capability >= AMPERE
        and q.dtype.itemsize == 2
        and width % 8 == 0
        and width <= WIDEST
        and min(length, keys) >= SHORTEST
        and (length == keys or not causal)
        and (not masked or (length % 2 == 0 and keys % 2 == 0))
    )
    return "cudnn" if fits else "written out"


@functools.cache
def capability() -> float:
    """Compute capability of the NVIDIA GPU that programs are compiled for; 0 for any other device."""
    version = getattr(jax.devices()[0], "compute_capability", "")
    # AMD's read like gfx90a
    return float(version) if str(version).replace(".", "").isdigit() else 0.0
