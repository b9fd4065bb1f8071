"""What every benchmark does around its timings: read --rounds, print the table, keep it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from jaxode.evaluation.figures import table, write_csv

RESULTS = Path(__file__).resolve().parent.parent / "docs" / "results"


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
