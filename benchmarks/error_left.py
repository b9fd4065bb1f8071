"""Where the error of short solves of an encoder lies: in which directions of its states, and where in a text.

    python benchmarks/error_left.py DATA/plbert runs/plbert-elastic --steps 6,4 \
        --file DATA/plbert/phonemes-valid.txt --frame "$ $" --fit DATA/plbert/phonemes-more.txt

Each model against its own full depth, n steps by the calibration beside it where there is one. Directions are the
principal ones of the full depth's states, the widest first. With --fit also what is left behind a linear map of all
states of the short solve, fitted to that text by ridge regression. Keeps docs/results/error-left.csv.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int
from timing import report

import jaxode
from jaxode import DepthConfig
from jaxode.calibration.store import load_all, with_calibrations
from jaxode.checkpoint import TrainedModel
from jaxode.config import InferConfig
from jaxode.data import Batch
from jaxode.inference.tasks.line_tables import read_lines
from jaxode.inference.tasks.line_text import packed_batches
from jaxode.model.parameters import split

BANDS = (0, 1, 8, 64, 256)
"""Where bands of principal directions begin."""

PLACES = (0, 1, 32, 128)
"""Where bands of places in a text begin."""

RIDGES = (0.01, 0.03, 0.1, 0.3, 1.0)
"""Tried, in mean variances of what is read; the one that helps most counts."""


@dataclass(frozen=True)
class Solved:
    """Real tokens of texts, and what two solves make of them."""

    full: Float[np.ndarray, "T D"]
    """States at full depth, behind the final norm."""
    short: Float[np.ndarray, "T D"]
    """Those of n steps."""
    path: Float[np.ndarray, "T n_plus_1_times_D"]
    """Every state of the n steps."""
    places: Int[np.ndarray, " T"]
    """Where in its text a token stands."""


def solved(loaded: TrainedModel, folder: Path, batches: Sequence[Batch], steps: int) -> Solved:
    """Solve the batches at full depth and in n steps."""
    architecture, params = split(loaded.model)
    calibrations = load_all(folder)
    depth = calibrations[steps].depth if steps in calibrations else DepthConfig(steps=steps, solver="euler")

    @jax.jit
    def both(params: Any, batch: Batch) -> tuple[jax.Array, ...]:
        model = architecture.bind(params)
        inputs = {"places": batch.places, "segments": batch.segments}
        full = model.hidden(batch.tokens, DepthConfig(solver="euler"), **inputs).state
        short = model.hidden(batch.tokens, depth, trace=True, **inputs)
        return full, short.state, jnp.moveaxis(short.trace.states, 0, -2)

    found = []
    for batch in batches:
        assert batch.segments is not None
        assert batch.places is not None
        real = batch.segments > 0
        full, short, path = (
            np.asarray(jnp.asarray(x, jnp.float32))[real] for x in both(with_calibrations(params, calibrations), batch)
        )
        found.append((full, short, path.reshape(len(full), -1), batch.places[real]))
    return Solved(*(np.concatenate(part) for part in zip(*found, strict=True)))


def parts(text: Solved) -> list[dict[str, Any]]:
    """The squared error of a solve, in parts: as shares of the whole, and over the variance there."""
    full, places = text.full, text.places
    centred, missed = full - full.mean(0), text.short - full
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

    row(f"all {len(full)} tokens", whole, spread)
    for first, end in zip(BANDS, (*BANDS[1:], full.shape[1]), strict=True):
        row(f"directions {first + 1} to {end}", along[:, first:end].sum(), order[first:end].sum())
    for first, end in zip(PLACES, (*PLACES[1:], int(places.max()) + 1), strict=True):
        here = (places >= first) & (places < end)
        row(f"places {first} to {end - 1}", np.sum(missed[here] ** 2), np.sum(centred[here] ** 2))
    tokens = np.sum(missed**2, axis=1)
    worst = np.argsort(tokens)[-len(tokens) // 10 :]
    row("the worst tenth of tokens", tokens[worst].sum(), np.sum(centred[worst] ** 2))
    row("its mean", len(full) * np.sum(missed.mean(0) ** 2), spread)
    return rows


def relative(missed: Float[np.ndarray, "T D"], full: Float[np.ndarray, "T D"]) -> float:
    """The root mean square of what is missed, over that of the states from their mean."""
    return float(np.sqrt(np.sum(missed**2) / np.sum((full - full.mean(0)) ** 2)))


def beside_the_fit(train: Solved, text: Solved) -> list[dict[str, Any]]:
    """The error of the text that the model may have learned from, and what is left of it in the text when a linear map
    of all states, fitted to the former, has taken what it can.
    """
    mean, target = train.path.mean(0), train.full - train.short
    read = train.path - mean
    gram, cross = read.T @ read, read.T @ (target - target.mean(0))
    missed = text.short - text.full

    def left(ridge: float) -> float:
        added = ridge * np.trace(gram) / len(gram) * np.eye(len(gram), dtype=gram.dtype)
        read = (text.path - mean) @ np.linalg.solve(gram + added, cross)
        return relative(missed + target.mean(0) + read, text.full)

    return [
        {"part": f"all {len(read)} tokens of the fit's text", "relative_error": relative(target, train.full)},
        {"part": "all, behind a linear map of all states", "relative_error": min(map(left, RIDGES))},
    ]


def main() -> None:
    """Take every solve apart, keep the rows."""
    parser = argparse.ArgumentParser()
    parser.add_argument("models", nargs="+")
    parser.add_argument("--file", required=True)
    parser.add_argument("--frame", default="")
    parser.add_argument("--steps", default="6,4")
    parser.add_argument("--batches", type=int, default=24)
    parser.add_argument("--fit", default="")
    parser.add_argument("--fit-batches", type=int, default=64)
    args = parser.parse_args()
    rows = []
    for name in args.models:
        loaded = jaxode.load(name)

        def text(file: str, batches: int) -> list[Batch]:
            config = InferConfig(task="calibrate", steps=1, file=file, frame=args.frame, batches=batches)
            return packed_batches(loaded, read_lines(file, "text"), config)  # noqa: B023

        measured = text(args.file, args.batches)
        fitted = text(args.fit, args.fit_batches) if args.fit else []
        for steps in map(int, args.steps.split(",")):
            valid = solved(loaded, Path(name), measured, steps)
            found = parts(valid)
            if fitted:
                found += beside_the_fit(solved(loaded, Path(name), fitted, steps), valid)
            rows += [{"model": Path(name).name, "steps": steps} | row for row in found]
            report("error-left", rows)


if __name__ == "__main__":
    main()
