"""Least squares find what is planted."""

import numpy as np

from jaxode.calibration.least_squares import reduced_rank


def test_reduced_rank_finds_planted_factors():
    rng = np.random.default_rng(0)
    features, first, second = (rng.normal(size=shape) for shape in ((500, 6), (6, 2), (2, 5)))
    down, up = reduced_rank(features, features @ first @ second, 2)
    np.testing.assert_allclose(down @ up, first @ second, atol=0.05)
    assert (down.shape, up.shape) == ((6, 2), (2, 5))
