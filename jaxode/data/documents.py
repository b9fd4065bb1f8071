"""From a file to its texts: plain text, JSON lines, both also under gzip or xz, Parquet; every fault names the file.

Whatever reads a text file comes here, so that training, scoring and labelling see the same text.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from jaxode.config import UserError, require
from jaxode.config.parsing import parse_json
from jaxode.data.lines import LARGEST, OPENERS, PIECE, check_text, decoded, opened, pieces, raw_lines
from jaxode.data.notices import notice
from jaxode.data.parquet import parquet_texts

PARQUET = ".parquet"
JSON_LINES = (".jsonl", ".ndjson")
_JSON = (*JSON_LINES, ".json")
TAGGED = (".conll", ".conllu", ".bio", ".iob", ".iob2")
"""Of files with a word and its label a line."""
_TABLES = (".tsv", ".csv")


@dataclass(frozen=True)
class Document:
    """One text and where it comes from: `source` is stable across machines, so it may choose the split."""

    text: str
    source: str


def shown(name: str) -> str:
    """A file's name as text: names may be any bytes, and those that are no UTF-8 are escaped."""
    return os.fsencode(name).decode(errors="backslashreplace")


def suffix(path: Path) -> str:
    """What a file's name says of its content: ``.txt`` of A.TXT.gz."""
    inside = path.with_suffix("") if path.suffix.lower() in OPENERS else path
    return inside.suffix.lower()


def text_format(path: Path) -> Literal["text", "json", "parquet"]:
    """How a file is read, by its name alone.

    Raises:
        UserError: a table, words and their labels, or Parquet within an archive.
    """
    require(
        suffix(path) not in _TABLES,
        f"{path}: is a table ({suffix(path)}), which only classify reads: keep the column of texts alone as .txt, or "
        "as .jsonl with data.text_key",
    )
    require(
        suffix(path) not in TAGGED,
        f"{path}: holds a word and its label a line ({suffix(path)}), which data.train reads, and a task whose "
        "texts are lines: keep the sentences alone as .txt",
    )
    if suffix(path) == PARQUET:
        require(
            path.suffix.lower() == PARQUET,
            f"{path}: Parquet is compressed within and read in parts, which an archive around it forbids: unpack it",
        )
        return "parquet"
    return "json" if suffix(path) in _JSON else "text"


def read_documents(
    path: Path, source: str, separator: str = "", text_key: str = "text", lines: bool = False
) -> Iterator[Document]:
    """Yield the documents of one file of a corpus: its texts, as `read_texts` gives them.

    Raises:
        UserError: as `read_texts`, or a file without any text.
    """
    empty = True
    for number, text in enumerate(read_texts(path, separator, text_key, lines)):
        # a name by position: a document keeps its side of the split when the file grows at its end
        yield Document(text, f"{source}#{number}")
        empty = False
    require(not empty, f"{path}: the file holds no text; remove it from the corpus")


def read_texts(path: Path, separator: str = "", text_key: str = "text", lines: bool = False) -> Iterator[str]:
    """Yield the texts of one file, in order; none is blank.

    A ``.jsonl``, ``.ndjson`` or ``.json`` file holds one text a line, in the field `text_key`, a ``.parquet`` file one
    a row, in the column of that name. Any other file is one text, or pieces of one where it is larger than `LARGEST`
    bytes, or is split at the lines equal to `separator`, or with `lines` at every line feed. All but Parquet may end in
    ``.gz`` or ``.xz``; the case of suffixes does not count. Text is UTF-8, a byte order mark at its beginning is no
    text.

    Raises:
        UserError: the file cannot be read, is a table, binary or truncated, or a line or row is not what it should be.
    """
    if text_format(path) != "text" or lines:
        yield from (text for _, text in numbered_lines(path, text_key) if text.strip())
    elif separator:
        yield from _separated_texts(path, separator)
    else:
        for number, text in enumerate(pieces(path)):
            if number:
                _tell_pieces(path)
            if text.strip():
                yield text


