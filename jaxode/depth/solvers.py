"""Solvers by name: Diffrax's own, classic RK4, the Lie splitting of a block into its sublayers, multistep methods.

An explicit solver object of Diffrax is taken as it is, and by a name of its own from a plug-in.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, cast

import diffrax
import jax.numpy as jnp
import numpy as np

from jaxode.config import UserError, require
from jaxode.depth.multistep import Coefficients, Multistep, adams_bashforth, secant
from jaxode.depth.schedules import Schedule
from jaxode.plugins import Table


class LieSplitting(diffrax.AbstractSolver):
    """First-order splitting: y <- y + h g_k(t, y) for each part k of the field in turn.

    For a pre-norm block with parts (attention, feed-forward) this is the second reading of a step: every
    sublayer's increment is scaled, not the block's. At h = 1 it equals Euler on the whole block. Needs a
    `diffrax.MultiTerm`. Source: the Lie-Trotter product formula (Hairer, Lubich & Wanner 2006, section II.5).
    """

    term_structure: ClassVar = diffrax.MultiTerm
    interpolation_cls: ClassVar[Callable[..., diffrax.LocalLinearInterpolation]] = diffrax.LocalLinearInterpolation

    def order(self, terms: Any) -> int:
        """Global order of the error in h."""
        return 1

    def init(self, terms: Any, t0: Any, t1: Any, y0: Any, args: Any) -> None:
        """No state is carried from step to step."""

    def step(
        self, terms: Any, t0: Any, t1: Any, y0: Any, args: Any, solver_state: Any, made_jump: Any
    ) -> tuple[Any, Any, Any, Any, Any]:
        """Advance from t0 to t1 through each part once."""
        y = y0
        for term in terms.terms:
            y = y + term.vf_prod(t0, y, args, term.contr(t0, t1))
        return y, None, {"y0": y0, "y1": y}, None, diffrax.RESULTS.successful

    def func(self, terms: Any, t0: Any, y0: Any, args: Any) -> Any:
        """Sum of the parts at one point."""
        return sum(term.vf(t0, y0, args) for term in terms.terms)


class RK4(diffrax.AbstractERK):
    """The classic fourth-order Runge-Kutta method (Kutta 1901); its error estimate is the distance to Euler."""

    tableau: ClassVar = diffrax.ButcherTableau(
        c=np.array([0.5, 0.5, 1.0]),
        a_lower=(np.array([0.5]), np.array([0.0, 0.5]), np.array([0.0, 0.0, 1.0])),
        b_sol=np.array([1 / 6, 1 / 3, 1 / 3, 1 / 6]),
        b_error=np.array([1 / 6 - 1, 1 / 3, 1 / 3, 1 / 6]),
    )
    interpolation_cls: ClassVar[Callable[..., Any]] = diffrax.ThirdOrderHermitePolynomialInterpolation.from_k

    def order(self, terms: Any) -> int:
        """Global order of the error in h."""
        return 4


class WrittenOut(diffrax.AbstractSolver):
    """An explicit Runge-Kutta step without a loop over its stages, so that a field may keep a record of its calls.

    y1 = y0 + h sum_j b_j k_j, k_j = f(t0 + c_j h, y0 + h sum_l a_jl k_l), by the tableau of a Diffrax solver (Hairer,
    Norsett & Wanner 1993, section II.1).
    """

    tableau: diffrax.ButcherTableau
    term_structure: ClassVar = diffrax.ODETerm
    interpolation_cls: ClassVar[Callable[..., diffrax.LocalLinearInterpolation]] = diffrax.LocalLinearInterpolation

    def init(self, terms: Any, t0: Any, t1: Any, y0: Any, args: Any) -> None:
        """Nothing is known before the first step."""

    def step(
        self, terms: Any, t0: Any, t1: Any, y0: Any, args: Any, solver_state: Any, made_jump: Any
    ) -> tuple[Any, Any, Any, Any, Any]:
        """Advance from t0 to t1; the state is the last stage, where it is the next step's first."""
        h, stages = t1 - t0, [terms.vf(t0, y0, args) if solver_state is None else solver_state]
        for c, row in zip(self.tableau.c, self.tableau.a_lower, strict=True):
            y = y0 + h * sum(float(a) * k for a, k in zip(row, stages, strict=True) if a)
            stages.append(terms.vf(t0 + float(c) * h, y, args))
        y1 = y0 + h * sum(float(b) * k for b, k in zip(self.tableau.b_sol, stages, strict=True) if b)
        last = stages[-1] if self.tableau.fsal else None
        return y1, None, {"y0": y0, "y1": y1}, last, diffrax.RESULTS.successful

    def func(self, terms: Any, t0: Any, y0: Any, args: Any) -> Any:
        """The field at one point."""
        return terms.vf(t0, y0, args)


