"""Magnitude matching: a planted factor comes back, and the lengths of the steps are the full depth's."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxode.calibration import magnitude_matching, match_magnitude
from jaxode.calibration.comparison import Comparison, Reference
from jaxode.calibration.magnitude import whole_times
from jaxode.config import DepthConfig, ModelConfig
from jaxode.data import Batch
from jaxode.model import make_model
from jaxode.model.parameters import split

MODEL = ModelConfig(vocab_size=31, width=16, heads=2, length=8, steps=4)
RATE = 0.3


class Linear(Comparison):
    """f(x) = RATE x in place of a model: x*(t) = (1 + RATE)^t x(0)."""

    def __init__(self):
        pass

    def states(self, coefficients, reference):
        x = [reference.states[0]]
        for weight in coefficients.weights[:, 0]:
            x.append(x[-1] + weight * RATE * x[-1])
        return np.stack(x)


def batches(count=2):
    rng = np.random.default_rng(0)
    made = []
    for _ in range(count):
        tokens = rng.integers(0, 31, (4, 9)).astype(np.int32)
        ones = np.ones((4, 8), np.int32)
        made.append(Batch(tokens[:, :-1], tokens[:, 1:], ones.astype(np.float32), ones))
    return made


def reference(x0, units):
    states = np.stack([(1 + RATE) ** t * x0 for t in range(units + 1)])
    batch = batches(1)[0]
    return Reference(batch, batch.segments > 0, states.reshape(units + 1, 32, 5), jnp.zeros((4, 8, 31)), 0.0, 32.0)


@pytest.mark.parametrize(("units", "steps"), [(12, 4), (12, 3), (6, 6), (7, 3)])
def test_a_linear_field_gives_its_growth_back(units, steps):
    """H unit steps multiply x by (1 + RATE)^h, so the one step that is as long weighs ((1 + RATE)^h - 1) / RATE."""
    rng = np.random.default_rng(0)
    references = [reference(rng.normal(size=(4, 8, 5)).astype(np.float32), units) for _ in range(2)]
    times = [round(i * units / steps) for i in range(steps + 1)]
    found = match_magnitude(Linear(), references, times)
    sizes = np.diff(times)
    assert found.weights.shape == (steps, 1)
    np.testing.assert_allclose(found.weights[:, 0], ((1 + RATE) ** sizes - 1) / RATE, rtol=1e-4)
    if units == steps:
        np.testing.assert_allclose(found.weights, 1.0, rtol=1e-4)


def test_the_times_are_those_of_each_group():
    uneven = ModelConfig(vocab_size=31, width=16, heads=2, steps=5, sharing="sequence", groups=2, group_steps="3,2")
    assert whole_times(uneven, 2) == (0, 3, 5)
    assert whole_times(uneven, 5) == (0, 1, 2, 3, 4, 5)
    assert whole_times(ModelConfig(vocab_size=31, steps=12), 5) == (0, 2, 5, 7, 10, 12)
    assert whole_times(ModelConfig(vocab_size=31, steps=12, sharing="cycle", groups=2), 4) == (0, 3, 6)


def test_a_field_at_rest_keeps_its_step_sizes():
    found = match_magnitude(Linear(), [reference(np.zeros((4, 8, 5), np.float32), 6)], (0, 3, 6))
    np.testing.assert_array_equal(found.weights, 3.0)


@pytest.mark.parametrize(
    ("layout", "rows"),
    [
        ({"kind": "masked", "prelude": 1}, 2),
        ({"sharing": "sequence", "groups": 2, "steps": 4}, 2),
        ({"sharing": "cycle", "groups": 2, "steps": 4}, 1),
    ],
)
@pytest.mark.broad
def test_every_step_is_as_long_as_the_full_depths_move(layout, rows):
    architecture, params = split(make_model(dataclasses.replace(MODEL, **layout)))
    params = {name: 3 * value for name, value in params.items()}
    (found,) = magnitude_matching(architecture, params, batches(), [2]).values()
    assert (found.weights.shape, found.down, found.up) == ((rows, 1), None, None)

    def lengths(depth, coefficients=None):
        model = architecture.bind(params)
        segments = None if model.config.kind == "causal" else jnp.ones((8, 8), int)
        tokens = jnp.concatenate([jnp.asarray(batch.tokens) for batch in batches()])
        solve = jax.jit(
            lambda: model.hidden(tokens, depth, segments=segments, coefficients=coefficients, trace=True).trace.states
        )
        states = np.asarray(solve())
        return np.linalg.norm(np.diff(states[:: (len(states) - 1) // rows], axis=0), axis=-1).mean((1, 2))

    wanted = lengths(DepthConfig())
    np.testing.assert_allclose(lengths(DepthConfig(steps=2, solver="calibrated"), found), wanted, rtol=1e-3)
    assert np.abs(lengths(DepthConfig(steps=2)) / wanted - 1).max() > 0.02, "else there is nothing to match"


def test_one_full_solve_serves_every_number_of_steps(monkeypatch):
    solved = []
    original = Comparison.reference
    monkeypatch.setattr(Comparison, "reference", lambda self, batch: (solved.append(1), original(self, batch))[1])
    architecture, params = split(make_model(MODEL))
    assert list(magnitude_matching(architecture, params, batches(), (2, 1))) == [2, 1]
    assert len(solved) == 2
    assert magnitude_matching(architecture, params, batches(), ()) == {}
