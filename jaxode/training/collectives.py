"""What a compiled program sends between devices, read off its text."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "collective-permute", "all-to-all")
SIZES = {"f64": 8, "f32": 4, "s32": 4, "u32": 4, "bf16": 2, "f16": 2, "s8": 1, "u8": 1, "pred": 1}
_SHAPE = re.compile(rf"\b({'|'.join(SIZES)})\[([\d,]*)\]")


@dataclass(frozen=True)
class Collective:
    """One instruction; what reduces several arrays together is one."""

    kind: str
    looped: bool
    """Whether it stands in a loop, and so runs at every step of depth."""
    bytes: int
    """Of its result on one device."""


def collectives(text: str) -> Iterator[Collective]:
    """Every collective of an optimised program, as ``jax.jit(f).lower(..).compile().as_text()`` gives it."""
    inside = set(re.findall(r"(?:body|condition)=%?([\w.\-]+)", text))
    here = ""
    for line in text.splitlines():
        opened = re.match(r"(?:ENTRY )?%?([\w.\-]+) .*\{$", line)
        here = opened.group(1) if opened else here
        found = re.search(rf" = (.*?) ({'|'.join(KINDS)})(?:-start)?\(", line)
        if found:
            yield Collective(found.group(2), here in inside, _bytes(found.group(1)))


def _bytes(shapes: str) -> int:
    return sum(SIZES[kind] * math.prod(int(n) for n in sides.split(",") if n) for kind, sides in _SHAPE.findall(shapes))
