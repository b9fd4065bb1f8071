"""Every solver has its order, counts its evaluations and visits the times it is given."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.linalg import expm

from jaxode.config import UserError
from jaxode.depth import SOLVERS, LieSplitting, Schedule, field_evaluations, get_solver, integrate, step_until

MATRIX = jnp.array([[-0.5, 1.0], [-1.5, -0.2]])
# Two parts that do not commute, so the splitting itself has an error.
LOWER, UPPER = jnp.tril(MATRIX), jnp.triu(MATRIX, 1)
START = jnp.array([1.0, -0.5, 0.2])
SPAN = 2.0
EXACT = jnp.append(expm(MATRIX * SPAN) @ START[:2], jax.nn.sigmoid(jnp.log(0.2 / 0.8) + SPAN**2 / 2))
FIXED = [name for name, spec in SOLVERS.items() if not spec.adaptive and name != "calibrated"]
ADAPTIVE = [name for name, spec in SOLVERS.items() if spec.adaptive]


def first_part(t, y, args):
    return jnp.append(LOWER @ y[:2], t * y[2])


def second_part(t, y, args):
    return jnp.append(UPPER @ y[:2], -t * y[2] ** 2)


def whole(t, y, args):
    """Y' = A y beside y' = t y (1 - y), nonlinear and not autonomous: logit y(t) = logit y(0) + t^2 / 2."""
    return first_part(t, y, args) + second_part(t, y, args)


def field_of(solver):
    return (first_part, second_part) if SOLVERS[solver].split else whole


def errors(solver, steps, **kwargs):
    """Of the linear and of the nonlinear problem."""
    end = integrate(field_of(solver), START, Schedule.even(SPAN, steps), solver, **kwargs).state
    return float(jnp.linalg.norm((end - EXACT)[:2])), float(abs(end - EXACT)[2])


# --- order ----------------------------------------------------------------------------------------------------------


@pytest.mark.broad
@pytest.mark.parametrize("solver", [name for name in FIXED if SOLVERS[name].order > 0])
def test_error_falls_with_the_order(solver):
    """The slope of log error against log step; single precision leaves a fourth-order solver only coarse steps."""
    order = SOLVERS[solver].order
    counts = {1: (64, 128, 512), 2: (32, 64, 128), 4: (6, 9, 14)}[order]
    measured = np.array([errors(solver, steps) for steps in counts])
    slopes = np.polyfit(np.log(SPAN / np.array(counts)), np.log(measured), 1)[0]
    np.testing.assert_allclose(slopes, order, atol=0.2, err_msg=f"errors {measured} at {counts} steps")


@pytest.mark.broad
@pytest.mark.parametrize("solver", ADAPTIVE)
def test_adaptive_solvers_meet_their_tolerance(solver):
    for tolerance in (1e-3, 1e-5):
        assert max(errors(solver, 1, tolerance=tolerance)) < 5 * tolerance


@pytest.mark.parametrize("solver", [*FIXED, *ADAPTIVE])
def test_the_table_agrees_with_the_solver(solver):
    spec = get_solver(solver)
    made = spec.make(Schedule.even(SPAN, 3))
    assert made.order(None) == spec.order or spec.rule is not None
    tableau = getattr(made, "tableau", None)
    if tableau is not None:
        assert spec.stages == tableau.num_stages - tableau.fsal


# --- evaluations ----------------------------------------------------------------------------------------------------


def watched(field):
    """The same field with a list of the times at which it was really evaluated."""
    times = []

    def watch(t, y, args):
        jax.debug.callback(lambda t: times.append(float(t)), t)
        return field(t, y, args)

    return watch, times


def watched_solve(solver, schedule, **kwargs):
    # A split step evaluates each part once: watch the first.
    watch, times = watched(first_part if SOLVERS[solver].split else whole)
    field = (watch, second_part) if SOLVERS[solver].split else watch
    solve = integrate(field, START, schedule, solver, **kwargs)
    jax.block_until_ready(solve.state)
    jax.effects_barrier()
    return solve, times


@pytest.mark.broad
@pytest.mark.parametrize("adjoint", ["recursive", "remat", "unroll"])
@pytest.mark.parametrize("solver", FIXED)
def test_evaluations_are_counted_exactly(solver, adjoint):
    solve, times = watched_solve(solver, Schedule.even(SPAN, 3), adjoint=adjoint)
    assert len(times) == solve.evaluations == field_evaluations(solver, 3) == 3 * SOLVERS[solver].stages


@pytest.mark.parametrize("solver", ADAPTIVE)
def test_adaptive_evaluations_are_counted(solver):
    solve, times = watched_solve(solver, Schedule.even(SPAN, 1))
    assert len(times) == int(solve.evaluations)


# --- objects of Diffrax ----------------------------------------------------------------------------------------------


def ralston(steps):
    """X <- x + h (k1 / 4 + 3 k2 / 4), k2 at two thirds of the step."""
    x, h = START, SPAN / steps
    for i in range(steps):
        first = whole(i * h, x, None)
        x = x + h / 4 * (first + 3 * whole((i + 2 / 3) * h, x + 2 / 3 * h * first, None))
    return x


@pytest.mark.parametrize("adjoint", ["recursive", "remat", "unroll"])
def test_a_solver_object_is_taken_as_it_is(adjoint):
    end = integrate(whole, START, Schedule.even(SPAN, 5), diffrax.Ralston(), adjoint=adjoint).state
    np.testing.assert_allclose(end, ralston(5), rtol=1e-5)


@pytest.mark.broad
@pytest.mark.parametrize(
    ("solver", "name"), [(diffrax.Euler(), "euler"), (diffrax.Heun(), "heun"), (LieSplitting(), "lie")]
)
def test_an_object_does_what_its_name_does(solver, name):
    schedule = Schedule.even(SPAN, 3)
    own, named = (integrate(field_of(name), START, schedule, which) for which in (solver, name))
    np.testing.assert_array_equal(own.state, named.state)
    assert own.evaluations == named.evaluations == field_evaluations(solver, 3)


@pytest.mark.broad
@pytest.mark.parametrize("adjoint", ["recursive", "remat", "unroll"])
@pytest.mark.parametrize(
    ("solver", "count"),
    [(diffrax.Ralston(), 6), (diffrax.Bosh3(), 10), (diffrax.Tsit5(), 19), (diffrax.Dopri8(), 40)],
    ids=lambda value: type(value).__name__,
)
def test_evaluations_of_an_object_are_counted_exactly(solver, count, adjoint):
    """Three steps; where the last stage is the next step's first, one evaluation more at the start."""
    watch, times = watched(whole)
    solve = integrate(watch, START, Schedule.even(SPAN, 3), solver, adjoint=adjoint)
    jax.block_until_ready(solve.state)
    jax.effects_barrier()
    assert len(times) == solve.evaluations == field_evaluations(solver, 3) == count


