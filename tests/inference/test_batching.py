"""Rows of uneven length in few shapes, none lost, and at less cost than batches kept apart by bucket."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxode.config import UserError
from jaxode.inference.texts.batching import bucket, bucketed, padded, real_tokens


@given(st.integers(1, 5000))
def test_buckets_are_few_and_large_enough(length):
    size = bucket(length)
    assert size >= length
    assert size - length < max(16, length / 4)
    assert bucket(size) == size


def test_there_are_four_buckets_an_octave():
    assert (
        len({bucket(length) for length in range(129, 257)}) == len({bucket(length) for length in range(513, 1025)}) == 4
    )


@given(st.lists(st.integers(1, 100), min_size=1, max_size=80), st.integers(1, 40))
def test_every_row_goes_once_in_few_shapes(lengths, batch_size):
    batches = bucketed(lengths, batch_size, 100)
    np.testing.assert_array_equal(np.sort(np.concatenate([batch.rows for batch in batches])), np.arange(len(lengths)))
    for batch in batches:
        longest = max(lengths[i] for i in batch.rows)
        assert batch.length == min(bucket(longest), 100)
        assert batch.size == min(batch_size, len(lengths))
    assert all(len(batch.rows) == batch.size for batch in batches[:-1])
    assert [batch.length for batch in batches] == sorted((batch.length for batch in batches), reverse=True)
    # what batches cost whose rows all belong to one bucket
    own = [min(bucket(length), 100) for length in lengths]
    apart = sum(size * math.ceil(own.count(size) / batches[0].size) for size in set(own))
    assert sum(batch.length for batch in batches) <= apart


@given(st.lists(st.integers(1, 500), min_size=1, max_size=80), st.integers(1, 40), st.integers(1, 6))
def test_as_few_shapes_as_asked(lengths, batch_size, shapes):
    batches = bucketed(lengths, batch_size, 500, shapes)
    np.testing.assert_array_equal(np.sort(np.concatenate([batch.rows for batch in batches])), np.arange(len(lengths)))
    assert len({batch.length for batch in batches}) <= shapes
    for batch in batches:
        assert max(lengths[i] for i in batch.rows) <= batch.length <= 500
    # no row is padded by more than a step
    step = -(-max(lengths) // (16 * shapes)) * 16
    assert all(batch.length - max(lengths[i] for i in batch.rows) < step for batch in batches)


def test_arrays_of_a_batch():
    (batch,) = bucketed([2, 3], 4, 5)
    rows = [(7, 8, 9), (4, 5)]
    np.testing.assert_array_equal(padded(rows, batch, 1), [[7, 8, 9, 1, 1], [4, 5, 1, 1, 1]])
    np.testing.assert_array_equal(real_tokens(rows, batch), [[1, 1, 1, 0, 0], [1, 1, 0, 0, 0]])


def test_a_batch_holds_at_least_one_row():
    with pytest.raises(UserError, match="batch_size = 0: must be at least 1"):
        bucketed([3], 0, 8)
