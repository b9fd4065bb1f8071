"""The two TFDS sets of the pipeline, documents and rows of whole texts, and the atomic folders that they are kept in.

Both are array_record, which gives random access and needs no TensorFlow.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import secrets
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from jaxode.config import UserError
from jaxode.config.parsing import parse_json
from jaxode.data.checksums import CHECKSUMS, file_checksum, files_below, write_checksums
from jaxode.data.documents import Document, shown
from jaxode.data.notices import notice
from jaxode.data.packing import Row
from jaxode.data.streams import StreamRows

SPLITS = ("train", "validation")

FORMAT = 3
"""Raise it when the meaning of a stored set changes: it is part of every cache key."""

HELD_BYTES = 2**30
"""A training split up to this size is held in memory."""

_SHARD_EXAMPLES = 250_000
_HELD_SIZE = 8_000_000

_STALE_SECONDS = 24 * 3600


def write_documents(folder: Path, documents: Iterable[tuple[str, Document]]) -> None:
    """Write documents, each with its split, as a TFDS set with features text and source.

    Raises:
        OSError: the system refuses to write, or has no room.
    """
    features = {"text": tfds.features.Text(), "source": tfds.features.Text()}
    named = (
        (split, {"text": document.text, "source": shown(document.source)}, len(document.text))
        for split, document in documents
    )
    _write_set(folder, "jaxode_text", features, named)


def write_rows(folder: Path, rows: Iterable[tuple[str, Row]], length: int, answered: bool = False) -> None:
    """Write packed rows of whole texts, each with its split, as a TFDS set with features tokens int32[L + 1], count
    int32, segments shaped as tokens, and where they are `answered` given.

    Raises:
        OSError: as `write_documents`.
    """
    row = tfds.features.Tensor(shape=(length + 1,), dtype=np.int32)
    features = {"tokens": row, "count": tfds.features.Scalar(dtype=np.int32), "segments": row}
    if answered:
        features["given"] = row
    _write_set(folder, "jaxode_rows", features, ((split, row.features, length) for split, row in rows))


def _write_set(
    folder: Path, name: str, features: dict[str, Any], examples: Iterable[tuple[str, dict[str, Any], int]]
) -> None:
    """Examples with their split and size, as they come: what TFDS's builders write waits for all of it in memory."""
    version = f"{FORMAT}.0.0"
    place = folder / name / version
    place.mkdir(parents=True)
    identity = tfds.core.DatasetIdentity(name, tfds.core.Version(version), str(place), __name__)
    with _full_disk():
        info = tfds.core.DatasetInfo(
            builder=identity, features=tfds.features.FeaturesDict(features), disable_shuffling=True
        )
        writer = tfds.core.SequentialWriter(info, _SHARD_EXAMPLES, file_format="array_record")
        writer.initialize_splits(list(SPLITS))
        held: dict[str, list[Any]] = {}
        size = 0
        for split, example, own in examples:
            held.setdefault(split, []).append(example)
            size += own + 1000
            if size >= _HELD_SIZE:
                writer.add_examples(held)
                held, size = {}, 0
        writer.add_examples(held)
        writer.close_all()


@contextlib.contextmanager
def _full_disk() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        # array_record's word for a full disk; the reason stands in front of the paths
        raise OSError(str(error).split(";")[0]) from None


def write(builder: tfds.core.DatasetBuilder, show: bool = False) -> None:
    """Generate a registered set; TFDS's own messages and bars go to standard error with `show`, else nowhere.

    Raises:
        OSError: the system refuses to write, or has no room.
    """
    (tfds.enable_progress_bar if show else tfds.disable_progress_bar)()
    absl = logging.getLogger("absl")
    level = absl.level
    absl.setLevel(logging.ERROR)
    try:
        # TFDS prints to standard output, which belongs to results
        with _full_disk(), contextlib.redirect_stdout(sys.stderr if show else io.StringIO()):
            builder.download_and_prepare()
    finally:
        absl.setLevel(level)


