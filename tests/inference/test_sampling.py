"""Every method against its definition, written out in NumPy; draws against the distribution that they are from."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxode.config import UserError
from jaxode.inference import Chain, Greedy, MinP, RepetitionPenalty, Temperature, TopK, TopP, make_sampling
from jaxode.inference.generation.sampling import draw, is_greedy, log_probabilities

LOGITS = jnp.array([1.0, 0.0, -1.0, 2.0, 0.5])
DRAWS = 20_000
ROWS = st.lists(st.integers(-400, 400), min_size=2, max_size=9, unique=True).map(lambda row: np.array(row) / 100)


def probabilities(sampling, logits, seen=None):
    return np.exp(np.asarray(log_probabilities(sampling, jnp.asarray(logits, jnp.float32), seen)))


def softmax(logits):
    weights = np.exp(logits - np.max(logits))
    return weights / weights.sum()


def kept(logits, inside):
    """Softmax over the tokens inside."""
    return np.where(inside, softmax(np.where(inside, logits, -np.inf)), 0.0)


def chi_square(counts, expected):
    return float(((counts - DRAWS * expected) ** 2 / (DRAWS * expected)).sum())


def keys(count, seed=0):
    return jax.random.split(jax.random.key(seed), count)


def test_greedy_takes_the_maximum_of_each_row():
    logits = jnp.stack([LOGITS, -LOGITS, jnp.zeros(5)])
    assert draw(Greedy(), logits, keys(3)).tolist() == [3, 2, 0]
    np.testing.assert_array_equal(probabilities(Greedy(), LOGITS), [0, 0, 0, 1, 0])


@pytest.mark.parametrize("value", [0.5, 1.0, 2.0])
def test_temperature_draws_from_the_sharpened_softmax(value):
    draws = draw(Temperature(value), jnp.tile(LOGITS, (DRAWS, 1)), keys(DRAWS))
    counts = np.bincount(np.asarray(draws), minlength=5)
    # 18.5 is the 0.999 quantile with 4 degrees of freedom
    assert chi_square(counts, softmax(np.asarray(LOGITS) / value)) < 18.5
    for other in {0.5, 1.0, 2.0} - {value}:
        assert chi_square(counts, softmax(np.asarray(LOGITS) / other)) > 500


@settings(max_examples=40, deadline=None)
@given(logits=ROWS, k=st.integers(1, 10))
def test_top_k(logits, k):
    inside = np.argsort(np.argsort(-logits)) < k
    np.testing.assert_allclose(probabilities(TopK(k), logits), kept(logits, inside), atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(logits=ROWS, percent=st.integers(1, 100))
def test_top_p(logits, percent):
    order = np.argsort(-logits)
    before = np.concatenate([[0.0], np.cumsum(softmax(logits)[order])[:-1]])
    if np.min(np.abs(before[1:] - percent / 100)) < 1e-5:
        return  # on the edge rounding decides
    inside = np.zeros(len(logits), bool)
    inside[order] = before < percent / 100
    np.testing.assert_allclose(probabilities(TopP(percent / 100), logits), kept(logits, inside), atol=1e-5)


@settings(max_examples=40, deadline=None)
@given(logits=ROWS, percent=st.integers(0, 99))
def test_min_p(logits, percent):
    share = softmax(logits) / softmax(logits).max()
    if np.min(np.abs(share - percent / 100)) < 1e-5:
        return
    inside = share >= percent / 100
    np.testing.assert_allclose(probabilities(MinP(percent / 100), logits), kept(logits, inside), atol=1e-5)


def test_repetition_penalty_pushes_down_what_is_seen():
    seen = jnp.array([True, True, True, False, False])
    expected = softmax(np.array([0.5, 0.0, -2.0, 2.0, 0.5]))
    np.testing.assert_allclose(probabilities(RepetitionPenalty(2.0), LOGITS, seen), expected, rtol=1e-6)


@pytest.mark.parametrize("value", [1.2e-38, 1e-30, 1e-4])
def test_a_temperature_near_0_takes_the_likeliest_token(value):
    for logits in (LOGITS, -LOGITS, 1000 * LOGITS, LOGITS - 1e6):
        expected = np.eye(5)[int(jnp.argmax(logits))]
        np.testing.assert_array_equal(probabilities(Temperature(value), logits), expected)
        for narrowed in (
            make_sampling(value, top_k=3),
            make_sampling(value, top_p=0.9),
            make_sampling(value, min_p=0.5),
        ):
            np.testing.assert_array_equal(probabilities(narrowed, logits), expected)
        drawn = draw(Temperature(value), jnp.tile(logits, (9, 1)), keys(9))
        assert drawn.tolist() == draw(Greedy(), logits[None], keys(1)).tolist() * 9


def test_a_temperature_leaves_out_what_is_left_out():
    logits = jnp.where(jnp.arange(5) == 3, -jnp.inf, LOGITS)
    np.testing.assert_allclose(probabilities(Temperature(0.5), logits), softmax(2 * np.asarray(logits)), rtol=1e-6)


@pytest.mark.parametrize("factor", [1e-30, 1e30])
@pytest.mark.parametrize("temperature", [0.0, 1.2e-38, 0.8])
def test_the_largest_penalties_leave_numbers(factor, temperature):
    for logits in (LOGITS, 1e4 * LOGITS, -abs(LOGITS) - 1):
        sampling = make_sampling(temperature, repetition_penalty=factor)
        for seen in (jnp.ones(5, bool), jnp.array([True, False, True, False, True])):
            found = probabilities(sampling, logits, seen)
            np.testing.assert_allclose(found.sum(), 1.0, rtol=1e-6)


def test_a_chain_is_one_after_the_other():
    chain = make_sampling(2.0, top_k=4, top_p=0.9, min_p=0.1, repetition_penalty=1.5)
    assert chain == Chain((RepetitionPenalty(1.5), Temperature(2.0), TopK(4), TopP(0.9), MinP(0.1)))
    assert chain.remembers
    seen = jnp.array([False, False, False, True, False])
    by_hand = LOGITS
    for method in chain.methods:
        by_hand = method(by_hand, seen)
    np.testing.assert_allclose(probabilities(chain, LOGITS, seen), jax.nn.softmax(by_hand), rtol=1e-6)
    assert probabilities(chain, LOGITS, seen)[2] == 0


def test_a_row_draws_the_same_beside_others():
    logits = jnp.zeros((64, 5))
    together = draw(Temperature(), logits, keys(64))
    alone = [int(draw(Temperature(), logits[:1], keys(64)[i : i + 1])[0]) for i in range(64)]
    assert together.tolist() == alone
    assert together.tolist() != draw(Temperature(), logits, keys(64, seed=1)).tolist()
    assert len(set(alone)) == 5


@pytest.mark.parametrize(
    ("method", "value", "why"),
    [
        *((Temperature, value, "temperature") for value in (0.0, -1.0, float("nan"), float("inf"))),
        (TopK, 0, "top_k = 0: must be at least 1"),
        (TopP, 0.0, r"top_p = 0\.0: must lie in \(0, 1\]"),
        (TopP, 1.5, "top_p"),
        (MinP, -0.1, r"min_p = -0\.1: must lie in \[0, 1\]"),
        (RepetitionPenalty, 0.0, "repetition_penalty"),
        (Temperature, 1e-38, "temperature = 1e-38: must be 0 or of a size that float32 holds, from 1.2e-38"),
        (RepetitionPenalty, 1e-31, r"repetition_penalty = 1e-31: must lie in \[1e-30, 1e\+30\]"),
        (RepetitionPenalty, 1e39, "repetition_penalty = 1e.39: must be 0 or of a size that float32 holds"),
    ],
)
def test_values_outside_their_range_are_refused(method, value, why):
    with pytest.raises(UserError, match=why):
        method(value)


@pytest.mark.parametrize(
    "wrong", [{"temperature": -0.1}, {"top_k": -1}, {"top_p": 0.0}, {"top_p": 2.0}, {"min_p": 2.0}]
)
def test_make_sampling_refuses_the_same(wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        make_sampling(**wrong)


def test_temperature_0_is_greedy():
    assert make_sampling(0.0) == make_sampling(0.0, top_k=5, top_p=0.5, min_p=0.1) == Greedy()
    assert make_sampling(0.7) == Temperature(0.7)
    assert is_greedy(make_sampling(0.0, repetition_penalty=1.2))
    assert not is_greedy(make_sampling(0.7, top_k=2))
