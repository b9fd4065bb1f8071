"""A text file, plain or under gzip or xz, as lines or as pieces of bounded size; every fault names the file."""

from __future__ import annotations

import gzip
import lzma
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from jaxode.config import UserError, require

OPENERS = {".gz": gzip.open, ".xz": lzma.open}
"""By suffix, of what may be around a file."""

LARGEST = 2**27
"""Bytes of the largest line, and of the largest text that stands in memory as one."""

PIECE = 2**24
"""Bytes of the pieces that a larger text file is read in."""


def raw_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield number, from 1, and text of every line with its end; only line feeds end one.

    Raises:
        UserError: the file cannot be read, is binary or damaged, or a line is longer than `LARGEST`.
    """
    with opened(path) as file:
        number = 0
        while raw := file.readline(LARGEST + 1):
            number += 1
            require(len(raw) <= LARGEST, too_long(f"{path}: line {number}"))
            yield number, decoded(raw, path, number, f"line {number}: ")


def pieces(path: Path) -> Iterator[str]:
    """Yield the text of a file as it stands: all of it, or where it is larger than `LARGEST` pieces of `PIECE` bytes
    that end with a line where lines are shorter.

    Raises:
        UserError: the file cannot be read, is binary or damaged.
    """
    with opened(path) as file:
        held = file.read(LARGEST + 1)
        if len(held) <= LARGEST:
            yield decoded(held, path)
            return
        line = 1
        while held:
            if len(held) < PIECE:
                held += file.read(PIECE)
            size = len(held) if len(held) <= PIECE else _end(held)
            yield decoded(held[:size], path, line)
            held, line = held[size:], line + 1


def _end(held: bytes) -> int:
    """Where a piece ends: behind its last line feed, else before a character."""
    size = held.rfind(b"\n", 0, PIECE) + 1 or PIECE
    while size > 1 and held[size] & 0xC0 == 0x80:  # the rest of a character in UTF-8
        size -= 1
    return size


def decoded(raw: bytes, path: Path, line: int = 1, where: str = "") -> str:
    """UTF-8 as text, at the file's beginning without a byte order mark.

    Raises:
        UserError: it is none, or holds NUL bytes; `where` tells the place in the file.
    """
    try:
        require(b"\0" not in raw, "")
        return raw.decode("utf-8-sig" if line == 1 else "utf-8")
    except ValueError as error:
        why = str(error) or "it holds NUL bytes"
        raise UserError(f"{path}: {where}not UTF-8 text ({why}); convert the file or leave it out") from None


def too_long(name: str) -> str:
    """What is told of a text above `LARGEST`."""
    return f"{name} is longer than {LARGEST >> 20} MiB, more than a document may hold: divide it, or leave it out"


def check_text(text: str, name: str) -> None:
    """What holds of every text, and of words and labels, whatever a file keeps them in.

    Args:
        text: decoded.
        name: what errors call it.

    Raises:
        UserError: it is longer than `LARGEST`, no Unicode, or holds NUL characters.
    """
    require(len(text) <= LARGEST, too_long(name))
    require("\0" not in text, f"{name} holds NUL characters; take them out, or leave it out")
    try:
        text.encode()
    except UnicodeEncodeError:  # of JSON, which may name half of a character
        raise UserError(f"{name} is not Unicode text (lone surrogate)") from None


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """The bytes of a file, unpacked.

    Raises:
        UserError: it cannot be read, or is a damaged archive.
    """
    # the errors of a damaged archive appear while reading, so the reader's body runs inside the try
    opener = OPENERS.get(path.suffix.lower(), open)
    try:
        with opener(path, "rb") as file:
            yield cast(BinaryIO, file)
    except (EOFError, zlib.error, gzip.BadGzipFile, lzma.LZMAError) as error:
        raise UserError(f"{path}: truncated or damaged archive ({error}); fetch the file again") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None
