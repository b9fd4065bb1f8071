"""How a model's parameters lie on a mesh of devices: which axis of each is cut, and by which axis of the mesh."""

from __future__ import annotations

from collections.abc import Mapping

from jax.sharding import PartitionSpec

DATA, FSDP, TENSOR = AXES = ("data", "fsdp", "tensor")
"""Axes of the mesh, as `MeshConfig` sizes them."""
ROWS = (DATA, FSDP)
"""Those over which the rows of a batch are dealt out."""

# Kernels of a sublayer, [inputs, outputs]: the first deals out heads and hidden units, the second adds them up
# (Shoeybi et al. 2019, section 3).
_OUTPUTS = (".attention.qkv.kernel", ".feed_forward.inner.kernel")
_INPUTS = (".attention.output.kernel", ".feed_forward.output.kernel")


def partition(name: str, shape: tuple[int, ...], sizes: Mapping[str, int]) -> PartitionSpec:
    """Where a parameter is cut, on a mesh of these sizes.

    Kernels of blocks are cut by "tensor" between heads and between hidden units. Of every matrix "fsdp" cuts the
    longest axis that is left and that it divides. Vectors are whole everywhere: together they are small.
    """
    cuts: list[str | None] = [None] * len(shape)
    if len(shape) < 2:
        return PartitionSpec()
    for ends, axis in ((_OUTPUTS, 1), (_INPUTS, 0)):
        if name.endswith(ends) and sizes[TENSOR] > 1 and shape[axis] % sizes[TENSOR] == 0:
            cuts[axis] = TENSOR
    free = [axis for axis, cut in enumerate(cuts) if cut is None and shape[axis] % sizes[FSDP] == 0]
    if free and sizes[FSDP] > 1:
        cuts[max(free, key=lambda axis: shape[axis])] = FSDP
    return PartitionSpec(*cuts)
