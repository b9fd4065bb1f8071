"""Parquet is read a batch at a time, and what is wrong with a file is one line."""

import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jaxode.config import DataConfig, UserError
from jaxode.data import lines, open_corpus, parquet
from jaxode.data.documents import numbered_lines, read_texts

TEXTS = [f"text number {i} é" for i in range(10)]


def put(path: Path, column: pa.Array, name: str = "text", group: int = 3) -> Path:
    pq.write_table(pa.table({"id": pa.array(range(len(column))), name: column}), path, row_group_size=group)
    return path


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_texts_come_in_order_whatever_the_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind):
    path = put(tmp_path / "a.parquet", pa.array(TEXTS).cast(kind), "body")
    for size in (parquet._BATCH_BYTES, 1):
        monkeypatch.setattr(parquet, "_BATCH_BYTES", size)
        assert list(read_texts(path, text_key="body")) == TEXTS
    assert list(numbered_lines(path, "body")) == list(enumerate(TEXTS, start=1))


def test_empty_cells_are_passed_over_and_counted(tmp_path: Path, capfd):
    path = put(tmp_path / "a.parquet", pa.array(["a", None, " ", "b", None]))
    assert list(read_texts(path)) == ["a", "b"]
    assert f'{path}: 2 of 5 cells of column "text" are empty' in capfd.readouterr().err


def not_text() -> pa.Array:
    places = pa.py_buffer(np.array([0, 1, 3], np.int32).tobytes())
    return pa.StringArray.from_buffers(2, places, pa.py_buffer(b"a\xff\xfe"))


BAD_COLUMNS = {
    "no column": (pa.array(["a"]), "body", 'has no column "text" (it has id, body); data.text_key'),
    "no text": (pa.array([1.5]), "text", 'column "text" is double, not string; data.text_key'),
    "bytes": (pa.array([b"a"]), "text", 'column "text" is binary, not string'),
    "a list": (pa.array([["a"]]), "text", 'column "text" is list<element: string>, not string'),
    "no utf-8": (not_text(), "text", "row group 2 of 2, row 2: not UTF-8 text"),
    "nul": (pa.array(["a", "b\0"]), "text", "row group 2 of 2, row 2: the text holds NUL characters"),
}


@pytest.mark.parametrize("case", BAD_COLUMNS)
def test_a_column_that_is_no_text_is_refused(tmp_path: Path, case: str):
    column, name, message = BAD_COLUMNS[case]
    path = put(tmp_path / "a.parquet", column, name, group=1)
    with pytest.raises(UserError, match=re.escape(f"{path}: {message}")) as caught:
        open_corpus(DataConfig(files=str(path)), tmp_path / "cache")
    assert "\n" not in str(caught.value)


def test_a_text_that_is_too_long_is_named_by_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(lines, "LARGEST", 10)
    path = put(tmp_path / "a.parquet", pa.array(["a" * 10, "b" * 11]))
    with pytest.raises(UserError, match=re.escape(f"{path}: row group 1 of 1, row 2: the text is longer than")):
        list(read_texts(path))


@pytest.mark.parametrize("case", ["truncated", "no parquet", "empty", "packed", "inside"])
def test_a_damaged_file_is_one_line(tmp_path: Path, case: str):
    path = put(tmp_path / "a.parquet", pa.array(TEXTS))
    content = path.read_bytes()
    message = "a.parquet: cannot be read as Parquet"
    if case == "packed":
        path = path.rename(tmp_path / "a.parquet.gz")
        message = "a.parquet.gz: Parquet is compressed within"
    elif case == "inside":
        at = pq.ParquetFile(path).metadata.row_group(2).column(1).dictionary_page_offset
        path.write_bytes(content[:at] + b"\xff" * 40 + content[at + 40 :])
        message = "a.parquet: row group 3 of 4"
    else:
        path.write_bytes({"truncated": content[: len(content) // 2], "no parquet": b"text\n" * 9, "empty": b""}[case])
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        open_corpus(DataConfig(files=str(path)), tmp_path / "cache")
    assert "\n" not in str(caught.value)


def test_a_folder_as_data_sets_are_published(tmp_path: Path, capfd):
    folder = tmp_path / "set"
    (folder / "data").mkdir(parents=True)
    for part in range(2):
        texts = TEXTS[4 * part : 4 * part + 4]
        put(folder / f"data/train-{part:05}-of-00002.parquet", pa.array(texts))
    put(folder / "data/validation-00000-of-00001.parquet", pa.array(TEXTS[8:]))
    put(folder / "data/test-00000-of-00001.parquet", pa.array(["a test"]))
    (folder / "README.md").write_text("A card.")
    corpus = open_corpus(DataConfig(files=str(folder)), tmp_path / "cache")
    assert list(corpus.train) == TEXTS[:8]
    assert list(corpus.validation) == TEXTS[8:]
    assert corpus.train.source(5) == "data/train-00001-of-00002.parquet#1"
    (line,) = capfd.readouterr().err.splitlines()
    assert "2 files are to train on, 1 (validation) to validate on; left out are 2 others (README.md, data/test" in line
