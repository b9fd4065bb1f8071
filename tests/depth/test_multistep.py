"""Multistep methods: their order, their start, and the trained network at step 1."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.scipy.linalg import expm

from jaxode.config import UserError
from jaxode.depth import Coefficients, Schedule, adams_bashforth, integrate, secant

MATRIX = jnp.array([[-0.5, 1.0], [-1.5, -0.2]])
START = jnp.array([1.0, -0.5])
sizes = st.lists(st.floats(0.1, 5.0), min_size=1, max_size=8)


def linear(t, y, args):
    return MATRIX @ y


@pytest.mark.parametrize("order", [1, 2, 3])
def test_adams_bashforth_has_its_order_once_started(order):
    """The first, lower-order steps are made so short that their error has the order of the whole."""
    measured, counts = [], np.array([6, 12, 24])
    for count in counts:
        h = 1.0 / count
        start = [h ** (order / 2)] * (order - 1)
        table = adams_bashforth([*start, *[h] * count], order)
        times = np.concatenate([[0.0], np.cumsum([*start, *[h] * count])])
        end = integrate(linear, START, Schedule(tuple(times)), "calibrated", coefficients=Coefficients(table)).state
        measured.append(float(jnp.linalg.norm(end - expm(MATRIX * times[-1]) @ START)))
    slope = np.polyfit(np.log(1 / counts), np.log(measured), 1)[0]
    assert slope == pytest.approx(order, abs=0.25), measured


@given(sizes)
def test_rows_sum_to_the_step_and_use_nothing_before_the_start(some):
    for table in (adams_bashforth(some, 2), adams_bashforth(some, 3), secant(some)):
        np.testing.assert_allclose(table.sum(axis=1), some, rtol=1e-9)
        for i, row in enumerate(table):
            assert not row[i + 1 :].any()


@given(st.integers(1, 8))
def test_the_secant_rule_is_the_trained_network_at_step_one(count):
    np.testing.assert_array_equal(secant([1.0] * count), [[1.0, 0.0]] * count)


def test_on_even_steps_the_memory_weighs_h_minus_one():
    np.testing.assert_allclose(secant([3.0, 3.0]), [[3.0, 0.0], [5.0, -2.0]])


@pytest.mark.parametrize("adjoint", ["recursive", "remat", "unroll"])
def test_given_coefficients_are_the_recurrence_and_can_be_learned(adjoint):
    table = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)))

    def solve(coefficients):
        schedule = Schedule.even(4, 4)
        return integrate(
            linear, START, schedule, "calibrated", coefficients=Coefficients(coefficients), adjoint=adjoint, trace=True
        ).trace.states

    def loop(coefficients):
        x, fields, states = START, [], [START]
        for i in range(4):
            fields = [MATRIX @ x, *fields]
            x = x + sum(coefficients[i, j] * fields[j] for j in range(min(i + 1, 3)))
            states.append(x)
        return jnp.stack(states)

    np.testing.assert_allclose(solve(table), loop(table), rtol=1e-5)
    slope, expected = (jax.grad(lambda c, f=f: jnp.sum(f(c) ** 2))(table) for f in (solve, loop))
    np.testing.assert_allclose(slope, expected, rtol=1e-4, atol=1e-5)
    assert float(jnp.abs(slope).max()) > 0.1


def test_a_low_rank_correction_turns_the_increments():
    rng = np.random.default_rng(0)
    weights, down, up = (rng.normal(size=shape) for shape in ((3, 2), (3, 2, 2, 1), (3, 1, 2)))
    coefficients = Coefficients(weights, down, up)
    got = integrate(linear, START, Schedule.even(3, 3), "calibrated", coefficients=coefficients).state
    x, before = np.asarray(START, np.float64), np.zeros(2)
    for i in range(3):
        field = np.asarray(MATRIX) @ x
        inner = field @ down[i, 0] + before @ down[i, 1]
        x, before = x + weights[i, 0] * field + weights[i, 1] * before + inner @ up[i], field
    np.testing.assert_allclose(got, x, rtol=1e-4)


def test_coefficients_that_do_not_fit_are_refused():
    with pytest.raises(UserError, match="needs the coefficients of a calibration"):
        integrate(linear, START, Schedule.even(3, 3), "calibrated")
    with pytest.raises(UserError, match='use "calibrated"'):
        integrate(linear, START, Schedule.even(3, 3), "euler", coefficients=Coefficients(jnp.ones((3, 1))))
    with pytest.raises(UserError, match="coefficients for 2 steps, but the schedule has 3"):
        integrate(linear, START, Schedule.even(3, 3), "calibrated", coefficients=Coefficients(jnp.ones((2, 1))))
