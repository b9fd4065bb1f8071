"""What an update sends between devices, from shapes alone: the cost model beside what `collectives` counts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from jaxode.config import ModelConfig
from jaxode.model.partition import DATA, FSDP, TENSOR, partition

_FLOAT32 = 4


@dataclass(frozen=True)
class Traffic:
    """Bytes of the results that a device gets, by purpose; the scalars of losses and norms are left out."""

    gathered: int
    """Parameters that "fsdp" cuts, put together before the solve: once, however often the block is applied."""
    scattered: int
    """A device's part of the gradients of those, added up over "fsdp"."""
    summed: int
    """Gradients, or parts of them, added up whole."""
    a_step: int
    """At every step of depth: the state, behind each sublayer that "tensor" divides, forward and backward."""
    steps: int
    """Of depth."""

    @property
    def update(self) -> int:
        """Of an update."""
        return self.gathered + self.scattered + self.summed + self.steps * self.a_step


def traffic(model: ModelConfig, shapes: Mapping[str, tuple[int, ...]], sizes: Mapping[str, int], rows: int) -> Traffic:
    """Of one update of a fully shared model in float32, under the default adjoint.

    Per block and step "tensor" adds up the state five times: behind attention and feed-forward, as often backward, and
    behind attention once more where the adjoint computes the step again, whose last sum feeds nothing (Shoeybi et al.
    2019, section 3, has four). What brings queries, keys and values of a head to one device comes on top, once.

    Args:
        model: its blocks, width, length and N.
        shapes: of the parameters, by name.
        sizes: of the mesh, by axis.
        rows: of a batch, over all devices.
    """
    gathered = scattered = summed = 0
    for name, shape in shapes.items():
        cuts = tuple(partition(name, shape, sizes))
        size = _FLOAT32 * math.prod(shape) // (sizes[TENSOR] if TENSOR in cuts else 1)
        if FSDP in cuts:
            gathered += size
        if FSDP in cuts and TENSOR not in cuts:
            scattered += size // sizes[FSDP]
            summed += size // sizes[FSDP] if sizes[DATA] > 1 else 0
        elif sizes[DATA] * sizes[FSDP] > 1:
            summed += size
    state = _FLOAT32 * rows // (sizes[DATA] * sizes[FSDP]) * model.length * model.width
    a_step = 5 * len(model.pass_blocks) * state if sizes[TENSOR] > 1 else 0
    return Traffic(gathered, scattered, summed, a_step, model.steps)
