"""Weights as safetensors files with the names that transformers looks for: one, or shards with an index."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

from jaxode.config import require
from jaxode.interop.files import INDEX, SAFETENSORS

MAX_SHARD_BYTES = 5_000_000_000


def write_shards(
    folder: Path, shapes: Mapping[str, Any], tensor: Callable[[str], np.ndarray], max_shard_bytes: int = MAX_SHARD_BYTES
) -> None:
    """Write tensors into a folder; those of one shard are held in memory at a time.

    Args:
        folder: where to.
        shapes: shape and type of all tensors, by name.
        tensor: the numbers of one of them.
        max_shard_bytes: of the tensors of a file, unless one of them alone has more.

    Raises:
        OSError: a file cannot be written.
    """
    require(max_shard_bytes >= 1, f"max_shard_bytes = {max_shard_bytes}: must be at least 1")
    sizes = {name: int(np.prod(value.shape)) * value.dtype.itemsize for name, value in shapes.items()}
    groups: list[list[str]] = [[]]
    for name, size in sizes.items():
        if groups[-1] and sum(sizes[other] for other in groups[-1]) + size > max_shard_bytes:
            groups.append([])
        groups[-1].append(name)
    stem, ending = SAFETENSORS.rsplit(".", 1)
    files = [f"{stem}-{number:05d}-of-{len(groups):05d}.{ending}" for number in range(1, len(groups) + 1)]
    if len(groups) == 1:
        files = [SAFETENSORS]
    for file, names in zip(files, groups, strict=True):
        try:
            save_file({name: tensor(name) for name in names}, folder / file, metadata={"format": "pt"})
        except SafetensorError as error:  # a full disk
            raise OSError(str(error)) from None
    if len(groups) > 1:
        places = {name: file for file, names in zip(files, groups, strict=True) for name in names}
        index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": places}
        (folder / (SAFETENSORS + INDEX)).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
