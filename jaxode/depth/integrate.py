"""integrate(): solve dx/dt = f(t, x, args) over depth in a static number of steps, through Diffrax."""

from __future__ import annotations

import itertools
import math
from typing import Any, Literal, get_args, no_type_check

import diffrax
import jax
import jax.numpy as jnp
from flax import struct

from jaxode.config import UserError, require
from jaxode.depth.multistep import Coefficients
from jaxode.depth.schedules import Schedule
from jaxode.depth.solvers import SolverSpec, as_terms, get_solver, step_controller, written_out
from jaxode.depth.trace import Trace, measure
from jaxode.types import Field

Adjoint = Literal["recursive", "remat", "nested", "unroll"]
ADAPTIVE_LIMIT = 4096
KEPT = "kept over depth"
"""Name with which a field marks, by `jax.ad_checkpoint.checkpoint_name`, what "remat" should not recompute."""
KEPT_KERNEL = "dot_product_attention_fwd"
"""Beginning of the name of JAX's primitives of cuDNN's attention, whose results "remat" keeps as well: the backward
kernel needs the softmax's statistics too, which a field never sees and cannot mark; else the forward one runs again."""


@no_type_check  # JAX rebuilds pytrees with leaves of any kind
@struct.dataclass
class Solve:
    """What a solve returns.

    Attributes:
        state: x at the end of the schedule.
        evaluations: field evaluations used; an array only for adaptive solvers.
        trace: the trajectory and its norms and cosines, when asked for.
    """

    state: Any
    evaluations: Any
    trace: Trace | None = None


def integrate(
    field: Field | tuple[Field, ...],
    x0: Any,
    schedule: Schedule,
    solver: str | diffrax.AbstractSolver = "euler",
    *,
    args: Any = None,
    coefficients: Coefficients | None = None,
    adjoint: str = "recursive",
    trace: bool = False,
    tolerance: float = 1e-3,
) -> Solve:
    """Solve dx/dt = f(t, x, args), x(t0) = x0, visiting the schedule's times: n solver steps, n static.

    With solver "euler", x_{i+1} = x_i + h_i f(t_i, x_i); at h = 1 this is the weight-tied residual network. Anything
    that is traced or differentiated (parameters, masks) must enter through `args`, never through a closure.

    Args:
        field: f(t, x, args), or a tuple of parts for solver "lie".
        x0: initial state, an array of any shape.
        schedule: times in depth-time (one trained block application = 1).
        solver: a name in `SOLVERS`, of which an adaptive one chooses its own steps between the ends of the schedule; or
            an explicit Runge-Kutta solver object of Diffrax, such as ``diffrax.Ralston()``, which takes the schedule's.
        args: pytree handed to the field.
        coefficients: of solver "calibrated"; may be traced and differentiated.
        adjoint: "recursive" stores one state a step and recomputes the field in the backward pass (Diffrax's own
            loop); "remat" also stores what the field marks as `KEPT`: a little more memory, less time, and it works
            under pmap, where JAX refuses to transpose Diffrax's loop; "nested" stores every sqrt(n)-th state and runs
            the steps from one to the next again before it goes back over them (Chen et al. 2016, section 4.3); "unroll"
            writes the steps out and stores all. "remat", "nested" and "unroll" allow every derivative. "recursive" and
            adaptive solvers allow reverse mode (`jax.grad`, `jax.vjp`) and forward over reverse (`jax.hessian`,
            `jax.jvp` of a gradient), but neither forward mode alone (`jax.jvp`, `jax.jacfwd`) nor reverse over reverse
            (`jax.grad` of a gradient).
        trace: also return the trajectory with its norms and cosines.
        tolerance: relative and absolute, for adaptive solvers; one that needs over 4,096 steps gives NaN.

    Raises:
        UserError: unknown solver or adjoint, a field whose form does not fit it, or forward mode through a solve that
            does not allow it (JAX's own TypeError where the solve was traced before, as in `jax.jvp` of a jitted one).
    """
    spec = get_solver(solver)
    require(
        spec.split == isinstance(field, tuple),
        f'solver "{spec.name}" needs ' + ("a tuple of fields, one a part" if spec.split else "one field, not a tuple"),
    )
    method = spec.make(schedule, coefficients)
    allowed = get_args(Adjoint)
    require(adjoint in allowed, f'depth.adjoint = "{adjoint}": allowed are {", ".join(allowed)}')
    require(
        not (trace and spec.adaptive), f'solver "{spec.name}" chooses its own steps: a trace needs a fixed-step solver'
    )
    if adjoint != "recursive" and not spec.adaptive:
        method = written_out(method) if adjoint == "unroll" else method
        return _stepped(field, x0, schedule, method, spec, args, trace, adjoint)
    steps = ADAPTIVE_LIMIT if spec.adaptive else schedule.steps
    try:
        solution = diffrax.diffeqsolve(
            as_terms(field),
            method,
            t0=schedule.times[0],
            t1=schedule.times[-1],
            dt0=None,
            y0=x0,
            args=args,
            saveat=diffrax.SaveAt(t0=True, steps=True) if trace else diffrax.SaveAt(t1=True),
            stepsize_controller=(
                diffrax.PIDController(rtol=tolerance, atol=tolerance)
                if spec.adaptive
                else step_controller(schedule.times)
            ),
            adjoint=diffrax.RecursiveCheckpointAdjoint(checkpoints=steps),
            max_steps=steps,
            throw=False,
        )
    except TypeError as error:
        # JAX says it nowhere but in its text
        if "custom_vjp" not in str(error):
            raise
        raise UserError(_no_forward_mode(spec)) from None
    assert solution.ys is not None
    evaluations = spec.evaluations(solution.stats["num_steps"] if spec.adaptive else steps)
    if spec.adaptive:
        # Out of steps: half a solve must not pass for a whole one.
        done = diffrax.is_okay(solution.result)
        return Solve(jnp.where(done, solution.ys[0], jnp.nan), evaluations)
    if not trace:
        return Solve(solution.ys[0], evaluations)
    return Solve(solution.ys[-1], evaluations, measure(solution.ys, schedule.times))


