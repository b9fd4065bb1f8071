"""A stream of tokens in one file of integers, and its rows of any length, each read where it lies.

row i = stream[i L : i L + L + 1]                                     as `packing.pack` cuts them
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from jaxode.config import UserError, require


def token_type(vocab_size: int) -> np.dtype[Any]:
    """What a stream's tokens are stored as: the smaller of two types that holds every id below V."""
    return np.dtype("<u2" if vocab_size <= 2**16 else "<u4")


def write_stream(
    path: Path, documents: Iterable[Sequence[int] | Int[np.ndarray, " n"]], end_id: int, vocab: int
) -> int:
    """Write the ids of documents, each with `end_id` behind it, and return the number of tokens.

    Raises:
        OSError: the system refuses to write, or has no room.
    """
    kind = token_type(vocab)
    end, tokens = np.asarray([end_id], kind).tobytes(), 0
    with path.open("wb", buffering=2**20) as file:
        for ids in documents:
            file.write(np.asarray(ids, kind).tobytes() + end)
            tokens += len(ids) + 1
    return tokens


class StreamRows(Sequence[dict[str, Any]]):
    """Rows of `length` + 1 tokens of a stream that `write_stream` wrote: tokens int32[L + 1] and count, how many of
    them are real; only the last row can be padded.
    """

    def __init__(self, path: Path, length: int, vocab: int, pad_id: int):
        self.path, self.length, self._pad_id = path, length, pad_id
        self._kind = token_type(vocab)
        try:
            # not mapped into memory: a file that became shorter would kill the process, and its pages would count
            self._file = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise UserError(f"{path}: cannot be read: {error.strerror}") from None
        self._close = weakref.finalize(self, os.close, self._file)
        self.tokens = os.fstat(self._file).st_size // self._kind.itemsize
        """In the stream."""

    def __len__(self) -> int:
        # the first token is an input only; a stream of one token gives a row without a target
        return max(1, -(-(self.tokens - 1) // self.length))

    def __getitem__(self, i: Any) -> Any:
        if isinstance(i, slice):
            return [self[j] for j in range(*i.indices(len(self)))]
        if not -len(self) <= i < len(self):
            raise IndexError(i)
        first = i % len(self) * self.length
        count = min(self.length + 1, self.tokens - first)
        size = self._kind.itemsize
        raw = os.pread(self._file, count * size, first * size)
        require(
            len(raw) == count * size,
            f"{self.path}: damaged (row {i + 1} is cut short); remove its folder, so that it is prepared anew",
        )
        tokens = np.full(self.length + 1, self._pad_id, np.int32)
        tokens[:count] = np.frombuffer(raw, self._kind)
        return {"tokens": tokens, "count": count}
