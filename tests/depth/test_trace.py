"""Measurements of a trajectory against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxode.depth import Schedule, integrate, join, measure

TIMES = (0.0, 1.0, 1.5, 4.0)


@pytest.fixture
def states():
    return jax.random.normal(jax.random.key(0), (4, 2, 3, 5))


def test_measure_equals_numpy(states):
    trace = measure(states, TIMES)
    x = np.asarray(states, np.float64)
    increments, sizes = np.diff(x, axis=0), np.diff(TIMES)
    norms = np.linalg.norm(increments, axis=-1)
    cosines = [
        np.mean(np.sum(a * b, axis=-1) / (na * nb))
        for a, b, na, nb in zip(increments, increments[1:], norms, norms[1:], strict=False)
    ]
    np.testing.assert_array_equal(trace.states, states)
    np.testing.assert_allclose(trace.times, TIMES)
    np.testing.assert_allclose(trace.state_norm, np.linalg.norm(x, axis=-1).mean((1, 2)), rtol=1e-5)
    np.testing.assert_allclose(trace.field_norm, norms.mean((1, 2)) / sizes, rtol=1e-5)
    np.testing.assert_allclose(trace.cosine, cosines, rtol=1e-4, atol=1e-6)


def test_joined_traces_are_one_trajectory(states):
    whole = measure(states, TIMES)
    pieces = [measure(states[:2], TIMES[:2]), measure(states[1:], tuple(t - 1.0 for t in TIMES[1:]))]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), join(pieces), whole)


def test_one_trace_joins_to_itself(states):
    trace = measure(states, TIMES)
    jax.tree.map(np.testing.assert_array_equal, join([trace]), trace)


@pytest.mark.parametrize("adjoint", ["recursive", "unroll"])
@pytest.mark.parametrize("solver", ["euler", "rk4"])
def test_a_constant_field_goes_straight(solver, adjoint):
    """Cosine 1 and the field's own norm whatever the step sizes: increments are divided by h."""
    direction = jnp.arange(1.0, 6.0)
    x0 = jax.random.normal(jax.random.key(1), (2, 3, 5))
    solve = integrate(
        lambda t, x, args: jnp.broadcast_to(args, x.shape),
        x0,
        Schedule(TIMES),
        solver,
        args=direction,
        adjoint=adjoint,
        trace=True,
    )
    trace = solve.trace
    assert (trace.states.shape, trace.cosine.shape, trace.field_norm.shape) == ((4, 2, 3, 5), (2,), (3,))
    np.testing.assert_allclose(trace.times, TIMES)
    np.testing.assert_array_equal(trace.states[0], x0)
    np.testing.assert_array_equal(trace.states[-1], solve.state)
    np.testing.assert_allclose(trace.cosine, 1.0, atol=1e-5)
    np.testing.assert_allclose(trace.field_norm, np.linalg.norm(direction), rtol=1e-5)


def test_asking_for_a_trace_changes_nothing_else():
    x0 = jax.random.normal(jax.random.key(1), (2, 3, 5))

    def solve(trace):
        return integrate(lambda t, x, args: jnp.sin(x) + t, x0, Schedule(TIMES), "heun", trace=trace)

    plain, traced = solve(False), solve(True)
    assert plain.trace is None
    assert plain.evaluations == traced.evaluations == 6
    np.testing.assert_allclose(plain.state, traced.state, rtol=1e-6)


def test_one_step_has_a_trace_without_cosines():
    trace = integrate(lambda t, x, args: -x, jnp.ones((2, 3)), Schedule((0.0, 0.5)), trace=True).trace
    assert trace.cosine.shape == (0,)
    np.testing.assert_allclose(trace.field_norm, [np.sqrt(3)], rtol=1e-6)


def test_a_field_at_rest_gives_zeros_not_nans():
    trace = integrate(lambda t, x, args: 0 * x, jnp.ones((2, 3)), Schedule(TIMES), trace=True).trace
    np.testing.assert_array_equal(trace.field_norm, 0.0)
    np.testing.assert_array_equal(trace.cosine, 0.0)
