"""Rows of one batch with different numbers of steps: their coefficients in one table, an entry a budget."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, no_type_check

import diffrax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Int

from jaxode.config import require
from jaxode.depth.multistep import Coefficients, Multistep
from jaxode.depth.schedules import Schedule
from jaxode.depth.solvers import get_solver


@no_type_check  # JAX rebuilds pytrees with leaves of any kind
@struct.dataclass
class Tables:
    """Schedules and coefficients of G budgets, zero-padded to the longest (N steps), the largest K and R.

    Attributes:
        steps: n of each budget.
        times: t_0 .. t_n, the last repeated.
        weights, down, up: as in `Coefficients`; K is at least 2, so that the newest evaluation is remembered.
    """

    steps: Int[np.ndarray, " G"]
    times: Float[Array, "G N_plus_1"]
    weights: Float[Array, "G N K"]
    down: Float[Array, "G N K D R"] | None = None
    up: Float[Array, "G N R D"] | None = None


def stack_tables(
    schedules: Sequence[Schedule], solver: str = "secant", coefficients: Sequence[Coefficients | None] = ()
) -> Tables:
    """One table for the budgets of `schedules`; "calibrated" takes their coefficients from outside.

    Raises:
        UserError: a solver that is no linear multistep method (Euler is one), or coefficients that do not fit.
    """
    spec = get_solver(solver)
    require(
        spec.rule is not None or spec.name in ("euler", "calibrated"),
        f'solver "{solver}": rows with budgets of their own need euler, ab2, ab3, secant or calibrated',
    )
    given = coefficients or [None] * len(schedules)
    rows = []
    for schedule, own in zip(schedules, given, strict=True):
        if spec.name == "euler":
            rows.append(Coefficients(np.asarray(schedule.sizes)[:, None]))
        else:
            method = spec.make(schedule, own)
            assert isinstance(method, Multistep)
            rows.append(method.coefficients)
    times = [
        jnp.asarray(schedule.times if own.starts is None else [*own.starts, schedule.times[-1]], jnp.float32)
        for schedule, own in zip(schedules, rows, strict=True)
    ]
    most, memory = max(schedule.steps for schedule in schedules), max(2, *(one.memory for one in rows))

    def stacked(arrays: Sequence[Any], shape: tuple[int, ...]) -> Any:
        padded = [
            jnp.pad(jnp.asarray(a, jnp.float32), [(0, n - m) for n, m in zip(shape, a.shape, strict=True)])
            for a in arrays
        ]
        return jnp.stack(padded)

    down = up = None
    corrections = [one for one in rows if one.down is not None and one.up is not None]
    if corrections:
        width = corrections[0].up.shape[-1]
        rank = max(one.up.shape[1] for one in corrections)
        # a budget without a correction gets one of rank 0, which the padding fills with zeros
        halves = [
            (one.down, one.up)
            if one.down is not None
            else (np.zeros((one.steps, one.memory, width, 0)), np.zeros((one.steps, 0, width)))
            for one in rows
        ]
        down = stacked([half for half, _ in halves], (most, memory, width, rank))
        up = stacked([half for _, half in halves], (most, rank, width))
    return Tables(
        steps=np.asarray([schedule.steps for schedule in schedules], np.int32),
        times=jnp.stack([jnp.pad(each, (0, most + 1 - len(each)), mode="edge") for each in times]),
        weights=stacked([one.weights for one in rows], (most, memory)),
        down=down,
        up=up,
    )


class RowMultistep(diffrax.AbstractSolver):
    """`Multistep` whose row b takes its coefficients from entry `which[b]` of the tables."""

    tables: Tables
    which: Int[Array, " B"]
    term_structure: ClassVar = diffrax.ODETerm
    interpolation_cls: ClassVar[Callable[..., diffrax.LocalLinearInterpolation]] = diffrax.LocalLinearInterpolation

    def order(self, terms: Any) -> int:
        """0: given coefficients promise nothing as the steps shrink."""
        return 0

    def init(self, terms: Any, t0: Any, t1: Any, y0: Any, args: Any) -> Any:
        """Step 0, nothing remembered."""
        return jnp.zeros((), jnp.int32), (jnp.zeros_like(y0),) * (self.tables.weights.shape[-1] - 1)

    def step(
        self, terms: Any, t0: Any, t1: Any, y0: Any, args: Any, solver_state: Any, made_jump: Any
    ) -> tuple[Any, Any, Any, Any, Any]:
        """Advance every row by its own coefficients of this step."""
        index, memory = solver_state
        own = self.tables
        fields = (terms.vf(t0, y0, args), *memory)
        y1 = y0
        for j, field in enumerate(fields):
            y1 = y1 + self._rows(own.weights[self.which, index, j], y0) * field
        if own.down is not None and own.up is not None:
            down, up = own.down[self.which, index], own.up[self.which, index]
            flat = [field.reshape(field.shape[0], -1, field.shape[-1]) for field in fields]
            inner = sum(jnp.einsum("bmd,bdr->bmr", field, down[:, j]) for j, field in enumerate(flat))
            y1 = y1 + jnp.einsum("bmr,brd->bmd", inner, up).reshape(y1.shape)
        return y1, None, {"y0": y0, "y1": y1}, (index + 1, fields[:-1]), diffrax.RESULTS.successful

    def func(self, terms: Any, t0: Any, y0: Any, args: Any) -> Any:
        """The field at one point."""
        return terms.vf(t0, y0, args)

    def euler_part(self, solver_state: Any) -> Any:
        """As `Multistep.euler_part`, row by row."""
        index, memory = solver_state
        return self._rows(jnp.sum(self.tables.weights[self.which, index - 1], axis=-1), memory[0]) * memory[0]

    @staticmethod
    def _rows(numbers: Any, x: Any) -> Any:
        return numbers.reshape(-1, *(1,) * (x.ndim - 1)).astype(x.dtype)