@cache  # a corpus is read more than once
def _tell_pieces(path: Path) -> None:
    notice(
        f"{path}: one text of more than {LARGEST >> 20} MiB, read as documents of {PIECE >> 20} MiB; data.separator or "
        "data.lines says where its documents end"
    )


def read_text(path: Path) -> str:
    """The content of one file as it stands, line ends and all, whatever its suffix.

    Raises:
        UserError: it cannot be read, is binary or truncated.
    """
    with opened(path) as file:
        raw = file.read()
    try:
        return decoded(raw, path)
    except UserError:
        # which line it is
        for number, line in enumerate(raw.splitlines(keepends=True), 1):
            decoded(line, path, number, f"line {number}: ")
        raise


def numbered_lines(path: Path, text_key: str = "text", table: bool = False) -> Iterator[tuple[int, str]]:
    """Yield number, from 1, and text of every line, blank ones too; of JSON lines the text of the field `text_key`, of
    Parquet that of every row's column of this name.

    Only line feeds end a line, as for other programs that count lines. A carriage return before one is no text.

    Raises:
        UserError: as `read_texts`; of a `table` the lines are wanted as they stand.
    """
    kind = "text" if table else text_format(path)
    if kind != "text":
        yield from (_json_lines if kind == "json" else parquet_texts)(path, text_key)
        return
    for number, line in raw_lines(path):
        yield number, line[:-1].removesuffix("\r") if line.endswith("\n") else line


def json_records(path: Path) -> Iterator[tuple[int, dict[str, Any] | None]]:
    """Yield number, from 1, and object of every line of JSON; None of a blank one, and no fields of what is no object.

    Raises:
        UserError: as `read_texts`.
    """
    for number, line in raw_lines(path):
        if not line.strip():
            yield number, None
            continue
        try:
            record = parse_json(line)
        except ValueError as error:
            raise UserError(f"{path}: line {number} is no JSON ({error}); each line must be one JSON object") from None
        yield number, record if isinstance(record, dict) else {}


def _separated_texts(path: Path, separator: str) -> Iterator[str]:
    lines: list[str] = []
    size, first = 0, 1
    for number, line in raw_lines(path):
        if line.rstrip("\r\n") == separator:
            if any(part.strip() for part in lines):
                yield "".join(lines)
            lines, size, first = [], 0, number + 1
            continue
        lines.append(line)
        size += len(line)
        require(
            size <= LARGEST,
            f"{path}: the text from line {first} on is longer than {LARGEST >> 20} MiB, more than a document may hold: "
            f'no line "{separator}" ends it (data.separator)',
        )
    if any(part.strip() for part in lines):
        yield "".join(lines)


def _json_lines(path: Path, text_key: str) -> Iterator[tuple[int, str]]:
    if suffix(path) == ".json":
        _check_json_lines(path)
    for number, record in json_records(path):
        if record is None:
            yield number, ""
            continue
        fields = ", ".join(sorted(record))
        require(
            text_key in record,
            f'{path}: line {number} lacks the field "{text_key}" (it has {fields or "none"}); data.text_key must name '
            "the field of the text",
        )
        text = record[text_key]
        require(
            isinstance(text, str),
            f'{path}: line {number}: field "{text_key}" is {type(text).__name__}, not a string; data.text_key must '
            "name the field of the text",
        )
        check_text(text, f'{path}: line {number}: field "{text_key}"')
        yield number, text


def _check_json_lines(path: Path) -> None:
    """A ``.json`` file may be JSON lines, or one value over many lines, which is nothing to train on."""
    first = next((line for _, line in raw_lines(path) if line.strip()), "{}")
    try:
        record = parse_json(first)
    except ValueError:
        record = None
    require(
        isinstance(record, dict),
        f"{path}: its first line is no JSON object; a .json file is read as JSON lines: write one object a line, "
        "as jq -c does (jq -c '.[]' for an array)",
    )
