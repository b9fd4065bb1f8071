"""step_until(): a solver's own steps over a batch whose rows stop one by one, in one loop of static shape."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, no_type_check, runtime_checkable

import diffrax
import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from jaxode.config import require
from jaxode.depth.budgets import RowMultistep, Tables
from jaxode.depth.multistep import Coefficients, Multistep, combine
from jaxode.depth.schedules import Schedule
from jaxode.depth.solvers import as_terms, get_solver
from jaxode.types import Field


@no_type_check  # JAX rebuilds pytrees with leaves of any kind
@struct.dataclass
class Step:
    """What a stop rule sees after a step: x_i -> x_{i+1}.

    Attributes:
        index: i, from 0.
        before: x_i.
        after: x_{i+1}; of a row that has stopped, x_i.
        increment: x_{i+1} - x_i as the solver made it, stopped or not.
        previous: the increment of the step before; 0 in the first.
        error: relative size of what memory added to the step, one number a position; see `Stepped.error`.
        weights: how much a position counts in the mean of its row, [*row] or None for all the same.
        landed: where the row would end if it stopped here: x_{i+1}, or what the landing makes of it.
        observed: what `observe` made of that; None where the rule does not ask for it.
    """

    index: Int[Array, ""]
    before: Float[Array, " *shape"]
    after: Float[Array, " *shape"]
    increment: Float[Array, " *shape"]
    previous: Float[Array, " *shape"]
    error: Float[Array, " *row"]
    landed: Float[Array, " *shape"]
    weights: Float[Array, " *row"] | None = None
    observed: Any = None


@runtime_checkable
class StopRule(Protocol):
    """Decides after each step which rows stop; a pytree, so that its numbers are traced."""

    granularity: str
    """"sequence": one decision for each entry of the first axis. "token": one for each position."""
    observes: bool
    """Whether it reads `Step.observed`."""

    def start(self, x0: Any, observed: Any) -> Any:
        """What to carry from step to step; `observed` has the shapes of what `observe` returns."""
        ...

    def __call__(self, step: Step, carry: Any) -> tuple[Bool[Array, " *rows"], Any]:
        """Which rows stop here, and what to carry on."""
        ...


@no_type_check
@struct.dataclass
class Stepped:
    """Where a batch ended.

    Attributes:
        state: x where each row stopped, landed where a landing was given.
        steps: steps that each row took, [B] or [B, ...] by the rule's granularity.
        active: rows that no rule has stopped.
        loops: steps of the loop: what the whole batch waited for, the most that any row took.
        error: [n, B, ...], relative size of what memory added to each step: ||e_i||_2 / ||x_{i+1}||_2 over the last
            axis. For a multistep solver e_i = x_{i+1} - x_i - (sum_j w_ij) f_i, the step less the Euler step of the
            same size. Another solver has none, so e_i is what a memory would add: the term of Adams-Bashforth 2,
            h_i^2 / (2 h_{i-1}) (d_i - d_{i-1}), d_i = (x_{i+1} - x_i) / h_i. 0 in the first step, which has nothing to
            compare with; nan where a row took no step.
    """

    state: Float[Array, " *shape"]
    steps: Int[Array, " *rows"]
    active: Bool[Array, " *rows"]
    loops: Int[Array, ""]
    error: Float[Array, " N *row"]


def step_until(
    field: Field | tuple[Field, ...],
    x0: Any,
    schedule: Schedule,
    solver: str | diffrax.AbstractSolver = "euler",
    rule: StopRule | None = None,
    *,
    args: Any = None,
    coefficients: Coefficients | None = None,
    active: Bool[Array, " *rows"] | None = None,
    weights: Float[Array, " *row"] | None = None,
    observe: Callable[[Any], Any] | None = None,
    landing: Coefficients | None = None,
) -> Stepped:
    """Solve dx/dt = f(t, x, args) along the schedule, each row until the rule stops it; forward only.

    A stopped row keeps its state, and others go on seeing it. The loop ends when every row that counts has stopped.
    A landing extrapolates what a row that stops leaves out, from its last increments d and without an evaluation:
    x_{i+1} + sum_j (w_ij d_{i-j} + (d_{i-j} P_ij) Q_i), j = 0, 1, the coefficients of row i.

    Args:
        field: f(t, x, args), or a tuple of parts for solver "lie".
        x0: initial state, [B, ..., D].
        schedule: times in depth-time.
        solver: a fixed-step name in `SOLVERS`, or an explicit Runge-Kutta solver object of Diffrax.
        rule: which rows stop when; None stops none.
        args: pytree handed to the field.
        coefficients: of solver "calibrated".
        active: rows still to be solved, by the rule's granularity; None: all.
        weights: [B, ...]; positions of weight 0 keep no loop running and count in no mean. None: all count.
        observe: from a state to what rules with `observes` read beside it.
        landing: one row a step, K at most 2.

    Raises:
        UserError: unknown or adaptive solver, coefficients or landing that do not fit, a rule that observes without
            `observe`.
    """
    spec = get_solver(solver)
    require(not spec.adaptive, f'solver "{spec.name}" chooses its own steps: stopping needs a fixed-step solver')
    require(
        spec.split == isinstance(field, tuple),
        f'solver "{spec.name}" needs ' + ("a tuple of fields, one a part" if spec.split else "one field, not a tuple"),
    )
    require(
        landing is None or (landing.steps == schedule.steps and landing.memory <= 2),
        f"a landing of {landing and landing.steps} rows and memory {landing and landing.memory}: the schedule has "
        f"{schedule.steps} steps, and a step knows 2 increments",
    )
    looks = rule is not None and rule.observes
    require(not looks or observe is not None, f"{type(rule).__name__} reads more than the state: give `observe`")
    method = spec.make(schedule, coefficients)
    if isinstance(method, Multistep):
        method = method.remembering()
    return _loop(
        field, x0, jnp.asarray(schedule.times, jnp.float32), method, rule, args, active, weights, observe, landing
    )


def step_budgets(
    field: Field,
    x0: Any,
    tables: Tables,
    which: Int[Array, " B"],
    *,
    args: Any = None,
) -> Stepped:
    """Solve each row by its own entry of `tables`: its own number of steps, their times and coefficients.

    The field sees times of shape [B, 1, ..] beside a state of [B, ..., D].

    Args:
        field: f(t, x, args).
        x0: initial state, [B, ..., D].
        tables: one entry a budget, from `stack_tables`.
        which: the entry of each row.
        args: pytree handed to the field.
    """
    wide = (-1,) + (1,) * (x0.ndim - 1)
    times = jnp.moveaxis(jnp.asarray(tables.times)[which], 0, -1).reshape(
        tables.times.shape[1], *x0.shape[:1], *wide[1:]
    )
    limit = StepLimit(jnp.asarray(tables.steps)[which])
    return _loop(field, x0, times, RowMultistep(tables, which), limit, args, None, None, None, None)


@no_type_check
@struct.dataclass
class StepLimit:
    """Each row stops after its own number of steps, [B]."""

    limits: Int[Array, " B"]
    granularity: str = struct.field(pytree_node=False, default="sequence")
    observes: bool = struct.field(pytree_node=False, default=False)

    def start(self, x0: Any, observed: Any) -> None:
        """Nothing is carried."""

    def __call__(self, step: Step, carry: None) -> tuple[Bool[Array, " B"], None]:
        """True in the last step of a row."""
        return step.index + 1 >= self.limits, None


def _loop(
    field: Any,
    x0: Any,
    times: Any,
    solver: Any,
    rule: StopRule | None,
    args: Any,
    active: Any,
    weights: Any,
    observe: Callable[[Any], Any] | None,
    landing: Coefficients | None,
) -> Stepped:
    look = observe if rule is not None and rule.observes else None
    terms, count, row = as_terms(field), len(times) - 1, x0.shape[:-1]
    if active is None:
        active = jnp.ones(row if rule is not None and rule.granularity == "token" else row[:1], bool)
    memory = isinstance(solver, Multistep | RowMultistep)
    counts = None if weights is None else _narrow(weights > 0, active)

    def go_on(carry: Any) -> Any:
        index, active = carry[0], carry[3]
        return (index < count) & jnp.any(active if counts is None else active & counts)

    def body(carry: Any) -> Any:
        index, x, state, active, steps, previous, error, remembered, ends = carry
        t0, t1 = times[index], times[index + 1]
        proposed, _, _, state, _ = solver.step(terms, t0, t1, x, args, state, made_jump=False)
        increment = proposed - x
        after = jnp.where(_widen(active, x), proposed, x)
        if memory:
            added = increment - solver.euler_part(state)
        else:
            size, before = t1 - t0, t0 - times[jnp.maximum(index - 1, 0)]
            ratio = size / jnp.where(index > 0, before, 1.0)
            added = 0.5 * (ratio * increment - ratio**2 * previous)
        relative = jnp.linalg.norm(added, axis=-1) / jnp.maximum(jnp.linalg.norm(proposed, axis=-1), 1e-12)
        relative = jnp.where(index > 0, relative, 0.0)
        error = error.at[index].set(jnp.where(_widen(active, relative), relative, jnp.nan))
        steps = steps + active
        if rule is not None:
            landed = after
            if landing is not None:
                landed = combine(landing, index, after, (increment, previous)[: landing.memory])
            observed = None if look is None else look(landed)
            seen = Step(index, x, after, increment, previous, relative, landed, weights, observed)
            stop, remembered = rule(seen, remembered)
            if landing is not None:
                ends = jnp.where(_widen(active & stop, x), landed, ends)
            active = active & ~stop
        return index + 1, after, state, active, steps, increment, error, remembered, ends

    seen = None if look is None else jax.eval_shape(look, x0)
    carry = (
        jnp.zeros((), jnp.int32),
        x0,
        solver.init(terms, times[0], times[1], x0, args),
        active,
        jnp.zeros(active.shape, jnp.int32),
        jnp.zeros_like(x0),
        jnp.full((count, *row), jnp.nan, x0.dtype),
        None if rule is None else rule.start(x0, seen),
        None if landing is None else x0,
    )
    begun = active
    loops, x, _, active, steps, _, error, _, ends = jax.lax.while_loop(go_on, body, carry)
    if landing is not None:
        x = jnp.where(_widen(begun & ~active, x), ends, x)
    return Stepped(x, steps, active, loops, error)


def _widen(rows: Any, x: Any) -> Any:
    """Add axes at the end, so that `rows` broadcasts against x."""
    return rows.reshape(rows.shape + (1,) * (x.ndim - rows.ndim))


def _narrow(positions: Any, rows: Any) -> Any:
    """Of a mask over positions: any of each row."""
    return jnp.any(positions, axis=tuple(range(rows.ndim, positions.ndim)))
