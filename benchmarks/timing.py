"""Side-by-side timing: candidates take turns in one run, so that a slow moment of the machine hits them all."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax

from jaxode.evaluation.figures import table, write_csv

RESULTS = Path(__file__).resolve().parent.parent / "docs" / "results"


def compare(candidates: Mapping[str, Callable[[], Any]], rounds: int = 11) -> dict[str, float]:
    """Median milliseconds of each candidate, warmed up; every result is waited for."""
    for run in candidates.values():
        jax.block_until_ready(run())
        jax.block_until_ready(run())
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, run in candidates.items():
            start = time.perf_counter()
            jax.block_until_ready(run())
            times[name].append(1e3 * (time.perf_counter() - start))
    return {name: statistics.median(values) for name, values in times.items()}


def report(name: str, rows: list[dict[str, Any]]) -> None:
    """Print the table and keep it as docs/results/NAME.csv."""
    print(table(rows, list(rows[0])))
    write_csv(RESULTS / f"{name}.csv", rows)


def rounds_argument(default: int = 11) -> int:
    """Read --rounds."""
    parser = argparse.ArgumentParser()
    parser.add_argument(
        "--rounds", type=int, default=default, help="timings of each candidate, of which the median counts"
    )
    return parser.parse_args().rounds
