"""What was written is what is read: a checksum within a file of JSON, and one for every file of a folder.

Neither TOML nor JSON nor safetensors keeps a checksum: a bit that flips on a disk would go on as another number.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from jaxode.config import UserError
from jaxode.config.parsing import parse_json

CHECKSUMS = "checksums.json"
"""CRC-32 of the files of a folder, by path."""
SEAL = "checksum"
"""CRC-32 of the other fields of a file of JSON."""


def sealed(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields with their checksum."""
    return {**fields, SEAL: _checksum_of(fields)}


def unsealed(raw: Any, names: Iterable[str], always: bool = False) -> dict[str, Any]:
    """The fields of what `sealed` gave, by these names; what was written before there were checksums has none.

    Raises:
        ValueError: other numbers than were written, another field (it may be the checksum's damaged name), or no
            checksum where there is `always` one.
    """
    if not isinstance(raw, dict):
        raise ValueError("it is no table")
    fields = {name: value for name, value in raw.items() if name != SEAL}
    if always and SEAL not in raw:
        raise ValueError("its checksum is missing")
    if SEAL in raw and raw[SEAL] != _checksum_of(fields):
        raise ValueError("its checksum is that of other numbers")
    if unknown := fields.keys() - set(names):
        raise ValueError(f"unknown field {min(unknown)}")
    return fields


def write_checksums(folder: Path, files: Mapping[str, Path]) -> None:
    """Keep the checksums of files in a folder, by the names that they have or will have there.

    Raises:
        OSError: a file cannot be read, or the folder not be written.
    """
    sums = {name: file_checksum(files[name]) for name in sorted(files)}
    (folder / CHECKSUMS).write_text(json.dumps(sums, indent=2) + "\n", encoding="utf-8")


def files_below(folder: Path) -> dict[str, Path]:
    """Every file below a folder, by its path there."""
    return {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}


def read_checksums(folder: Path) -> dict[str, int]:
    """Checksum by path; none of a folder that was written before there were any.

    Raises:
        UserError: the file is damaged.
    """
    path = folder / CHECKSUMS
    try:
        sums = parse_json(path.read_bytes())
        if not isinstance(sums, dict) or not all(type(value) is int for value in sums.values()):
            raise ValueError("no checksums")
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path}: cannot be read ({error}); copy it again, or remove it where you know the rest is whole"
        ) from None
    return sums


def check_files(folder: Path, names: Iterable[str]) -> None:
    """Compare files with their checksums, of which there need be none.

    Raises:
        UserError: one is missing, or is not what was written.
    """
    sums = read_checksums(folder)
    for name in names:
        if name not in sums:
            continue
        try:
            same = file_checksum(folder / name) == sums[name]
        except FileNotFoundError:
            raise UserError(f"{folder / name}: missing, though {CHECKSUMS} names it; copy it again") from None
        except OSError as error:
            raise UserError(f"{folder / name}: cannot be read: {error.strerror or error}") from None
        if not same:
            raise UserError(
                f"{folder / name}: is damaged: it is not what was written; copy it again, or remove {CHECKSUMS} where "
                "you have changed it yourself"
            )


def file_checksum(path: Path) -> int:
    """CRC-32 of a file: it meets every flipped bit, and reads 5 GB a second where a cryptographic hash reads 1 or 2."""
    value = 0
    with path.open("rb") as file:
        while block := file.read(2**20):
            value = zlib.crc32(block, value)
    return value


def _checksum_of(fields: Mapping[str, Any]) -> int:
    # as JSON gives them back: of floats every digit counts, of text every character
    return zlib.crc32(json.dumps(fields, sort_keys=True).encode())
