"""What a field knows of the step it is asked for: its size and the gains that hold in it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, no_type_check

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Int

from jaxode.depth import Coefficients, Schedule
from jaxode.model.adapters import wider
from jaxode.model.gains import Gains


@no_type_check  # JAX rebuilds pytrees with leaves of any kind
@struct.dataclass
class StepsOverDepth:
    """The steps of a solve as piecewise constant functions of t.

    Attributes:
        starts: times from which each row holds.
        sizes: h_i, in depth-time.
        gains: of each step, or None.
    """

    starts: Float[Array, " N"]
    sizes: Float[Array, " N"]
    gains: Gains | None = None

    @classmethod
    def over(cls, schedule: Schedule, coefficients: Coefficients | None = None) -> StepsOverDepth:
        """Row i holds from t_i on; the times are those of the coefficients where they bring their own."""
        starts, sizes = _times(schedule, coefficients)
        return cls(starts, sizes, None if coefficients is None else coefficients.gains)

    def at(self, t: Any) -> StepsOverDepth:
        """The row of the step that begins at t."""
        row = jnp.sum(self.starts <= jnp.float32(t)) - 1
        return jax.tree.map(lambda table: jnp.asarray(table)[row], self)


@no_type_check
@struct.dataclass
class StepsByRow:
    """As `StepsOverDepth` where each row of the batch solves by an entry of its own out of G.

    Attributes:
        starts: [G, N], padded with infinity.
        sizes: [G, N].
        which: the entry of each row.
        gains: [G, N, ..], padded to the longest solve.
    """

    starts: Float[Array, "G N"]
    sizes: Float[Array, "G N"]
    which: Int[Array, " B"]
    gains: Gains | None = None

    @classmethod
    def over(
        cls,
        schedules: Sequence[Schedule],
        coefficients: Sequence[Coefficients | None],
        which: Int[Array, " B"],
        neutral: Callable[[int, int], Gains],
    ) -> StepsByRow:
        """Of several solves; where any has gains, one without gets the `neutral` ones of its number of steps and the
        rank of the others' adapters.
        """
        most = max(schedule.steps for schedule in schedules)

        def pad(table: Any, value: float = 0.0) -> Any:
            return jnp.pad(
                jnp.asarray(table), [(0, most - len(table))] + [(0, 0)] * (table.ndim - 1), constant_values=value
            )

        times = [_times(schedule, own) for schedule, own in zip(schedules, coefficients, strict=True)]
        given = [None if own is None else own.gains for own in coefficients]
        gains = None
        if any(own is not None for own in given):
            rank = max(0 if own is None or own.adapters is None else own.adapters.rank for own in given)
            whole = [
                _whole(own, neutral(schedule.steps, rank), rank) for own, schedule in zip(given, schedules, strict=True)
            ]
            gains = jax.tree.map(lambda *tables: jnp.stack([pad(table) for table in tables]), *whole)
        return cls(
            jnp.stack([pad(starts, np.inf) for starts, _ in times]),
            jnp.stack([pad(sizes, 1.0) for _, sizes in times]),
            which,
            gains,
        )

    def at(self, t: Any) -> StepsByRow:
        """Each row's own, of the step that begins at its own time; t is one number or [B, 1, ..]."""
        now = jnp.broadcast_to(jnp.asarray(t, jnp.float32).reshape(-1), self.which.shape)
        index = jnp.sum(self.starts[self.which] <= now[:, None], axis=1) - 1
        # of gains, blocks first, then rows of the batch
        gains = jax.tree.map(lambda table: jnp.moveaxis(table[self.which, index], 1, 0), self.gains)
        return StepsByRow(self.starts[self.which, index], self.sizes[self.which, index], self.which, gains)


def _whole(own: Gains | None, neutral: Gains, rank: int) -> Gains:
    """Gains with adapters of this rank, those that are missing from the neutral ones."""
    if own is None or not rank:
        return neutral if own is None else own
    adapters = neutral.adapters if own.adapters is None else wider(own.adapters, rank)
    return dataclasses.replace(own, adapters=adapters)


def _times(schedule: Schedule, coefficients: Coefficients | None) -> tuple[Array, Array]:
    """Starts and sizes of a solve's steps."""
    starts = jnp.asarray(schedule.times[:-1], jnp.float32)
    if coefficients is not None and coefficients.starts is not None:
        starts = jnp.asarray(coefficients.starts, jnp.float32)
    return starts, jnp.diff(starts, append=jnp.float32(schedule.times[-1]))
