"""The two TFDS builders of the pipeline, documents and packed rows, and the atomic folders that they are kept in.

Both write array_record, which gives random access and needs no TensorFlow.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from jaxode.data.documents import Document
from jaxode.data.packing import Row

FORMAT = 1
"""Raise it when the meaning of a stored set changes: it is part of every cache key."""

HELD_BYTES = 2**30
"""A training split up to this size is held in memory."""

_STALE_SECONDS = 24 * 3600


class JaxodeText(tfds.core.GeneratorBasedBuilder):
    """Local documents as a TFDS set with features text and source; `splits` maps a split to a maker of documents."""

    VERSION = tfds.core.Version(f"{FORMAT}.0.0")

    def __init__(self, splits: Mapping[str, Callable[[], Iterable[Document]]], **kwargs: Any):
        self._splits = splits
        super().__init__(file_format="array_record", **kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        features = tfds.features.FeaturesDict({"text": tfds.features.Text(), "source": tfds.features.Text()})
        return tfds.core.DatasetInfo(builder=self, features=features, disable_shuffling=True)

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        return {name: self._generate_examples(make()) for name, make in self._splits.items()}

    def _generate_examples(self, documents: Iterable[Document]) -> Iterator[tuple[int, dict[str, str]]]:
        for i, document in enumerate(documents):
            yield i, {"text": document.text, "source": document.source}


class JaxodeRows(tfds.core.GeneratorBasedBuilder):
    """Packed rows as a TFDS set with features tokens int32[L + 1] and count int32."""

    VERSION = tfds.core.Version(f"{FORMAT}.0.0")

    def __init__(self, splits: Mapping[str, Callable[[], Iterable[Row]]], length: int, **kwargs: Any):
        self._splits, self._length = splits, length
        super().__init__(file_format="array_record", **kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        features = tfds.features.FeaturesDict(
            {
                "tokens": tfds.features.Tensor(shape=(self._length + 1,), dtype=np.int32),
                "count": tfds.features.Scalar(dtype=np.int32),
            }
        )
        return tfds.core.DatasetInfo(builder=self, features=features, disable_shuffling=True)

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        return {name: self._generate_examples(make()) for name, make in self._splits.items()}

    def _generate_examples(self, rows: Iterable[Row]) -> Iterator[tuple[int, dict[str, Any]]]:
        for i, row in enumerate(rows):
            yield i, {"tokens": row.tokens, "count": row.count}


def write(builder: tfds.core.DatasetBuilder, show: bool = False) -> None:
    """Generate the set of `builder`; TFDS's own messages and bars go to standard error with `show`, else nowhere."""
    (tfds.enable_progress_bar if show else tfds.disable_progress_bar)()
    absl = logging.getLogger("absl")
    level = absl.level
    absl.setLevel(logging.ERROR)
    try:
        # TFDS prints to standard output, which belongs to results
        with contextlib.redirect_stdout(sys.stderr if show else io.StringIO()):
            builder.download_and_prepare()
    finally:
        absl.setLevel(level)


def read(folder: Path, split: str) -> Sequence[dict[str, Any]]:
    """Random access to one split of a set written under `folder`."""
    versions = sorted(folder.glob("*/*/dataset_info.json"))
    assert len(versions) == 1, folder
    return tfds.builder_from_directory(versions[0].parent).as_data_source(split)  # pyright: ignore


class HeldRows(Sequence[dict[str, Any]]):
    """Rows of tokens and count in memory: one pass over the set, then no file is touched."""

    def __init__(self, rows: Any):
        self._tokens = np.empty((len(rows), len(rows[0]["tokens"])), np.int32)
        self._count = np.empty(len(rows), np.int32)
        for start in range(0, len(rows), 1024):
            some = range(start, min(start + 1024, len(rows)))
            for i, row in zip(some, rows.__getitems__(some), strict=True):
                self._tokens[i], self._count[i] = row["tokens"], row["count"]

    def __len__(self) -> int:
        return len(self._tokens)

    def __getitem__(self, index: Any) -> Any:
        return {"tokens": self._tokens[index], "count": self._count[index]}


def hold(rows: Sequence[Mapping[str, Any]], limit: int = HELD_BYTES) -> Sequence[Mapping[str, Any]]:
    """Rows that `read` opened, in memory if they take at most `limit` bytes there, else as they are.

    A random read from array_record takes 0.1 ms a row; a GPU with a small model would wait for it.
    """
    return HeldRows(rows) if len(rows) and len(rows) * rows[0]["tokens"].nbytes <= limit else rows


def make_folder(folder: Path, fill: Callable[[Path], None]) -> Path:
    """Return `folder`, filled by `fill` unless it exists.

    `fill` writes beside the final place and one rename publishes the result, so a killed process leaves no half-written
    set under the final name. Of two processes that race, the second keeps the first one's result.
    """
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    for left in folder.parent.glob(".partial-*"):
        # a killed run's leftovers; a young one may belong to a process at work
        if time.time() - left.stat().st_mtime > _STALE_SECONDS:
            shutil.rmtree(left, ignore_errors=True)
    partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=folder.parent))
    try:
        fill(partial)
        try:
            os.rename(partial, folder)
        except OSError:
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder
