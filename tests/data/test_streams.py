"""A stored stream is cut into the rows that packing cuts it into."""

import re
from pathlib import Path

import numpy as np
import pytest

from jaxode.config import UserError
from jaxode.data.packing import pack
from jaxode.data.streams import StreamRows, token_type, write_stream

END, PAD = 1, 2


@pytest.mark.parametrize("sizes", [[3, 0, 9, 1], [0], [15], [16], [7, 7]])
@pytest.mark.parametrize("length", [1, 4, 16, 40])
@pytest.mark.parametrize("vocab", [300, 70_000])
def test_rows_are_those_of_packing(tmp_path: Path, sizes: list[int], length: int, vocab: int):
    rng = np.random.default_rng(0)
    documents = [rng.integers(3, vocab, size).tolist() for size in sizes]
    tokens = write_stream(tmp_path / "a.tokens", documents, END, vocab)
    rows = StreamRows(tmp_path / "a.tokens", length, vocab, PAD)
    assert tokens == rows.tokens == sum(sizes) + len(sizes)
    packed = list(pack(documents, length, END, PAD))
    assert len(rows) == len(packed)
    for row, want in zip(rows, packed, strict=True):
        assert row["tokens"].dtype == np.int32
        assert (row["tokens"].tolist(), row["count"]) == (want.tokens.tolist(), want.count)
    assert rows[-1]["count"] == packed[-1].count
    with pytest.raises(IndexError):
        rows[len(rows)]


def test_two_bytes_hold_a_token_of_a_small_vocabulary():
    assert [token_type(size).itemsize for size in (259, 2**16, 2**16 + 1)] == [2, 2, 4]


def test_a_stream_that_was_cut_short_or_is_gone(tmp_path: Path):
    path = tmp_path / "a.tokens"
    with pytest.raises(UserError, match=re.escape(f"{path}: cannot be read")):
        StreamRows(path, 4, 300, PAD)
    write_stream(path, [[5] * 40], END, 300)
    rows = StreamRows(path, 4, 300, PAD)
    path.open("r+b").truncate(50)
    with pytest.raises(UserError, match=re.escape(f"{path}: damaged (row 8 is cut short)")):
        rows[7]
