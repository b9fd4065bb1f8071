"""Greedy takes the maximum; temperature draws from softmax(z / T)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxode.config import UserError
from jaxode.inference import Greedy, Temperature, make_sampling

LOGITS = jnp.array([1.0, 0.0, -1.0, 2.0, 0.5])
DRAWS = 20_000


def chi_square(counts, probabilities):
    expected = DRAWS * np.asarray(probabilities)
    return float(((counts - expected) ** 2 / expected).sum())


def test_greedy_takes_the_maximum_of_each_row():
    logits = jnp.stack([LOGITS, -LOGITS, jnp.zeros(5)])
    assert Greedy()(logits, jax.random.key(0)).tolist() == [3, 2, 0]


@pytest.mark.parametrize("value", [0.5, 1.0, 2.0])
def test_temperature_draws_from_the_sharpened_softmax(value):
    draws = Temperature(value)(jnp.tile(LOGITS, (DRAWS, 1)), jax.random.key(0))
    counts = np.bincount(np.asarray(draws), minlength=5)
    # 18.5 is the 0.999 quantile with 4 degrees of freedom
    assert chi_square(counts, jax.nn.softmax(LOGITS / value)) < 18.5
    for other in {0.5, 1.0, 2.0} - {value}:
        assert chi_square(counts, jax.nn.softmax(LOGITS / other)) > 500


def test_rows_are_drawn_apart_and_keys_decide():
    logits = jnp.zeros((64, 5))
    first, again, other = (Temperature()(logits, jax.random.key(seed)).tolist() for seed in (0, 0, 1))
    assert first == again
    assert first != other
    assert len(set(first)) == 5


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_temperature_must_be_positive(value):
    with pytest.raises(UserError, match=r"temperature = .*: must be positive"):
        Temperature(value)


def test_temperature_0_is_greedy():
    assert make_sampling(0.0) == Greedy()
    assert make_sampling(0.7) == Temperature(0.7)
