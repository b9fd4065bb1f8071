"""Read-outs at every depth are truncated solves; the error estimate is that of the trajectory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxode.config import DepthConfig, ModelConfig, UserError
from jaxode.depth import Schedule, integrate, secant
from jaxode.inference import error_estimates, read_outs
from jaxode.model import make_model

SIZES = {"vocab_size": 31, "width": 16, "heads": 2, "length": 8, "steps": 4, "output_init": 1.0}
TOKENS = jax.random.randint(jax.random.key(0), (2, 6), 0, 31)
SEGMENTS = jnp.array([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]])


@pytest.fixture(scope="module")
def model(lively):
    return lively(make_model(ModelConfig(**SIZES, sharing="sequence", groups=2, prelude=1, coda=1)))


def groups_by_hand(model, solver):
    """Fields and schedules of the two groups, the embedded state and its context."""
    x, context = model.start(TOKENS, segments=SEGMENTS)
    return model.stack.groups(DepthConfig(solver=solver), context, None), model.stack.enter(x, context), context


@pytest.mark.broad
@pytest.mark.parametrize("solver", ["euler", "ab2"])
def test_read_outs_are_truncated_solves(model, solver):
    groups, x, context = groups_by_hand(model, solver)
    found = read_outs(model, TOKENS, DepthConfig(solver=solver), segments=SEGMENTS)
    assert found.shape == (5, 2, 6, 31)
    want = [x]
    for group in groups:
        times = group.schedule.times
        begin = want[-1]
        for end in range(2, len(times) + 1):
            part = Schedule(times[:end])
            want.append(integrate(group.field, begin, part, solver, args=group.args, adjoint="unroll").state)
    for logits, state in zip(found, want, strict=True):
        alone = model.head(model.stack.leave(state, context), model.embedding)
        np.testing.assert_allclose(logits, alone, rtol=1e-5, atol=1e-5)
    last = model(TOKENS, DepthConfig(solver=solver), segments=SEGMENTS).logits
    np.testing.assert_allclose(found[-1], last, rtol=1e-5, atol=1e-5)


def test_euler_at_full_depth_truncates_to_the_unit_schedule(lively):
    model = lively(make_model(ModelConfig(**SIZES)))
    found = read_outs(model, TOKENS)
    for steps in (1, 3):
        truncated = model(TOKENS, DepthConfig(steps=steps, schedule="unit")).logits
        np.testing.assert_allclose(found[steps], truncated, rtol=1e-5, atol=1e-5)


def test_error_estimates_are_those_of_the_trajectory(model):
    """Secant on two steps of 1 a group adds nothing; Euler's is half the second difference, anew in each group."""
    trace = model.hidden(TOKENS, segments=SEGMENTS, trace=True).trace
    states = np.asarray(trace.states)
    increments = np.diff(states, axis=0)
    want = np.linalg.norm(np.diff(increments, axis=0) / 2, axis=-1) / np.linalg.norm(states[2:], axis=-1)
    want = np.stack([np.zeros((2, 6)), want[0], np.zeros((2, 6)), want[2]])
    found = error_estimates(model, TOKENS, segments=SEGMENTS)
    np.testing.assert_allclose(found.token, want, rtol=1e-4, atol=1e-7)
    real = np.asarray(SEGMENTS > 0)
    np.testing.assert_allclose(found.sequence, (want * real).sum(-1) / real.sum(-1), rtol=1e-4, atol=1e-7)
    assert np.abs(secant([1.0, 1.0])[:, 1]).max() == 0
    np.testing.assert_array_less(error_estimates(model, TOKENS, DepthConfig(solver="secant")).token, 1e-6)


def test_what_has_no_depth_to_read_is_refused():
    unshared = make_model(ModelConfig(**SIZES, sharing="none"))
    for call in (read_outs, error_estimates):
        with pytest.raises(UserError, match="an unshared model has no field"):
            call(unshared, TOKENS)
        with pytest.raises(UserError, match='"tsit5" chooses its own steps'):
            call(unshared, TOKENS, DepthConfig(solver="tsit5"))
