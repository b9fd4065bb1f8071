"""Heads and hidden units dealt out to groups of devices (Shoeybi et al. 2019, Megatron, section 3).

A fused projection gives queries, then keys, then values. Cut into equal columns, one device would get queries alone and
another keys and values. Dealt out, each group's columns hold a share of every part, so that heads stay where they are.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float

from jaxode.model.partition import TENSOR


class Fused(nnx.Module):
    """A sublayer whose first projection gives several parts side by side."""

    sizes: tuple[int, ...]
    """Columns of each part."""
    groups: int = 1
    """Of devices, each with a share of every part."""

    @property
    @abstractmethod
    def fused(self) -> nnx.Linear:
        """That projection."""


def deal(x: Float[Array, "*rows F"], sizes: Sequence[int], groups: int) -> Float[Array, "*rows F"]:
    """Columns that lie part by part, `sizes` of them, in the order of groups; `groups` divides every size."""
    if groups == 1 or len(sizes) == 1:
        return x
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes) - 1)]
    parts = jnp.split(x, ends, axis=-1)
    shares = [part.reshape(*x.shape[:-1], groups, -1) for part in parts]
    return jnp.concatenate(shares, axis=-1).reshape(x.shape)


def collect(x: Float[Array, "*rows F"], sizes: Sequence[int], groups: int) -> list[Float[Array, "*rows part"]]:
    """The parts, each with its columns in their own order, out of what `deal` gives."""
    ends = [sum(sizes[: i + 1]) // groups for i in range(len(sizes) - 1)]
    if groups == 1:
        return jnp.split(x, ends, axis=-1)
    shares = jnp.split(x.reshape(*x.shape[:-1], groups, -1), ends, axis=-1)
    return [share.reshape(*x.shape[:-1], -1) for share in shares]


def dealt(model: Any, groups: int) -> Any:
    """The same model, its fused projections dealt out to so many groups; within a trace on a mesh, once a solve."""
    if groups == 1:
        return model
    for _, module in nnx.iter_graph(model):
        if not isinstance(module, Fused):
            continue
        module.groups = groups
        linear, sizes = module.fused, module.sizes
        for variable, columns in ((linear.kernel, PartitionSpec(None, TENSOR)), (linear.bias, PartitionSpec(TENSOR))):
            if variable is not None:
                moved = deal(variable.get_value(), sizes, groups)
                variable.set_value(jax.lax.with_sharding_constraint(moved, columns))
    return model
