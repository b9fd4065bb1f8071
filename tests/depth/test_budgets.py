"""Rows with budgets of their own: each is what it would be alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxode.config import UserError
from jaxode.depth import Coefficients, Schedule, integrate, stack_tables, step_budgets

SPAN, MOST, WIDTH = 6.0, 4, 6
X0 = jax.random.normal(jax.random.key(0), (4, 3, WIDTH))


def field(t, x, args):
    """Depends on the time and on the other positions of the row."""
    return args * jnp.mean(x, axis=1, keepdims=True) + jnp.cos(0.3 * t) * jnp.tanh(x)


def alone(row, schedule, solver, coefficients=None):
    x = X0[row : row + 1]
    return integrate(field, x, schedule, solver, args=0.1, coefficients=coefficients, adjoint="unroll").state[0]


@pytest.mark.parametrize("solver", ["euler", "ab2", "ab3", "secant"])
@pytest.mark.parametrize("shape", ["even", "geometric"])
def test_every_row_is_what_it_is_alone(solver, shape):
    make = Schedule.even if shape == "even" else lambda span, n: Schedule.geometric(span, n, 1.5)
    schedules = [make(SPAN, n) for n in range(1, MOST + 1)]
    budgets = np.array([3, 1, 4, 2])
    out = step_budgets(field, X0, stack_tables(schedules, solver), jnp.asarray(budgets - 1), args=0.1)
    for row, n in enumerate(budgets):
        np.testing.assert_allclose(out.state[row], alone(row, schedules[n - 1], solver), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(out.steps, budgets)
    assert int(out.loops) == 4


def test_calibrations_of_different_memory_and_rank_share_a_table():
    rng = np.random.default_rng(0)

    def random(n, memory, rank):
        weights = rng.normal(size=(n, memory)).astype(np.float32)
        if rank == 0:
            return Coefficients(weights)
        down, up = rng.normal(size=(n, memory, WIDTH, rank)), 0.3 * rng.normal(size=(n, rank, WIDTH))
        return Coefficients(weights, down.astype(np.float32), up.astype(np.float32))

    given = [random(1, 1, 0), random(2, 2, 2), random(4, 3, 1)]
    schedules = [Schedule.even(SPAN, one.steps) for one in given]
    which = np.array([1, 2, 0, 1])
    out = step_budgets(field, X0, stack_tables(schedules, "calibrated", given), jnp.asarray(which), args=0.1)
    for row, entry in enumerate(which):
        want = alone(row, schedules[entry], "calibrated", given[entry])
        np.testing.assert_allclose(out.state[row], want, rtol=1e-4, atol=1e-5)


TABLES = stack_tables([Schedule.even(SPAN, n) for n in range(1, MOST + 1)], "secant")
solve = jax.jit(lambda which: step_budgets(field, X0, TABLES, which, args=0.1))


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, MOST), min_size=4, max_size=4), st.permutations(range(4)))
def test_a_row_does_not_depend_on_the_budgets_of_the_others(budgets, order):
    """The loop ends with the largest budget, and a row's result is the same in any company."""
    out = solve(jnp.asarray(budgets) - 1)
    same = solve(jnp.full(4, budgets[0] - 1))
    np.testing.assert_allclose(out.state[0], same.state[0], rtol=1e-6, atol=1e-6)
    assert int(out.loops) == max(budgets)
    np.testing.assert_array_equal(np.isfinite(np.asarray(out.error)).any(-1).sum(0), budgets)


def test_a_state_without_positions_will_do():
    x0 = X0[:, 0]
    out = step_budgets(lambda t, x, args: -0.1 * t * x, x0, TABLES, jnp.array([0, 1, 2, 3]))
    want = integrate(lambda t, x, args: -0.1 * t * x, x0[3:], Schedule.even(SPAN, 4), "secant", adjoint="unroll").state
    np.testing.assert_allclose(out.state[3:], want, rtol=1e-5)


def test_what_is_no_multistep_method_is_refused():
    with pytest.raises(UserError, match='solver "rk4": rows with budgets of their own need euler, ab2, ab3, secant'):
        stack_tables([Schedule.even(SPAN, 2)], "rk4")
    with pytest.raises(UserError, match="needs the coefficients of a calibration"):
        stack_tables([Schedule.even(SPAN, 2)], "calibrated")
