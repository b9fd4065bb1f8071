"""What forward passes of whole models return."""

from __future__ import annotations

from typing import Any, no_type_check

from flax import struct
from jaxtyping import Array, Float

from jaxode.depth import Trace
from jaxode.types import State


@no_type_check  # JAX rebuilds pytrees with leaves of any kind
@struct.dataclass
class ModelOutput:
    """What a forward pass returns.

    Attributes:
        logits: [B, L, V], or [B, classes] for a classifier, [B, L, classes] for one of tokens; float32.
        state: x(N), [B, L, D], before the head.
        block_evaluations: applications of a block that were made (an array for adaptive solvers).
        solver: the one that ran.
        trace: the looped part's trajectory, when asked for.
    """

    logits: Float[Array, " B *out"]
    state: State
    block_evaluations: Any
    solver: str = struct.field(pytree_node=False)
    trace: Trace | None = None


@no_type_check  # JAX rebuilds pytrees with leaves of any kind
@struct.dataclass
class EncoderOutput:
    """What a forward pass of an `Encoder` returns.

    Attributes:
        state: x(N), [B, L, D].
        pooled: [B, D], one vector a sequence; None for an encoder without a pooler.
        block_evaluations: applications of a block that were made (an array for adaptive solvers).
        solver: the one that ran.
        trace: the looped part's trajectory, when asked for.
    """

    state: State
    pooled: Float[Array, "B D"] | None
    block_evaluations: Any
    solver: str = struct.field(pytree_node=False)
    trace: Trace | None = None