def _no_forward_mode(spec: SolverSpec) -> str:
    if spec.adaptive:
        return (
            f'solver "{spec.name}" chooses its own steps, which allow no forward mode (jax.jvp, jax.jacfwd): use '
            "jax.vjp, or a fixed-step solver"
        )
    return (
        'depth.adjoint = "recursive" allows no forward mode (jax.jvp, jax.jacfwd): use "remat" or "unroll", which '
        "allow every derivative"
    )


def _stepped(
    field: Any,
    x0: Any,
    schedule: Schedule,
    solver: diffrax.AbstractSolver,
    spec: SolverSpec,
    args: Any,
    trace: bool,
    adjoint: str,
) -> Solve:
    """The same solver's own steps, in `lax.scan` with rematerialisation or written out."""
    terms = as_terms(field)
    times = jnp.asarray(schedule.times, jnp.float32)

    def step(carry: Any, interval: Any) -> tuple[Any, Any]:
        x, state = carry
        t0, t1 = interval
        x, _, _, state, _ = solver.step(terms, t0, t1, x, args, state, made_jump=False)
        return (x, state), x if trace else None

    carry = (x0, solver.init(terms, times[0], times[1], x0, args))
    if adjoint == "nested":
        (x, _), states = _nested(step, carry, (times[:-1], times[1:]))
    elif adjoint == "remat":
        keep = jax.checkpoint_policies.save_from_both_policies(
            jax.checkpoint_policies.save_only_these_names(KEPT),
            lambda primitive, *_, **__: primitive.name.startswith(KEPT_KERNEL),
        )
        (x, _), states = jax.lax.scan(jax.checkpoint(step, policy=keep), carry, (times[:-1], times[1:]))
    else:
        visited = []
        for interval in itertools.pairwise(times):
            carry, x = step(carry, interval)
            visited.append(x)
        x, states = carry[0], visited
    result = measure(jnp.concatenate([x0[None], jnp.stack(states)]), schedule.times) if trace else None
    return Solve(x, spec.evaluations(schedule.steps), result)


def _nested(step: Any, carry: Any, intervals: Any) -> tuple[Any, Any]:
    """`lax.scan` of the steps in stretches of about sqrt(n); what is left over comes last."""

    def stretch(carry: Any, intervals: Any) -> tuple[Any, Any]:
        return jax.lax.scan(jax.checkpoint(step), carry, intervals)

    steps = len(intervals[0])
    length = math.isqrt(steps)
    whole = steps - steps % length
    split = jax.tree.map(lambda x: x[:whole].reshape(-1, length), intervals)
    carry, states = jax.lax.scan(jax.checkpoint(stretch), carry, split)
    states = jax.tree.map(lambda x: x.reshape(whole, *x.shape[2:]), states)
    if whole < steps:
        carry, rest = jax.checkpoint(stretch)(carry, jax.tree.map(lambda x: x[whole:], intervals))
        states = jax.tree.map(lambda x, y: jnp.concatenate([x, y]), states, rest)
    return carry, states


def field_evaluations(solver: str | diffrax.AbstractSolver, steps: int) -> int:
    """Field evaluations of a fixed-step solve, counting every stage."""
    return get_solver(solver).evaluations(steps)


__all__ = ["Adjoint", "Solve", "field_evaluations", "integrate"]
