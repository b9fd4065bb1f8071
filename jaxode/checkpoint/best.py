"""Which checkpoint of a run validated best: RUN/best.json. It is kept, and it is what the run is read as."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from jaxode import hosts
from jaxode.checkpoint.folder import RunFolder
from jaxode.config import UserError, from_dict
from jaxode.config.parsing import parse_json
from jaxode.data.checksums import sealed, unsealed


@dataclass(frozen=True)
class Best:
    """A validation that no other one of its run surpassed."""

    step: int
    """Update whose checkpoint it is."""
    metric: str
    """What was compared, as `train.best` names it."""
    value: float
    ended: bool = False
    """Whether the run is over: its updates are made, or no better one is waited for."""


FIELDS = tuple(field.name for field in dataclasses.fields(Best))


def read_best(run: RunFolder) -> Best | None:
    """None where the run chooses none, or has not validated yet.

    Raises:
        UserError: the file says nothing of the kind.
    """
    try:
        found = unsealed(parse_json(run.best.read_bytes()), FIELDS)
        best = from_dict(Best, found, str(run.best))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise UserError(
            f"{run.best}: cannot be read ({error}); copy it again, or remove it, so that the newest checkpoint counts"
        ) from None
    return best if math.isfinite(best.value) else None


def write_best(run: RunFolder, best: Best) -> None:
    """Once its checkpoint is whole.

    Raises:
        UserError: it cannot be written.
    """
    partial = run.best.with_name(run.best.name + ".partial")
    try:
        if hosts.first():
            partial.write_text(json.dumps(sealed(dataclasses.asdict(best))) + "\n", encoding="utf-8")
            os.replace(partial, run.best)
    except OSError as error:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise UserError(f"{run.best}: cannot be written: {error.strerror or error}") from None
    hosts.barrier("best")


def forget_best(run: RunFolder) -> None:
    """The newest checkpoint counts again.

    Raises:
        UserError: the file cannot be removed.
    """
    try:
        if hosts.first():
            run.best.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{run.best}: cannot be removed: {error.strerror or error}") from None
    hosts.barrier("best")


class KeepBest:
    """One of Orbax's preservation policies: the checkpoint that best.json names stays."""

    def __init__(self, run: RunFolder):
        """Of a run."""
        self.run = run

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> Sequence[bool]:
        """Of each checkpoint, whether it is that one."""
        del context
        best = read_best(self.run)
        return [best is not None and one.step == best.step for one in checkpoints]
