"""Documents become rows: pure functions of token ids.

    stream = d1 end d2 end ... dn end          row i = stream[i L : i L + L + 1]

Neighbouring rows share one token, the last target of one and the first input of the next, so every token but the
stream's first is a prediction target exactly once. Or documents stay whole, several short ones in a row (`pack_texts`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int, Int32

OPEN = 32
"""Rows that wait for texts which still fit."""


@dataclass(frozen=True)
class Row:
    """L + 1 consecutive tokens of the stream, of which the first `count` are real; the rest is padding."""

    tokens: Int32[np.ndarray, " row"]
    count: int
    segments: Int32[np.ndarray, " row"] | None = None
    """Number of each token's text, from 1; 0 is padding. None: end tokens tell (`segments`)."""
    given: Int32[np.ndarray, " row"] | None = None
    """1 where a token is read and not predicted, else 0. None: all are predicted."""

    @property
    def features(self) -> dict[str, Any]:
        """As rows are stored."""
        own = {"segments": self.segments, "given": self.given}
        told = {name: value for name, value in own.items() if value is not None}
        return {"tokens": self.tokens, "count": self.count, **told}


@dataclass(frozen=True)
class Answered:
    """A text whose first `given` tokens are a question: read, not predicted."""

    ids: Sequence[int]
    given: int


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


def pack_texts(texts: Iterable[Sequence[int] | Answered], length: int, pad_id: int) -> Iterator[Row]:
    """Yield rows of whole texts, each of at most `length` tokens, next to one another and not divided; all of them
    `Answered`, or none.

    A text goes where it leaves the least room, among `OPEN` rows; where it fits into none the fullest is done.
    """
    rows: list[tuple[int, list[Sequence[int] | Answered]]] = []
    for text in texts:
        size = len(_ids(text))
        assert 0 < size <= length
        fits = [place for place, (taken, _) in enumerate(rows) if taken + size <= length]
        if fits:
            place = max(fits, key=lambda place: rows[place][0])
            taken, held = rows[place]
            rows[place] = (taken + size, [*held, text])
            continue
        if len(rows) == OPEN:
            yield _row(rows.pop(max(range(OPEN), key=lambda place: rows[place][0]))[1], length, pad_id)
        rows.append((size, [text]))
    for _, held in rows:
        yield _row(held, length, pad_id)


def _ids(text: Sequence[int] | Answered) -> Sequence[int]:
    return text.ids if isinstance(text, Answered) else text


def _row(texts: Sequence[Sequence[int] | Answered], length: int, pad_id: int) -> Row:
    tokens, number = np.full(length + 1, pad_id, np.int32), np.zeros(length + 1, np.int32)
    given = np.zeros(length + 1, np.int32) if isinstance(texts[0], Answered) else None
    end = 0
    for index, text in enumerate(texts, start=1):
        start, end = end, end + len(_ids(text))
        tokens[start:end], number[start:end] = _ids(text), index
        if given is not None and isinstance(text, Answered):
            given[start : start + text.given] = 1
    return Row(tokens, end, number, given)


def windows(tokens: int, length: int, stride: int) -> Iterator[tuple[int, int]]:
    """Rows of `length` inputs over a stream of so many tokens, each `stride` further on than the last.

    Yields where each begins and the place in it from which it predicts, so that every token but the stream's first is
    predicted once, by the first row that reaches it: behind at least length - stride others, but for the first row's.
    The last row ends where the stream ends.
    """
    reached, start = 1, 0
    while reached < tokens:
        yield start, reached - 1 - start
        reached = start + length + 1
        start = max(0, min(start + stride, tokens - 1 - length))


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


def places(number: Int[np.ndarray, "*B L"]) -> Int32[np.ndarray, "*B L"]:
    """Places of tokens in their own documents, from 0, of rows whose `segments` these are."""
    at = np.arange(number.shape[-1])
    begins = np.diff(number, axis=-1, prepend=-1) != 0
    return (at - np.maximum.accumulate(np.where(begins, at, 0), axis=-1)).astype(np.int32)