def written_out(solver: diffrax.AbstractSolver) -> diffrax.AbstractSolver:
    """The same method, its stages written out where Diffrax loops over them."""
    tableau = getattr(solver, "tableau", None)
    return solver if not isinstance(tableau, diffrax.ButcherTableau) else WrittenOut(tableau)


@dataclass(frozen=True)
class SolverSpec:
    """A solver, what one of its steps costs, and whether it chooses its own steps.

    A multistep method has a `rule` in place of `solver`: from the step sizes to its coefficients. `first` counts the
    evaluations at the start of a solve, of methods that reuse a step's last stage as the next one's first.
    """

    name: str
    solver: Callable[[], diffrax.AbstractSolver] | None
    stages: int
    order: int
    first: int = 0
    adaptive: bool = False
    split: bool = False
    rule: Callable[[Sequence[float]], np.ndarray] | None = None

    @property
    def stage_times(self) -> tuple[float, ...]:
        """Where in a step of a fixed-step solver the field is asked, as shares of the step."""
        tableau = None if self.solver is None else getattr(self.solver(), "tableau", None)
        return (0.0, *map(float, tableau.c)) if isinstance(tableau, diffrax.ButcherTableau) else (0.0,)

    def evaluations(self, steps: Any) -> Any:
        """Field evaluations of so many steps, counting every stage."""
        return self.first + self.stages * steps

    def make(self, schedule: Schedule, coefficients: Coefficients | None = None) -> diffrax.AbstractSolver:
        """The Diffrax solver for a solve over `schedule`; "calibrated" takes its coefficients from outside.

        Raises:
            UserError: coefficients where none belong, none where they are needed, or not one row a step.
        """
        given = self.solver is None and self.rule is None
        require(
            given == (coefficients is not None),
            f'solver "{self.name}" '
            + ("needs the coefficients of a calibration" if given else 'has its own coefficients; use "calibrated"'),
        )
        if coefficients is not None:
            require(
                coefficients.steps == schedule.steps,
                f"coefficients for {coefficients.steps} steps, but the schedule has {schedule.steps}: one row a step",
            )
            return Multistep(coefficients)
        if self.rule is not None:
            return Multistep(Coefficients(self.rule(schedule.sizes)))
        assert self.solver is not None
        return self.solver()


BUILT_IN = (
    SolverSpec("euler", diffrax.Euler, stages=1, order=1),
    SolverSpec("lie", LieSplitting, stages=1, order=1, split=True),
    SolverSpec("heun", diffrax.Heun, stages=2, order=2),
    SolverSpec("midpoint", diffrax.Midpoint, stages=2, order=2),
    SolverSpec("rk4", RK4, stages=4, order=4),
    SolverSpec("ab2", None, stages=1, order=2, rule=partial(adams_bashforth, order=2)),
    # one Euler step at the start bounds the order of the whole
    SolverSpec("ab3", None, stages=1, order=2, rule=partial(adams_bashforth, order=3)),
    # exact for the trained network at h = 1, and no approximation of the continuous limit h -> 0
    SolverSpec("secant", None, stages=1, order=0, rule=secant),
    SolverSpec("calibrated", None, stages=1, order=0),
    SolverSpec("tsit5", diffrax.Tsit5, stages=6, order=5, first=1, adaptive=True),
    SolverSpec("dopri5", diffrax.Dopri5, stages=6, order=5, first=1, adaptive=True),
)


