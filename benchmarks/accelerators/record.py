"""The record: a line of JSON for every part that was measured, appended as it comes, so that a killed run loses none.

{"device": .., "jax": .., "scale": .., "source": .., "date": .., "part": .., "seconds": .., "figures": {name: value},
 "skipped": {what: why}}
"""

from __future__ import annotations

import datetime
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import jax


@dataclass(frozen=True)
class Machine:
    """What figures belong to."""

    device: str
    """Kind and number of the devices."""
    jax: str
    scale: str
    source: str
    """Hash of the code that was measured and of that which measures."""

    @classmethod
    def here(cls, scale: str) -> Machine:
        """JAX's default devices."""
        devices = jax.devices()
        name = f"CPU, {cores()} cores" if devices[0].platform == "cpu" else devices[0].device_kind
        several = f"{len(devices)} x " if len(devices) > 1 else ""
        return cls(several + name, jax.__version__, scale, source())


@dataclass(frozen=True)
class Line:
    """One part on one machine."""

    device: str
    jax: str
    scale: str
    source: str
    date: str
    part: str
    seconds: float
    figures: dict[str, float]
    skipped: dict[str, str] = field(default_factory=dict)

    @classmethod
    def now(
        cls, machine: Machine, part: str, seconds: float, figures: dict[str, float], skipped: dict[str, str]
    ) -> Line:
        """Measured today."""
        today = datetime.datetime.now(datetime.UTC).date().isoformat()
        return cls(**asdict(machine), date=today, part=part, seconds=seconds, figures=figures, skipped=skipped)

    def of(self, machine: Machine) -> bool:
        """Whether these figures still hold for it."""
        return Machine(self.device, self.jax, self.scale, self.source) == machine


def read(path: Path) -> list[Line]:
    """Every whole line; one that a kill has cut off is no line."""
    return list(_lines(path)) if path.exists() else []


def append(path: Path, line: Line) -> None:
    """Behind what is there, and on the disk before this returns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        # the half line of a run that was killed must not swallow this one
        if file.tell() and not _ends_whole(path):
            file.write(b"\n")
        file.write(json.dumps(asdict(line)).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def figures(lines: Iterable[Line]) -> dict[str, float]:
    """By name, the newest of each."""
    return {name: value for line in lines for name, value in line.figures.items()}


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def source() -> str:
    """Hash of the package and of these measurements."""
    root = Path(__file__).resolve().parents[2]
    digest = hashlib.sha256()
    for folder in (root / "jaxode", Path(__file__).parent):
        for path in sorted(folder.rglob("*.py")):
            digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return f"sha256:{digest.hexdigest()[:16]}"


def _lines(path: Path) -> Iterator[Line]:
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            yield Line(**json.loads(text))
        except (json.JSONDecodeError, TypeError):
            continue


def _ends_whole(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read() == b"\n"
