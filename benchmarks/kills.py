"""Runs that are killed at random moments, saves among them, and resumed: what is lost?

    python benchmarks/kills.py --kills 200

Trains a tiny model to its end once undisturbed. Then the same run again and again, each killed (SIGKILL) at a random
moment and resumed until it ends; every start must find a state to go on from, and every end must be the undisturbed
one bit for bit. Keeps docs/results/kills.csv, a line a run that reached its end: how often it was killed, how often
while a save was under way, the updates that had to be made again, and whether the parameters are the same. Goes on
behind the lines that are there; those of another version of jaxode are removed by hand.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from timing import RESULTS, report
from tqdm import tqdm

from jaxode.checkpoint import load_run
from jaxode.config import UserError

ROOT = Path(__file__).resolve().parent.parent
UPDATES, EVERY = 300, 3
"""Updates of the run, and between saves: most of its time some save is on its way."""


def flags(folder: Path) -> list[str]:
    """Of the run, on text that is made here."""
    rng, text = random.Random(0), folder / "text"
    text.mkdir()
    for number in range(12):
        words = rng.choices(["depth", "is", "time", "and", "a", "block", "field"], k=400)
        (text / f"{number}.txt").write_text(" ".join(words), encoding="utf-8")
    settings = {
        "model": {"width": 16, "heads": 2, "length": 16, "steps": 3, "dropout": 0.1},
        "data": {"files": f"{text}/*.txt", "tokenizer": "bytes", "cache": folder / "cache", "valid-fraction": 0.1},
        "train": {"updates": UPDATES, "batch-size": 4, "devices": 1, "log-every": 1, "checkpoint-every": EVERY},
    }
    named = [(f"--{part}.{name}", str(value)) for part, values in settings.items() for name, value in values.items()]
    return [word for pair in named for word in pair] + ["--train.no-sweep"]


def start(arguments: list[str]) -> subprocess.Popen[bytes]:
    """A process of train.py that says nothing."""
    command = [sys.executable, "train.py", *arguments]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def logged(run: Path) -> int:
    """The last update in the log."""
    if not (run / "metrics.jsonl").exists():
        return 0
    last = 0
    for line in (run / "metrics.jsonl").read_bytes().splitlines():
        try:
            last = int(json.loads(line)["step"])
        except (ValueError, KeyError):  # torn by the kill
            continue
    return last


def saving(run: Path) -> bool:
    """Whether a save was under way when the process died."""
    folder = run / "checkpoints"
    return folder.is_dir() and any("tmp" in path.name for path in folder.iterdir())


def disturbed(arguments: list[str], run: Path, rng: random.Random, bar: Any) -> dict[str, Any]:
    """One run, killed until it ends, or until the bar is full."""
    row: dict[str, Any] = {"kills": 0, "while_saving": 0, "updates_again": 0, "failed_starts": 0}
    while True:
        begun = ["--resume", "--out", str(run)] if (run / "config.toml").exists() else [*arguments, "--out", str(run)]
        process, before = start(begun), logged(run)
        if bar.n >= bar.total:
            process.wait()
        # every second moment lies within what a start takes, the others among updates and their saves
        deadline, since = rng.uniform(2.0, 20.0), time.monotonic()
        if rng.random() < 0.5:
            while process.poll() is None and logged(run) == before:
                time.sleep(0.01)
            deadline, since = rng.uniform(0.0, 2.0), time.monotonic()
        while process.poll() is None and time.monotonic() - since < deadline:
            time.sleep(0.01)
        if process.poll() is None:
            process.kill()
            process.communicate()
            row["kills"] += 1
            row["while_saving"] += saving(run)
            bar.update()
            reached = logged(run)
            steps = [int(path.name) for path in (run / "checkpoints").glob("*") if path.name.isdigit()]
            row["updates_again"] += max(0, reached - max(steps, default=0)) if reached > before else 0
            continue
        _, said = process.communicate()
        if process.returncode == 0:
            return row
        row["failed_starts"] += 1
        print(said.decode()[-500:], file=sys.stderr)
        if row["failed_starts"] > 3:
            raise SystemExit(f"{run}: cannot be resumed")


def kept() -> list[dict[str, Any]]:
    """The lines of earlier calls."""
    file = RESULTS / "kills.csv"
    if not file.exists():
        return []
    with file.open(encoding="utf-8", newline="") as lines:
        return [
            {name: value == "True" if name == "same" else int(value) if value else None for name, value in row.items()}
            for row in csv.DictReader(lines)
        ]


def main() -> None:
    """Read the command line, kill, compare, keep."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    told = parser.parse_args()
    rows = kept()
    done = sum(row["kills"] for row in rows)
    # other moments than those of the lines that are there
    rng = random.Random(told.seed + done)
    with tempfile.TemporaryDirectory() as name, tqdm(total=told.kills, initial=done, unit="kill") as bar:
        folder = Path(name)
        arguments = flags(folder)
        whole = folder / "whole"
        if start([*arguments, "--out", str(whole)]).wait() != 0:
            raise SystemExit("the undisturbed run failed")
        want = load_run(whole).params
        while bar.n < told.kills:
            run = folder / f"run-{len(rows)}"
            row = disturbed(arguments, run, rng, bar)
            try:
                params = load_run(run).params
                row["same"] = all(np.array_equal(params[name], value) for name, value in want.items())
            except UserError as error:
                print(error, file=sys.stderr)
                row["same"] = False
            rows.append(row)
            report("kills", rows)


if __name__ == "__main__":
    main()
