"""Schedules are ranked by what the trajectory alone says."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxode.calibration.search import gram, rank_schedules, sizes, step_error


def trajectory(rng, steps, rows=40, width=3, decay=0.7):
    """Increments that shrink and turn, as those of a trained network do."""
    turn = np.linalg.qr(rng.normal(size=(width, width)))[0]
    increments = [rng.normal(size=(rows, width))]
    for _ in range(steps - 1):
        increments.append(decay * increments[-1] @ (0.8 * np.eye(width) + 0.2 * turn))
    start = rng.normal(size=(1, rows, width))
    return np.concatenate([start, start + np.cumsum(increments, 0)])


def by_hand(states, before, start, end):
    """The same error by least squares on the states themselves."""
    basis = [(states[t + 1] - states[t]).ravel() for t in ([start] if before is None else [start, before])]
    wanted = (states[end] - states[start]).ravel()
    weights = np.linalg.lstsq(np.stack(basis, 1), wanted, rcond=None)[0]
    missed = wanted - sum(w * b for w, b in zip(weights, basis, strict=True))
    return missed @ missed / np.sum(states[end] ** 2)


def test_a_steps_error_is_that_of_the_best_combination():
    states = trajectory(np.random.default_rng(0), 6)
    products = gram(states)
    for before, start, end in [(None, 0, 1), (None, 0, 3), (0, 2, 5), (1, 2, 6), (2, 5, 6)]:
        expected = by_hand(states, before, start, end)
        assert step_error(products, before, start, end) == pytest.approx(expected, rel=1e-3, abs=1e-5)


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 5), st.integers(0, 100))
def test_the_first_schedule_is_the_best_of_all(steps, seed):
    products = gram(trajectory(np.random.default_rng(seed), 6))

    def cost(times):
        befores = (None, *times[:-2])
        return sum(step_error(products, *key) for key in zip(befores, times[:-1], times[1:], strict=True))

    every = [(0, *inner, 6) for inner in itertools.combinations(range(1, 6), steps - 1)]
    ranked = rank_schedules(products, steps)
    assert sorted(ranked) == sorted(every)
    assert cost(ranked[0]) == pytest.approx(min(map(cost, every)))
    assert all(sum(sizes(times)) == 6 and min(sizes(times)) >= 1 for times in ranked)


def test_a_trajectory_that_starts_in_a_hurry_wants_its_short_steps_early():
    products = gram(trajectory(np.random.default_rng(0), 12, decay=0.6))
    best = sizes(rank_schedules(products, 4)[0])
    assert best[0] == 1
    assert best[-1] == max(best)
