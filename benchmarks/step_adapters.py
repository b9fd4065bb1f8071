"""What each piece of a fit of step adapters buys on an ALBERT.

    python benchmarks/step_adapters.py --albert DATA/plbert --file DATA/plbert/phonemes-more.txt \
        --valid DATA/plbert/phonemes-valid.txt --frame "$ $" --steps 4 --updates 100

Frozen weights, n steps. Every piece is fitted to the same batches in the same order and measured on --valid. Keeps
docs/results/step-adapters.csv.
"""

from __future__ import annotations

import argparse

import jax
import numpy as np
from timing import report

import jaxode
from jaxode.calibration import Fit, calibrate, with_calibrations
from jaxode.config import InferConfig
from jaxode.data import Batch
from jaxode.evaluation import evaluate_states
from jaxode.inference.tasks.line_tables import read_lines
from jaxode.inference.tasks.line_text import packed_batches
from jaxode.model.parameters import split

RANK = 12


def pieces(updates: int) -> dict[str, Fit]:
    """Fits to set side by side."""

    def unit(rank: int = RANK, memory: int = 2) -> Fit:
        return Fit("unit", memory=memory, adapters=rank, updates=updates)

    return {
        "schedule, least squares, correction, gains": Fit(updates=updates),
        "unit steps, gains": unit(0),
        "rank 1": unit(1),
        f"rank {RANK}, no memory": unit(memory=1),
        f"rank {RANK}": unit(),
        f"rank {4 * RANK}": unit(4 * RANK),
    }


def main() -> None:
    """Fit every piece, keep the rows."""
    parser = argparse.ArgumentParser()
    for name in ("albert", "file", "valid"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--frame", default="")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--updates", type=int, default=100)
    told = parser.parse_args()
    loaded = jaxode.load(told.albert)
    architecture, params = split(loaded.model)

    def text(file: str, batches: int) -> list[Batch]:
        config = InferConfig(task="calibrate", steps=told.steps, file=file, frame=told.frame, batches=batches)
        return packed_batches(loaded, read_lines(file, "text"), config)

    batches, reported = text(told.file, told.updates + 2), text(told.valid, 24)
    rows = []
    for name, fit in pieces(told.updates).items():
        done = calibrate(loaded.model, batches, told.steps, fit, progress=True)
        own = with_calibrations(params, {told.steps: done})
        found = evaluate_states(architecture, own, reported, done.depth, (architecture, params))
        numbers = sum(np.size(x) for x in jax.tree.leaves(done.coefficients))
        rows.append(
            {
                "fit": name,
                "steps": told.steps,
                "numbers": numbers,
                "updates": fit.updates,
                "tokens": done.tokens,
                "minutes": done.seconds / 60,
                "error": found.error,
            }
        )
        report("step-adapters", rows)


if __name__ == "__main__":
    main()
