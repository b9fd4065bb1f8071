"""The command: which parts there are, in which order, and what of them the record lacks."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import jax

from accelerators.chip import chip
from accelerators.decoding import decoding
from accelerators.encoding import encoding
from accelerators.latency import latency
from accelerators.record import Line, Machine, append, figures, read
from accelerators.scale import CPU, FULL, TINY, Scale
from accelerators.speculating import speculating
from accelerators.table import write
from accelerators.training import memory, mesh, training

ROOT = Path(__file__).resolve().parents[2]
RECORD, PAGE = ROOT / "docs" / "results" / "accelerators.jsonl", ROOT / "docs" / "accelerators.md"
Measure = Callable[[Scale, Mapping[str, float]], tuple[dict[str, float], dict[str, str]]]


def parts(scale: Scale) -> dict[str, Measure]:
    """What is measured, the most telling first."""
    first, *others = scale.widths
    return {
        "chip": chip,
        f"training at D {first}": partial(training, width=first),
        f"decoding at D {first}": partial(decoding, width=first),
        "speculation": speculating,
        "steps": latency,
        "memory of an update": memory,
        "a mesh of one": mesh,
        "encoder": encoding,
        **{f"training at D {width}": partial(training, width=width) for width in others},
        f"decoding at D {scale.small}": partial(decoding, width=scale.small),
    }


def main(description: str) -> None:
    """Measure what the record lacks, or draw the table."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=7.0, help="no part begins after so many (default: 7)")
    parser.add_argument("--tiny", action="store_true", help="small shapes, for a test of the command itself")
    parser.add_argument("--out", type=Path, default=RECORD, help=f"the record (default: {RECORD.relative_to(ROOT)})")
    parser.add_argument("--table", action="store_true", help="draw docs/accelerators.md from the record, and end")
    settings = parser.parse_args()
    if settings.table:
        write(PAGE, read(settings.out), list(parts(FULL)))
        print(f"wrote {PAGE.relative_to(ROOT)}")
        return
    scale = TINY if settings.tiny else CPU if jax.default_backend() == "cpu" else FULL
    measure(scale, settings.out, settings.minutes)


def measure(scale: Scale, record: Path, minutes: float) -> None:
    """Every part that the record lacks for this machine and code, as long as there is time."""
    began, machine = time.monotonic(), Machine.here(scale.name)
    print(f"{machine.device}, JAX {machine.jax}, {scale.dtype}; record: {record}", flush=True)
    for part, run in parts(scale).items():
        done = [line for line in read(record) if line.of(machine)]
        if any(line.part == part and line.figures for line in done):
            print(f"{part}: in the record", flush=True)
            continue
        if time.monotonic() - began > 60 * minutes:
            print(f"{part}: not reached in {minutes:g} minutes; the same command goes on here", flush=True)
            continue
        start = time.monotonic()
        try:
            found, skipped = run(scale, figures(done))
        except Exception as error:  # out of memory, a compiler, a driver: the other parts count without it
            found, skipped = {}, {part: f"{type(error).__name__}: {str(error).strip()[:300]}"}
        jax.clear_caches()
        append(record, Line.now(machine, part, time.monotonic() - start, found, skipped))
        print(f"{part}: {time.monotonic() - start:.0f} s", flush=True)
        for name, value in found.items():
            print(f"    {name:<70} {value:12,.4g}", flush=True)
        for what, why in skipped.items():
            print(f"    left out: {what} ({why})", flush=True)
