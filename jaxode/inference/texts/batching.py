"""Rows of uneven length in batches of few shapes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from jaxode.config import require

SHORTEST = 16
"""Length of the smallest bucket, tokens."""


@dataclass(frozen=True)
class RowBatch:
    """Rows of the input that go through the model together."""

    rows: Int[np.ndarray, " rows"]
    """Their places in the input, at most `size`."""
    size: int
    """B, the rows of the array: what is missing is padding."""
    length: int
    """L, to which all of them are padded."""


def bucket(length: int) -> int:
    """The smallest of 16, 32, 48, 64, 80, .. 128, 160, .. that holds so many tokens: four an octave, from 16 on.

    Few shapes mean few compilations; what pads them is computed all the same.
    """
    step = max(SHORTEST, (1 << (length - 1).bit_length()) // 8)
    return -(-length // step) * step


def bucketed(
    lengths: Sequence[int] | Int[np.ndarray, " rows"], batch_size: int, longest: int, shapes: int | None = None
) -> tuple[RowBatch, ...]:
    """Batches of rows of like length, the longest first, so that what does not fit fails at once.

    Sorted by length and cut every `batch_size` rows, each batch padded to the bucket of its longest row. So there are
    at most as many shapes as buckets, and only the very last batch lacks rows: the room that a bucket's last batch
    leaves is taken by the longest rows of the next one. Fewer rows than `batch_size` make one batch of their own size.

    Args:
        lengths: tokens of every row, from 1 to `longest`.
        batch_size: B.
        longest: what the model reads.
        shapes: the most lengths that batches may have, in even steps up to the longest row, where compiling costs more
            than padding; None takes those of `bucket`.

    Raises:
        UserError: a batch size below 1.
    """
    require(batch_size >= 1, f"batch_size = {batch_size}: must be at least 1")
    lengths = np.asarray(lengths)
    assert lengths.size == 0 or 1 <= lengths.min() <= lengths.max() <= longest
    order = np.argsort(-lengths, kind="stable")
    size = min(batch_size, len(order))
    step = 0 if shapes is None else -(-int(lengths.max()) // (SHORTEST * shapes)) * SHORTEST

    def padded_to(length: int) -> int:
        return min(-(-length // step) * step if step else bucket(length), longest)

    groups = [order[start : start + size] for start in range(0, len(order), max(size, 1))]
    return tuple(RowBatch(rows, size, padded_to(int(lengths[rows[0]]))) for rows in groups)


def padded(rows: Sequence[Sequence[int]], batch: RowBatch, pad_id: int) -> Int[np.ndarray, "B L"]:
    """Rows of uneven length as the array of their batch."""
    array = np.full((batch.size, batch.length), pad_id, np.int32)
    for place, row in enumerate(rows):
        array[place, : len(row)] = row
    return array


def real_tokens(rows: Sequence[Sequence[int]], batch: RowBatch) -> Int[np.ndarray, "B L"]:
    """The segments of `padded` rows: 1 for a token, 0 for padding."""
    return padded([[1] * len(row) for row in rows], batch, 0)