def _fit(name: str, part: Any) -> SolverSpec:
    """A plug-in's: an explicit Runge-Kutta method of Diffrax, or the rule of a multistep method."""
    if isinstance(part, type) and issubclass(part, diffrax.AbstractSolver):
        try:
            part = part()
        except TypeError as error:
            raise UserError(f"{part.__name__} cannot be made without arguments ({error}); register an object") from None
    if isinstance(part, diffrax.AbstractSolver):
        return dataclasses.replace(_described(part), name=name)
    require(
        callable(part) and not isinstance(part, type),
        f"{part!r}: must be an explicit Runge-Kutta solver of Diffrax, or a function from the sizes of n steps to "
        "coefficients [n, k]",
    )
    rule, sizes = cast(Any, part), (1.0, 2.0, 1.0)
    try:
        made = np.asarray(rule(sizes), np.float64)
    except Exception as error:  # of code that is not ours
        raise UserError(f"the step sizes {sizes} give {type(error).__name__}: {error}; must give [3, k]") from None
    require(
        made.ndim == 2 and len(made) == len(sizes) and made.shape[1] >= 1 and bool(np.all(np.isfinite(made))),
        f"the step sizes {sizes} give coefficients of shape {list(made.shape)}: must be finite, one row a step: row i "
        "holds the weights in step i of the evaluations i, i - 1, .., which are 0 where there is none",
    )
    require(
        all(made[i, j] == 0 for i in range(len(made)) for j in range(i + 1, made.shape[1])),
        f"the step sizes {sizes} give weights to evaluations before the first; make them 0",
    )
    return SolverSpec(name, None, stages=1, order=0, rule=rule)


SOLVERS: Table[SolverSpec] = Table(
    "solver", "depth.solver", {spec.name: spec for spec in BUILT_IN}, _fit, reserved=("auto",)
)
"""By name."""


def get_solver(solver: Any) -> SolverSpec:
    """Look a name up, or describe an explicit solver object of Diffrax.

    Raises:
        UserError: an unknown name, or an object whose evaluations cannot be counted: implicit, stochastic, of several
            terms.
    """
    if isinstance(solver, diffrax.AbstractSolver):
        return _described(solver)
    require(
        not isinstance(solver, type),
        f'depth.solver = "{solver}": of a solver class give an object, {getattr(solver, "__name__", "")}()',
    )
    return SOLVERS.find(solver)


def _described(solver: diffrax.AbstractSolver) -> SolverSpec:
    """An object's steps, counted from its tableau."""
    name, tableau = type(solver).__name__, getattr(solver, "tableau", None)
    if isinstance(solver, diffrax.Euler | LieSplitting):
        return SolverSpec(name, lambda: solver, stages=1, order=1, split=isinstance(solver, LieSplitting))
    require(
        isinstance(solver, diffrax.AbstractERK) and isinstance(tableau, diffrax.ButcherTableau),
        f"solver {name}: an object must be an explicit Runge-Kutta method of Diffrax, such as diffrax.Ralston() or "
        "diffrax.Bosh3(), whose evaluations can be counted; implicit, stochastic, wrapped and several-term ones are "
        "not taken",
    )
    assert isinstance(tableau, diffrax.ButcherTableau)
    stages, order = tableau.num_stages - tableau.fsal, solver.order(None)  # pyright: ignore[reportArgumentType]
    return SolverSpec(name, lambda: solver, stages=stages, order=order or 0, first=int(tableau.fsal))


def as_terms(field: Any) -> diffrax.AbstractTerm:
    """ODETerm of one field f(t, x, args), or MultiTerm of a tuple of parts (for a splitting)."""
    if isinstance(field, tuple):
        return diffrax.MultiTerm(*(diffrax.ODETerm(part) for part in field))
    return diffrax.ODETerm(field)


class ScheduledTimes(diffrax.StepTo):
    """Visit exactly these times, unchecked: a `Schedule` rises, in float32, from the solve's t0 to its t1.

    Diffrax checks that in the compiled program, by a call back to Python: on an accelerator every solve would wait for
    the host.
    """

    def wrap(self, direction: Any) -> ScheduledTimes:
        """The same times, turned round for a solve that runs backwards."""
        return ScheduledTimes(ts=self.ts * direction)

    def init(
        self, terms: Any, t0: Any, t1: Any, y0: Any, dt0: Any, args: Any, func: Any, error_order: Any
    ) -> tuple[Any, int]:
        """The end of the first step, and which time comes after it."""
        return self.ts[1], 2


def step_controller(times: tuple[float, ...]) -> diffrax.StepTo:
    """Visit exactly these times."""
    return ScheduledTimes(ts=jnp.asarray(times, jnp.float32))
