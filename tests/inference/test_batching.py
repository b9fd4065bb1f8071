"""Rows of uneven length in few shapes, none lost, and at less cost than batches kept apart by bucket."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxode.config import UserError
from jaxode.inference.batching import bucket_lengths, bucketed, padded, real_tokens


def test_buckets_are_powers_of_two_and_half_as_much_again():
    assert bucket_lengths(128) == (16, 24, 32, 48, 64, 96, 128)
    assert bucket_lengths(100) == (16, 24, 32, 48, 64, 96, 100)
    assert bucket_lengths(16) == (16,)
    assert bucket_lengths(5) == (5,)


@given(st.lists(st.integers(1, 100), min_size=1, max_size=80), st.integers(1, 40))
def test_every_row_goes_once_in_few_shapes(lengths, batch_size):
    batches = bucketed(lengths, batch_size, 100)
    buckets = bucket_lengths(100)
    np.testing.assert_array_equal(np.sort(np.concatenate([batch.rows for batch in batches])), np.arange(len(lengths)))
    for batch in batches:
        longest = max(lengths[i] for i in batch.rows)
        assert batch.length == min(bucket for bucket in buckets if bucket >= longest)
        assert batch.size == min(batch_size, len(lengths))
    assert all(len(batch.rows) == batch.size for batch in batches[:-1])
    assert [batch.length for batch in batches] == sorted((batch.length for batch in batches), reverse=True)
    # what batches cost whose rows all belong to one bucket
    own = [min(bucket for bucket in buckets if bucket >= length) for length in lengths]
    apart = sum(bucket * math.ceil(own.count(bucket) / batches[0].size) for bucket in set(own))
    assert sum(batch.length for batch in batches) <= apart


def test_arrays_of_a_batch():
    (batch,) = bucketed([2, 3], 4, 5)
    rows = [(7, 8, 9), (4, 5)]
    np.testing.assert_array_equal(padded(rows, batch, 1), [[7, 8, 9, 1, 1], [4, 5, 1, 1, 1]])
    np.testing.assert_array_equal(real_tokens(rows, batch), [[1, 1, 1, 0, 0], [1, 1, 0, 0, 0]])


def test_a_batch_holds_at_least_one_row():
    with pytest.raises(UserError, match="batch_size = 0: must be at least 1"):
        bucketed([3], 0, 8)
