"""Least squares find what is planted."""

import dataclasses

import numpy as np
import pytest

from jaxode.calibration.comparison import Comparison
from jaxode.calibration.least_squares import follow, reduced_rank
from jaxode.config import ModelConfig
from jaxode.data import Batch
from jaxode.depth import Coefficients
from jaxode.model import make_model
from jaxode.model.parameters import split

STEPS, WIDTH = 4, 16


def test_reduced_rank_finds_planted_factors():
    rng = np.random.default_rng(0)
    features, first, second = (rng.normal(size=shape) for shape in ((500, 6), (6, 2), (2, 5)))
    down, up = reduced_rank(features, features @ first @ second, 2)
    np.testing.assert_allclose(down @ up, first @ second, atol=0.05)
    assert (down.shape, up.shape) == ((6, 2), (2, 5))


def recurrence(planted):
    """A model, and a text whose "full solve" is x_{i+1} = x_i + sum_j (w_ij f_{i-j} + (f_{i-j} P_ij) Q_i)."""
    config = ModelConfig(vocab_size=31, width=WIDTH, heads=2, length=8, steps=6)
    architecture, params = split(make_model(config, seed=0))
    comparison = Comparison(architecture, {name: 3 * value for name, value in params.items()}, STEPS, False)
    tokens = np.random.default_rng(1).integers(0, 31, (32, 9)).astype(np.int32)
    ones = np.ones((32, 8), np.int32)
    reference = comparison.reference(Batch(tokens[:, :-1], tokens[:, 1:], ones.astype(np.float32), ones))
    return comparison, dataclasses.replace(reference, trajectory=comparison.states(planted, reference))


@pytest.mark.parametrize("rank", [0, 2])
def test_the_coefficients_of_a_planted_recurrence_are_recovered(rank):
    rng = np.random.default_rng(0)
    weights = np.stack([rng.uniform(0.5, 3.0, STEPS), rng.uniform(-1.0, 1.0, STEPS)], 1).astype(np.float32)
    weights[0, 1] = 0.0  # nothing is remembered in the first step
    planted = Coefficients(weights)
    if rank:
        down = rng.normal(size=(STEPS, 2, WIDTH, rank)).astype(np.float32)
        down[0, 1] = 0.0
        planted = Coefficients(weights, down, rng.normal(size=(STEPS, rank, WIDTH)).astype(np.float32) / WIDTH)
    comparison, reference = recurrence(planted)
    found = follow(comparison, [reference], ((0, 1, 2, 3, 4),), memory=2, rank=rank)
    if rank:
        # weights and correction overlap: what counts is where the recurrence goes
        moved = np.linalg.norm(np.diff(reference.states, axis=0))
        missed = np.linalg.norm(comparison.states(found, reference) - reference.states)
        without = follow(comparison, [reference], ((0, 1, 2, 3, 4),), memory=2, rank=0)
        assert missed < 0.1 * moved
        assert missed < 0.2 * np.linalg.norm(comparison.states(without, reference) - reference.states)
    else:
        np.testing.assert_allclose(found.weights, weights, atol=1e-3)