def read(folder: Path, split: str) -> Sequence[dict[str, Any]]:
    """Random access to one split of a set written under `folder`."""
    versions = sorted(folder.glob("*/*/dataset_info.json"))
    assert len(versions) == 1, folder
    return tfds.builder_from_directory(versions[0].parent).as_data_source(split)  # pyright: ignore


class HeldRows(Sequence[dict[str, Any]]):
    """Rows of tokens, count, segments and given in memory: one pass over the set, then no file is touched."""

    def __init__(self, rows: Any):
        self._held = {name: np.empty((len(rows), *np.shape(value)), np.int32) for name, value in rows[0].items()}
        for start in range(0, len(rows), 1024):
            some = range(start, min(start + 1024, len(rows)))
            for i, row in zip(some, rows.__getitems__(some), strict=True):
                for name, held in self._held.items():
                    held[i] = row[name]

    def __len__(self) -> int:
        return len(self._held["tokens"])

    def __getitem__(self, index: Any) -> Any:
        return {name: held[index] for name, held in self._held.items()}


def hold(rows: Sequence[Mapping[str, Any]], limit: int = HELD_BYTES) -> Sequence[Mapping[str, Any]]:
    """Rows that `read` opened, in memory if they take at most `limit` bytes there, else as they are.

    A random read from array_record takes 0.1 ms a row; a GPU with a small model would wait for it. One from a stream
    takes microseconds.
    """
    if isinstance(rows, StreamRows):
        return rows
    size = sum(np.asarray(value).nbytes for value in rows[0].values() if np.ndim(value)) if len(rows) else 0
    return HeldRows(rows) if len(rows) and len(rows) * size <= limit else rows


def make_folder(folder: Path, fill: Callable[[Path], None]) -> Path:
    """Return `folder`, filled by `fill` unless it exists and is sound; one line says so where it is not.

    `fill` writes beside the final place and one rename publishes the result, so a killed process leaves no half-written
    set under the final name. Of two processes that race, the second keeps the first one's result.

    Raises:
        UserError: the system refuses to read or to write there.
    """
    try:
        damage = _damage(folder) if folder.exists() else None
        if damage is None and folder.is_dir():
            return folder
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be read ({error.strerror or error}), so nothing is known of its content; its owner can "
            "open it to you (chmod -R a+rX), or name another folder by data.cache"
        ) from None
    if damage:
        notice(f"{folder}: {damage}; prepared anew")
    mark = secrets.token_hex(8)
    partial, aside = (folder.parent / f".partial-{mark}-{name}" for name in ("new", "old"))
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(folder.parent)
        # not by tempfile, whose folders are closed to other users
        partial.mkdir()
        fill(partial)
        write_checksums(partial, files_below(partial))
        _publish(partial, folder, aside)
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be written ({error.strerror or error}); data.cache must be a folder that you may write "
            "to, on a disk with room: make it so, or name another one"
        ) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(aside, ignore_errors=True)
        if aside.is_file():
            aside.unlink()
    return folder


def _publish(partial: Path, folder: Path, aside: Path) -> None:
    """Give `partial` the name `folder`, unless another process was first; what is damaged there goes `aside`."""
    if folder.exists() and _damage(folder):
        os.rename(folder, aside)
    try:
        os.rename(partial, folder)
    except OSError:
        if not folder.is_dir():
            raise


def _remove_stale(parent: Path) -> None:
    """Remove a killed run's leftovers; a young one may belong to a process at work."""
    for left in parent.glob(".partial-*"):
        with contextlib.suppress(FileNotFoundError):  # another process cleans up too
            if time.time() - left.stat().st_mtime > _STALE_SECONDS:
                shutil.rmtree(left, ignore_errors=True)


def _damage(folder: Path) -> str | None:
    """What is wrong with a folder that `make_folder` published; None where nothing is.

    Raises:
        OSError: it cannot be read, so nothing is known.
    """
    name = CHECKSUMS
    try:
        for name, checksum in parse_json((folder / CHECKSUMS).read_bytes()).items():
            if file_checksum(folder / name) != checksum:
                return f"{name} is damaged"
    except (FileNotFoundError, NotADirectoryError):
        return f"{name} is missing"
    except (ValueError, AttributeError, IsADirectoryError):
        return f"{name} is damaged"
    return None
