"""How long is it from a command to its first update?

    python benchmarks/start_and_resume.py --rounds 3

Starts `python train.py`, the default recipe, with nothing kept from earlier ones (no prepared corpus, no compiled
programs); then, by turns, a new run and the first one resumed, which find both. Each is told to end once its first
update is logged. Keeps docs/results/start-and-resume.csv, a line a start: seconds by the clock, seconds of processors
(of all threads, by Linux's /proc), and how many programs ran or waited meanwhile (load average).
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from kills import ROOT, logged
from timing import report, rounds_argument
from tqdm import tqdm


def processors(process: subprocess.Popen[bytes]) -> float:
    """Seconds of processors that a process has used."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def first_update(kind: str, run: Path, cache: Path) -> dict[str, Any]:
    """Start or resume a run, wait for its next update, let it save and end."""
    command = [sys.executable, "train.py", "--out", str(run), "--train.log-every", "1"]
    before, began = logged(run), time.perf_counter()
    process = subprocess.Popen(
        [*command, *(["--resume"] if before else [])],
        cwd=ROOT,
        env=os.environ | {"JAXODE_CACHE": str(cache), "JAX_PLATFORMS": "cpu"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while logged(run) == before:
        if process.poll() is not None:
            raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
        time.sleep(0.02)
    row = {"start": kind, "seconds": time.perf_counter() - began, "processor_seconds": processors(process)}
    process.terminate()
    process.wait()
    return {name: round(value, 2) if isinstance(value, float) else value for name, value in row.items()} | {
        "load": round(os.getloadavg()[0], 1)
    }


def main() -> None:
    """Start, keep, compare."""
    rows, rounds = [], rounds_argument(3)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows.append(first_update("first", folder / "run", folder / "cache"))
        for number in tqdm(range(rounds)):
            rows.append(first_update("again", folder / f"run-{number}", folder / "cache"))
            rows.append(first_update("resumed", folder / "run", folder / "cache"))
    report("start-and-resume", rows)
    for unit in ("seconds", "processor_seconds"):
        again, resumed = (
            statistics.median(row[unit] for row in rows if row["start"] == kind) for kind in ("again", "resumed")
        )
        print(f"{unit}: resumed over again {resumed / again:.2f}")


if __name__ == "__main__":
    main()
