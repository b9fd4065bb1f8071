"""One way to read a text file, whoever asks."""

import gzip
import json
import re
from pathlib import Path

import pytest

from jaxode.config import UserError
from jaxode.data import documents, lines
from jaxode.data.documents import numbered_lines, read_text, read_texts

RECORDS = "".join(f'{{"text": "{colour} fish"}}\n' for colour in ("one", "two", "red"))


def put(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("name", ["a.JSONL", "a.json", "a.JSON", "a.Ndjson"])
def test_json_lines_under_any_suffix(tmp_path: Path, name: str):
    want = ["one fish", "two fish", "red fish"]
    assert list(read_texts(put(tmp_path / name, RECORDS.encode()))) == want
    assert list(read_texts(put(tmp_path / f"{name}.GZ", gzip.compress(RECORDS.encode(), mtime=0)))) == want
    # a separator is of plain text
    assert list(read_texts(tmp_path / name, separator="---")) == want


@pytest.mark.parametrize(
    "content", [json.dumps([{"text": "a"}]), json.dumps({"text": "a"}, indent=2), '\n["a"]\n', "no json", '"text"']
)
def test_json_that_is_no_lines_is_refused_with_the_remedy(tmp_path: Path, content: str):
    with pytest.raises(UserError, match=r"a\.json: its first line is no JSON object.*one object a line"):
        list(read_texts(put(tmp_path / "a.json", content.encode())))


def test_a_byte_order_mark_is_no_text(tmp_path: Path):
    plain, marked = put(tmp_path / "a.txt", b"a\nb\n"), put(tmp_path / "b.txt", b"\xef\xbb\xbfa\nb\n")
    assert read_text(marked) == read_text(plain) == "a\nb\n"
    assert list(numbered_lines(marked)) == list(numbered_lines(plain)) == [(1, "a"), (2, "b")]
    assert list(read_texts(marked, separator="a")) == ["b\n"]
    records = put(tmp_path / "a.jsonl", b"\xef\xbb\xbf" + RECORDS.encode())
    assert list(read_texts(records)) == ["one fish", "two fish", "red fish"]
    # only at the beginning
    assert read_text(put(tmp_path / "c.txt", b"a\n\xef\xbb\xbfb")) == "a\n\ufeffb"


def test_only_line_feeds_end_a_line(tmp_path: Path):
    path = put(tmp_path / "a.txt", "one\rstill one\r\ntwo\u2028\x0c\x85\n\nfour\r\r\nend\r".encode())
    lines = ["one\rstill one", "two\u2028\x0c\x85", "", "four\r", "end\r"]
    assert list(numbered_lines(path)) == list(enumerate(lines, start=1))
    assert list(read_texts(path)) == [path.read_bytes().decode()], "as a whole with all its line ends"


def test_lines_of_json(tmp_path: Path):
    content = '{"body": "a\\nb"}\n\n{"body": " "}\n{"body": "c\\td"}'
    path = put(tmp_path / "a.jsonl", content.encode())
    assert list(numbered_lines(path, "body")) == [(1, "a\nb"), (2, ""), (3, " "), (4, "c\td")]
    assert list(read_texts(path, text_key="body")) == ["a\nb", "c\td"]


@pytest.mark.parametrize(
    "read", [read_text, lambda path: list(read_texts(path)), lambda path: list(numbered_lines(path))]
)
def test_binary_files_are_refused_by_every_reader(tmp_path: Path, read):
    for content, why in ((b"a\0b\n", "NUL bytes"), (b"caf\xe9\n", "can't decode byte 0xe9")):
        with pytest.raises(UserError, match=re.escape(str(tmp_path / "a.txt")) + f": (line 1: )?not UTF-8 text.*{why}"):
            read(put(tmp_path / "a.txt", content))


@pytest.mark.parametrize(
    ("name", "why"),
    [("a.tsv", "is a table"), ("a.CSV", "is a table"), ("a.tsv.gz", "is a table"), ("a.conll", "holds a word and its")],
)
def test_tables_are_no_text(tmp_path: Path, name: str, why: str):
    for read in (read_texts, numbered_lines):
        with pytest.raises(UserError, match=f"{name}: {why}"):
            list(read(tmp_path / name))


def test_every_line_is_a_text(tmp_path: Path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"one\r\n\n  \ntwo\xe2\x80\xa8still two\nthree")
    assert list(read_texts(path, lines=True)) == ["one", "two\u2028still two", "three"]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts may hold 100 bytes, pieces hold 40."""
    documents._tell_pieces.cache_clear()
    for module in (lines, documents):
        monkeypatch.setattr(module, "LARGEST", 100)
        monkeypatch.setattr(module, "PIECE", 40)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("end", ["\n", "é漢"])
def test_a_large_text_comes_in_pieces(tmp_path: Path, capfd, end: str):
    text = "".join(f"line {i:03} {end}" for i in range(40))
    path = put(tmp_path / "a.txt", b"\xef\xbb\xbf" + text.encode())
    for _ in range(2):
        found = list(read_texts(path))
        assert "".join(found) == text
        assert max(len(piece.encode()) for piece in found) <= 40
    if end == "\n":
        assert {piece[-1] for piece in found} == {"\n"}
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(f"{path}: one text of more than")
    assert list(read_texts(put(tmp_path / "b.txt", b"a" * 100))) == ["a" * 100]


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.txt"])
def test_a_line_that_is_too_long_is_named(tmp_path: Path, name: str):
    content = b'{"text": "a"}\n{"text": "' + b"b" * 100 + b'"}\n'
    path = put(tmp_path / name, gzip.compress(content) if name.endswith(".gz") else content)
    with pytest.raises(UserError, match=re.escape(f"{path}: line 2 is longer than")):
        list(read_texts(path, lines=True))


@pytest.mark.usefixtures("small")
def test_a_text_that_no_separator_ends_is_named(tmp_path: Path):
    path = put(tmp_path / "a.txt", b"a\n---\n" + b"some line\n" * 11)
    with pytest.raises(UserError, match=re.escape(f"{path}: the text from line 3 on is longer than")):
        list(read_texts(path, separator="---"))


def test_nul_in_json_is_refused_by_line(tmp_path: Path):
    path = put(tmp_path / "a.jsonl", b'{"text": "a"}\n{"text": "b\\u0000"}\n')
    with pytest.raises(UserError, match=re.escape(f'{path}: line 2: field "text" holds NUL')):
        list(read_texts(path))
