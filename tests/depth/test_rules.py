"""Every rule against its formula in NumPy, on random increments; limits; what is refused."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxode.config import UserError
from jaxode.depth import Acceleration, Schedule, StateChange, StepError, sequence_mean, step_until
from jaxode.inference import Confidence, Divergence, Patience

STEPS, BATCH, LENGTH, WIDTH = 6, 2, 3, 4
START = np.asarray(jax.random.normal(jax.random.key(0), (BATCH, LENGTH, WIDTH)))
seeds = st.integers(0, 10_000)


@jax.jit
def steps(table, rule):
    """Solver steps under a rule where the increments are those of `table`."""
    field = lambda t, x, args: args[jnp.int32(t)]  # noqa: E731
    return step_until(field, jnp.asarray(START), Schedule.even(STEPS, STEPS), "euler", rule, args=table).steps


def norm(x):
    return np.linalg.norm(x, axis=-1)


def signals(rule, table):
    """The rule's number after each step, [n, B, L], from its definition."""
    states = START + np.cumsum(table, axis=0)
    turn = np.diff(table, axis=0, prepend=np.full_like(table[:1], np.inf))
    if isinstance(rule, StateChange):
        return norm(table) / norm(states)
    if isinstance(rule, StepError):
        return norm(turn / 2) / norm(states)
    before = np.concatenate([table[:1], table[:-1]])
    return norm(turn) / (norm(table) + norm(before) if rule.normalised else 1.0)


def first_exit(found, threshold, hits=1):
    below = found < threshold
    run = np.zeros(found.shape[1:], int)
    out = np.full(found.shape[1:], STEPS)
    for i in range(STEPS):
        run = np.where(below[i], run + 1, 0)
        out = np.where((run >= hits) & (out == STEPS), np.minimum(out, i + 1), out)
    return out


@pytest.mark.parametrize("granularity", ["token", "sequence"])
@pytest.mark.parametrize(
    ("rule", "options"),
    [(StepError, {}), (StateChange, {}), (Acceleration, {}), (Acceleration, {"normalised": False, "hits": 1})],
)
def test_rules_stop_where_their_formula_says(rule, options, granularity):
    @settings(max_examples=15, deadline=None)
    @given(seeds, st.floats(0.1, 0.9))
    def check(seed, quantile):
        table = np.random.default_rng(seed).normal(size=(STEPS, BATCH, LENGTH, WIDTH)).astype(np.float32)
        probe = rule(0.0, granularity, **options)
        found = signals(probe, table)
        if granularity == "sequence":
            found = found.mean(-1)
        # between two of the values, never on one
        values = np.sort(found[np.isfinite(found)])
        k = int(quantile * (len(values) - 1))
        threshold = float(values[k] + values[k + 1]) / 2
        want = first_exit(found, threshold, getattr(probe, "hits", 1))
        got = steps(jnp.asarray(table), dataclasses.replace(probe, threshold=threshold))
        np.testing.assert_array_equal(got, want)

    check()


@settings(max_examples=10, deadline=None)
@given(seeds, st.floats(0.0, 2.0), st.floats(0.0, 2.0))
def test_a_lower_threshold_never_stops_a_token_earlier(seed, one, other):
    table = jnp.asarray(np.random.default_rng(seed).normal(size=(STEPS, BATCH, LENGTH, WIDTH)), jnp.float32)
    low, high = sorted((one, other))
    assert (np.asarray(steps(table, StateChange(low))) >= np.asarray(steps(table, StateChange(high)))).all()


def test_thresholds_of_zero_and_infinity():
    table = jnp.asarray(np.random.default_rng(0).normal(size=(STEPS, BATCH, LENGTH, WIDTH)), jnp.float32)
    for rule, earliest in ((StepError, 2), (StateChange, 1), (Acceleration, 3)):
        for granularity in ("token", "sequence"):
            assert (np.asarray(steps(table, rule(0.0, granularity))) == STEPS).all()
            assert (np.asarray(steps(table, rule(np.inf, granularity))) == earliest).all()


def test_thresholds_do_not_compile_again(compilations):
    table = jnp.zeros((STEPS, BATCH, LENGTH, WIDTH))
    steps(table, StepError(0.1))
    before = compilations()
    for threshold in (0.2, 3.0, float("inf")):
        steps(table, StepError(threshold))
    assert compilations() == before


def test_the_mean_of_a_sequence_leaves_padding_out():
    signal = jnp.array([[1.0, 2.0, 9.0], [1.0, 2.0, 9.0]])
    weights = jnp.array([[1.0, 1.0, 0.0], [1.0, 1.0, 1.0]])
    np.testing.assert_allclose(sequence_mean(signal, weights), [1.5, 4.0])
    np.testing.assert_allclose(sequence_mean(signal, None), [4.0, 4.0])


@pytest.mark.parametrize("rule", [StepError, StateChange, Acceleration, Divergence, Confidence, Patience])
def test_wrong_settings_are_refused_at_construction(rule):
    name = rule.__name__
    with pytest.raises(UserError, match=f'{name}: granularity = "layer": allowed are sequence, token'):
        rule(0.1, "layer")
    for wrong in (-0.1, float("nan"), jnp.float32(-1.0)):
        with pytest.raises(UserError, match=f"{name}: threshold = .*: must be"):
            rule(wrong)
    with pytest.raises(UserError, match=rf"{name}: threshold of shape \[2\]: must be one number"):
        rule(np.array([0.1, 0.2]))


def test_a_probability_above_one_and_no_hits_are_refused():
    with pytest.raises(UserError, match=r"Confidence: threshold = 1.5: must be from 0 to 1"):
        Confidence(1.5)
    with pytest.raises(UserError, match="hits = 0: must be at least 1"):
        Acceleration(0.1, hits=0)
