"""Whether the checkpoints of a run fit on the disk, told before its first update."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import jax

from jaxode.checkpoint import RunFolder
from jaxode.config import TrainConfig, UserError
from jaxode.machine import readable


def checkpoint_bytes(params: Any, optimizer: Any) -> int:
    """Of one checkpoint, at most: Orbax writes compressed what is counted here as it lies in memory."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves((params, optimizer)))


def most_checkpoints(train: TrainConfig) -> int:
    """How many lie on the disk at once: the newest, one that is being written, the best, those that stay for good."""
    saves = -(-train.updates // train.checkpoint_every)
    saves += train.updates // train.validate_every if train.best else 0
    for_good = train.updates // train.keep_every if train.keep_every else 0
    return min(train.keep + 1 + bool(train.best) + for_good, saves)


def check_disk(run: RunFolder, train: TrainConfig, checkpoint: int) -> str:
    """What the checkpoints take, in words; those of the run that lie there already count as theirs.

    Args:
        run: which need not exist yet.
        train: which of them are kept.
        checkpoint: bytes of one.

    Raises:
        UserError: less is free, with both numbers and the fields to change.
    """
    count, free = most_checkpoints(train), free_bytes(run.path)
    needed = count * checkpoint
    there = sum(path.stat().st_size for path in run.checkpoints.rglob("*") if path.is_file())
    if needed > free + there:
        raise UserError(
            f"{run.path}: {count} checkpoint(s) of {readable(checkpoint)} take up to {readable(needed)}, "
            f"{readable(free + there)} are free: make train.keep = {train.keep} smaller or "
            f"train.keep_every = {train.keep_every} larger, or name another disk with --out"
        )
    return f"up to {count} checkpoint(s) of {readable(checkpoint)}, {readable(free + there)} free"


def free_bytes(path: Path) -> int:
    """Of the disk on which a path lies or will lie."""
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free
