"""What each piece of a fit of step adapters buys on an ALBERT, and where what is left of its error lies.

    python benchmarks/step_adapters.py --albert DATA/plbert --file DATA/plbert/phonemes-more.txt \
        --valid DATA/plbert/phonemes-valid.txt --frame "$ $" --steps 4 --updates 100

Frozen weights, n steps. Every piece is fitted to the same batches in the same order and measured on --valid; the last
fit, of --longer times the updates, is taken apart: its error in directions of the full depth's states (by their
variance) and by where in its text a token stands. Keeps docs/results/step-adapters.csv and step-adapters-left.csv.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from timing import report

import jaxode
from jaxode import DepthConfig
from jaxode.calibration import Calibration, Fit, calibrate, with_calibrations
from jaxode.checkpoint import TrainedModel
from jaxode.config import InferConfig
from jaxode.data import Batch
from jaxode.evaluation import evaluate_states
from jaxode.inference.tasks.line_tables import read_lines
from jaxode.inference.tasks.line_text import packed_batches
from jaxode.model.parameters import split

RANK = 12
BANDS = (0, 1, 8, 64, 256)
"""Where bands of principal directions begin."""


def pieces(updates: int, longer: int) -> dict[str, Fit]:
    """Fits to set side by side."""

    def unit(rank: int = RANK, memory: int = 2, times: int = 1) -> Fit:
        return Fit("unit", memory=memory, adapters=rank, updates=times * updates)

    return {
        "schedule, least squares, correction, gains": Fit(updates=updates),
        "unit steps, gains": unit(0),
        "rank 1": unit(1),
        f"rank {RANK}, no memory": unit(memory=1),
        f"rank {RANK}": unit(),
        f"rank {4 * RANK}": unit(4 * RANK),
        f"rank {RANK}, {longer} times the updates": unit(times=longer),
    }


def states(loaded: TrainedModel, batches: Sequence[Batch], done: Calibration) -> Iterator[tuple[Any, Any, Any]]:
    """Of every batch the true states, those of the short solve and places in texts, real tokens [T, ..] alone."""
    architecture, params = split(loaded.model)
    own = with_calibrations(params, {done.steps: done})

    @jax.jit
    def both(params: Any, batch: Batch) -> tuple[jax.Array, jax.Array]:
        model = architecture.bind(params)
        inputs = {"places": batch.places, "segments": batch.segments}
        full = model.hidden(batch.tokens, DepthConfig(solver="euler"), **inputs).state
        return full, model.hidden(batch.tokens, done.depth, **inputs).state

    for batch in batches:
        assert batch.segments is not None
        assert batch.places is not None
        real = batch.segments > 0
        full, short = (np.asarray(jnp.asarray(x, jnp.float32))[real] for x in both(own, batch))
        yield full, short, batch.places[real]


def left(loaded: TrainedModel, batches: Sequence[Batch], done: Calibration) -> list[dict[str, Any]]:
    """The squared error, in parts: of the whole, and over the variance there."""
    parts = list(states(loaded, batches, done))
    full, short, places = (np.concatenate(part) for part in zip(*parts, strict=True))
    centred, missed = full - full.mean(0), short - full
    whole, spread = np.sum(missed**2), np.sum(centred**2)
    variances, directions = np.linalg.eigh(centred.T @ centred / len(centred))
    along = (missed @ directions[:, ::-1]) ** 2
    order = variances[::-1] * len(full)
    rows = []

    def row(part: str, error: Any, variance: Any) -> None:
        rows.append(
            {
                "part": part,
                "share_of_error": float(error / whole),
                "share_of_variance": float(variance / spread),
                "relative_error": float(np.sqrt(error / variance)),
            }
        )

    row("all", whole, spread)
    for first, end in zip(BANDS, (*BANDS[1:], full.shape[1]), strict=True):
        row(f"directions {first + 1} to {end}", along[:, first:end].sum(), order[first:end].sum())
    for first, end in ((0, 1), (1, 32), (32, 128), (128, int(places.max()) + 1)):
        here = (places >= first) & (places < end)
        row(f"places {first} to {end - 1}", np.sum(missed[here] ** 2), np.sum(centred[here] ** 2))
    mean = missed.mean(0)
    row("its mean", len(full) * np.sum(mean**2), spread)
    return rows


def main() -> None:
    """Fit every piece, keep the rows."""
    parser = argparse.ArgumentParser()
    for name in ("albert", "file", "valid"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--frame", default="")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--updates", type=int, default=100)
    parser.add_argument("--longer", type=int, default=3)
    told = parser.parse_args()
    loaded = jaxode.load(told.albert)
    architecture, params = split(loaded.model)

    def text(file: str, batches: int) -> list[Batch]:
        config = InferConfig(task="calibrate", steps=told.steps, file=file, frame=told.frame, batches=batches)
        return packed_batches(loaded, read_lines(file, "text"), config)

    batches, reported = text(told.file, told.longer * told.updates + 2), text(told.valid, 24)
    rows, done = [], None
    for name, fit in pieces(told.updates, told.longer).items():
        done = calibrate(loaded.model, batches[-fit.updates - 2 :], told.steps, fit, progress=True)
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
    assert done is not None
    report("step-adapters-left", left(loaded, reported, done))


if __name__ == "__main__":
    main()
