"""From a file to its documents: plain text, jsonl, and either of them under gzip or xz; every fault names the file."""

from __future__ import annotations

import gzip
import json
import lzma
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from jaxode.config import UserError, require


@dataclass(frozen=True)
class Document:
    """One text and where it comes from: `source` is stable across machines, so it may choose the split."""

    text: str
    source: str


def read_documents(path: Path, source: str, separator: str = "", text_key: str = "text") -> Iterator[Document]:
    """Yield the documents of one file, in order; none is empty.

    A ``.jsonl`` file holds one document a line, in the field `text_key`. Any other file is one document, however long,
    or is split at the lines equal to `separator`. Both may end in ``.gz`` or ``.xz``. Text is UTF-8.

    Raises:
        UserError: the file cannot be read, is empty, binary or truncated, or a jsonl line is not what it should be.
    """
    stem = path.with_suffix("") if path.suffix in (".gz", ".xz") else path
    if stem.suffix in (".jsonl", ".ndjson"):
        texts = _json_texts(path, text_key)
    elif separator:
        texts = _separated_texts(path, separator)
    else:
        texts = _whole_text(path)
    found = False
    for number, text in enumerate(texts):
        # a name by position: a document keeps its side of the split when the file grows at its end
        yield Document(text, f"{source}#{number}")
        found = True
    require(found, f"{path}: the file holds no text; remove it from the corpus")


def _whole_text(path: Path) -> Iterator[str]:
    with _open(path) as file:
        text = _decode(file.read(), path)
    if text.strip():
        yield text


def _separated_texts(path: Path, separator: str) -> Iterator[str]:
    lines: list[str] = []
    for _, line in _lines(path):
        if line.rstrip("\r\n") == separator:
            if any(part.strip() for part in lines):
                yield "".join(lines)
            lines = []
        else:
            lines.append(line)
    if any(part.strip() for part in lines):
        yield "".join(lines)


def _json_texts(path: Path, text_key: str) -> Iterator[str]:
    for number, line in _lines(path):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}: line {number} is no JSON ({error}); each line must be one JSON object") from None
        fields = ", ".join(sorted(record)) if isinstance(record, dict) else ""
        require(
            isinstance(record, dict) and text_key in record,
            f'{path}: line {number} lacks the field "{text_key}" (it has {fields or "none"}); set data.text_key',
        )
        text = record[text_key]
        require(
            isinstance(text, str),
            f'{path}: line {number}: field "{text_key}" is {type(text).__name__}, not a string; set data.text_key',
        )
        try:
            text.encode()
        except UnicodeEncodeError:
            raise UserError(f'{path}: line {number}: field "{text_key}" is not Unicode text (lone surrogate)') from None
        if text.strip():
            yield text


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    with _open(path) as file:
        for number, line in enumerate(file, start=1):
            yield number, _decode(line, path, number)


def _decode(raw: bytes, path: Path, line: int = 1) -> str:
    try:
        require(b"\0" not in raw, "")
        return raw.decode("utf-8-sig" if line == 1 else "utf-8")
    except ValueError as error:
        why = str(error) or "it holds NUL bytes"
        raise UserError(f"{path}: not UTF-8 text ({why}); convert the file or leave it out") from None


@contextmanager
def _open(path: Path) -> Iterator[BinaryIO]:
    # the errors of a damaged archive appear while reading, so the reader's body runs inside the try
    opener = {".gz": gzip.open, ".xz": lzma.open}.get(path.suffix, open)
    try:
        with opener(path, "rb") as file:
            yield cast(BinaryIO, file)
    except (EOFError, zlib.error, gzip.BadGzipFile, lzma.LZMAError) as error:
        raise UserError(f"{path}: truncated or damaged archive ({error}); fetch the file again") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None
