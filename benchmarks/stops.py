"""How long a run takes to save and end after SIGTERM, whatever it is busy with.

    python benchmarks/stops.py

A tiny run with random depth starts with nothing compiled, is told to end at four moments, and is resumed to its end.
Keeps docs/results/stops.csv, a line a moment: seconds from the signal to the end of the process, its exit code, the
update that was saved (empty: no folder is left), and the exit code of the run that goes on.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import Any

from kills import flags, logged, start
from timing import report
from tqdm import tqdm

from jaxode.config import Config, parse
from jaxode.training.curriculum import Curriculum

SETTINGS = ["--objective.name", "random", "--train.validate-every", "20", "--train.updates", "40"]


def main() -> None:
    """Each moment in a run of its own."""
    os.environ["JAXODE_COMPILED"] = "none"
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        arguments = [*flags(Path(folder)), *SETTINGS]
        draws = Curriculum(parse(Config, arguments))
        another = next(update for update in range(20) if draws.at(update) != draws.at(0))
        moments = {"first compilation": -1, "another depth compiles": another, "validation": 20, "updates": 25}
        for number, (moment, update) in enumerate(tqdm(moments.items())):
            run = Path(folder) / f"run-{number}"
            rows.append({"moment": moment, **stopped([*arguments, "--out", str(run)], run, update)})
    report("stops", rows)


def stopped(arguments: list[str], run: Path, update: int) -> dict[str, Any]:
    """Start, tell it to end once that update is logged, go on."""
    process = start(arguments)
    while process.poll() is None and not (run / "config.toml").exists():
        time.sleep(0.05)
    time.sleep(2.0 if update < 0 else 0.0)  # what is small is done, and the update compiles
    while process.poll() is None and logged(run) < update:
        time.sleep(0.01)
    assert process.poll() is None, "it ended before it was told to"
    process.terminate()
    began = time.perf_counter()
    process.communicate()
    seconds = time.perf_counter() - began
    steps = [int(path.name) for path in (run / "checkpoints").glob("*") if path.name.isdigit()]
    again = start([*arguments, *(["--resume"] if run.exists() else [])])
    again.communicate()
    return {
        "seconds": round(seconds, 1),
        "exit_code": process.returncode,
        "saved": max(steps, default=""),
        "resumed": again.returncode,
    }


if __name__ == "__main__":
    main()