def test_an_object_takes_the_steps_of_the_schedule():
    watch, times = watched(whole)
    jax.block_until_ready(integrate(watch, START, UNEVEN, diffrax.Tsit5()).state)
    jax.effects_barrier()
    assert set(UNEVEN.times) <= set(times)


def test_rows_stop_along_an_objects_steps():
    def field(t, y, args):
        return t - y**2

    ended = step_until(field, START[None], Schedule.even(SPAN, 5), diffrax.Bosh3())
    want = integrate(field, START, Schedule.even(SPAN, 5), diffrax.Bosh3()).state
    np.testing.assert_allclose(ended.state[0], want, rtol=1e-6)


@pytest.mark.parametrize(
    "solver",
    [
        diffrax.Kvaerno3(),
        diffrax.ImplicitEuler(),
        diffrax.KenCarp3(),
        diffrax.SemiImplicitEuler(),
        diffrax.HalfSolver(diffrax.Heun()),
        diffrax.ShARK(),
        diffrax.ItoMilstein(),
    ],
    ids=lambda solver: type(solver).__name__,
)
def test_objects_whose_steps_cannot_be_counted_are_refused(solver):
    with pytest.raises(UserError, match=rf"solver {type(solver).__name__}: an object must be an explicit Runge-Kutta"):
        integrate(whole, START, Schedule.even(SPAN, 3), solver)


def test_a_solver_class_is_refused_with_the_object():
    with pytest.raises(UserError, match=r"of a solver class give an object, Ralston\(\)"):
        get_solver(diffrax.Ralston)


# --- times ----------------------------------------------------------------------------------------------------------

UNEVEN = Schedule((0.0, 0.25, 1.0, 1.125, 4.0))


@pytest.mark.parametrize("adjoint", ["recursive", "unroll"])
@pytest.mark.parametrize("solver", ["euler", "lie"])
def test_an_uneven_schedule_is_visited_exactly(solver, adjoint):
    _, times = watched_solve(solver, UNEVEN, adjoint=adjoint)
    assert sorted(times) == list(UNEVEN.times[:-1])


@pytest.mark.broad
@pytest.mark.parametrize("adjoint", ["recursive", "unroll"])
@pytest.mark.parametrize(
    ("solver", "want"),
    [
        ("euler", sum(t * h for t, h in zip(UNEVEN.times, UNEVEN.sizes, strict=False))),
        ("heun", 8.0),
        ("midpoint", 8.0),
        ("rk4", 8.0),
    ],
)
def test_the_integral_of_time_is_the_solvers_quadrature(solver, want, adjoint):
    """F = t: Euler gives the left Riemann sum over the schedule, second order and above the exact 4^2 / 2."""
    end = integrate(lambda t, y, args: t * jnp.ones_like(y), jnp.zeros(2), UNEVEN, solver, adjoint=adjoint).state
    np.testing.assert_allclose(end, want, rtol=1e-6)


def test_an_unknown_solver_is_refused_with_the_known_ones():
    with pytest.raises(UserError, match=r'depth.solver = "rk5": allowed are euler, lie, heun, midpoint, rk4, ab2'):
        get_solver("rk5")


def test_an_adaptive_solve_that_runs_out_of_steps_is_not_a_number():
    """Explicit methods need about 1e5 / 3 steps here, more than the limit."""
    stiff = integrate(lambda t, x, args: -1e5 * x + t, jnp.ones(2), Schedule.even(1.0, 1), "tsit5")
    assert bool(jnp.all(jnp.isnan(stiff.state)))
