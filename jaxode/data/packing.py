"""Documents become one stream, the stream becomes rows: pure functions of token ids.

    stream = d1 end d2 end ... dn end          row i = stream[i L : i L + L + 1]

Neighbouring rows share one token, the last target of one and the first input of the next, so every token but the
stream's first is a prediction target exactly once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int, Int32


@dataclass(frozen=True)
class Row:
    """L + 1 consecutive tokens of the stream, of which the first `count` are real; the rest is padding."""

    tokens: Int32[np.ndarray, " row"]
    count: int


def pack(documents: Iterable[Sequence[int]], length: int, end_id: int, pad_id: int) -> Iterator[Row]:
    """Yield the rows of the stream; at most one document and one row are held in memory.

    Only the last row can be padded. A stream of a single token gives one row without a target.
    """
    rest = np.empty(0, np.int32)
    fresh = True
    for document in documents:
        rest = np.concatenate([rest, np.asarray(document, np.int32), np.asarray([end_id], np.int32)])
        full = (len(rest) - 1) // length
        for i in range(full):
            yield Row(rest[i * length : i * length + length + 1], length + 1)
            fresh = False
        rest = rest[full * length :]
    # after a full row, `rest` begins with the token that the row already ended with
    if len(rest) > 1 or (fresh and len(rest) == 1):
        tokens = np.full(length + 1, pad_id, np.int32)
        tokens[: len(rest)] = rest
        yield Row(tokens, len(rest))


def unpack(rows: Iterable[Row]) -> Iterator[int]:
    """Yield the stream that `pack` cut into `rows`."""
    for i, row in enumerate(rows):
        yield from row.tokens[(0 if i == 0 else 1) : row.count].tolist()


def segments(
    tokens: Int[np.ndarray, "*B L"], end_id: int, count: int | Int[np.ndarray, "*B"]
) -> Int32[np.ndarray, "*B L"]:
    """Number the documents of each row from 1; 0 is padding. An end token belongs to the document that it ends."""
    ends = (tokens == end_id).astype(np.int32)
    number = 1 + np.cumsum(ends, axis=-1, dtype=np.int32) - ends
    real = np.arange(tokens.shape[-1]) < np.asarray(count)[..., None]
    return np.where(real, number, 0).astype(np.int32)
