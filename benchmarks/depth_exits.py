"""Does a question know when it is answered? Exits of single questions beside fixed numbers of steps.

    python benchmarks/depth_tasks.py --tasks s5 --ways unit,exits --seeds 0
    python benchmarks/depth_exits.py --tasks s5
    python benchmarks/depth_exits.py --figure

Reads the runs that the first command leaves in --work: their loops are cut after k steps of size 1, so that every
question may stop where a rule says. Questions of all trained difficulties come in equal numbers. A rule hears the
predictions of the answer alone, and all of its tokens stop together. Keeps docs/results/depth-exits.csv: exact
matches, and the mean of block evaluations of a question; `share` is those of the rule over those that a fixed number of
steps of the same model, of size 1 or even ones, needs for as many right answers, between two numbers by a line. The
last command draws depth-exits.png out of it, as the others do at their end.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from timing import RESULTS, report

import jaxode
from jaxode import Confidence, DepthConfig, Divergence, Patience, StateChange, exit_early
from jaxode.data import Batch, BatchSpec, text_batches
from jaxode.data.tasks import asked
from jaxode.evaluation.figures import Panel, panel_figure, read_csv

RULES = [Confidence(sure, "sequence") for sure in (0.6, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995)]
RULES += [Patience(times, "sequence") for times in (1, 2, 3, 4)]
RULES += [Divergence(nats, "sequence") for nats in (0.3, 0.1, 0.03, 0.01, 0.003, 0.001)]
RULES += [StateChange(change, "sequence") for change in (0.3, 0.2, 0.15, 0.1, 0.07, 0.05)]
SIZE = 64


def questions(loaded: Any) -> list[Batch]:
    """One a row, of all trained difficulties in turns."""
    data, tokenizer = loaded.config.data, loaded.own_tokenizer
    drawn = [one.texts for one in asked(data) if one.trained]
    ids = [tokenizer.encode_batch(texts) for texts in drawn]
    length = max(len(text) for texts in ids for text in texts) + 1
    rows: list[Batch] = []
    for texts, own in zip(drawn, ids, strict=True):
        size = len(own[0])
        # with no room for a second one
        batches = text_batches(texts, BatchSpec.of(data, tokenizer, "causal", size + 1), size + 1, len(texts)).batches
        rows += [_filled(batch, length, tokenizer.pad_id) for batch in batches]
    parts = ("tokens", "targets", "weights", "segments")
    whole = {name: np.stack([getattr(row, name) for row in rows], axis=1) for name in parts}
    flat = {name: value.reshape(-1, length) for name, value in whole.items()}
    return [Batch(**{name: v[i : i + SIZE] for name, v in flat.items()}) for i in range(0, len(flat["tokens"]), SIZE)]


def _filled(batch: Batch, length: int, pad: int) -> Batch:
    def fill(name: str, value: int) -> np.ndarray:
        part = np.asarray(getattr(batch, name))
        return np.pad(part, ((0, 0), (0, length - part.shape[1])), constant_values=value)

    return Batch(fill("tokens", pad), fill("targets", pad), fill("weights", 0), fill("segments", 0))


@partial(jax.jit, static_argnames=("architecture", "depth"))
def solved(params: Any, tokens: Any, told: Any, *, architecture: Any, depth: DepthConfig) -> Any:
    """Likeliest tokens in a fixed number of steps."""
    return architecture.bind(params)(tokens, depth, **told).logits.argmax(-1)


def fixed(loaded: Any, steps: int, schedule: str, batch: Batch) -> tuple[Any, Any]:
    """Likeliest tokens of a batch, and evaluations."""
    depth = DepthConfig(steps=steps, solver="euler", schedule=schedule)
    told = {"segments": jnp.asarray(batch.segments)}
    found = solved(loaded.params, jnp.asarray(batch.tokens), told, architecture=loaded.architecture, depth=depth)
    return found, np.full(len(batch.tokens), loaded.config.model.prelude + loaded.config.model.coda + steps)


def exiting(loaded: Any, rule: Any, batch: Batch) -> tuple[Any, Any]:
    """The same, where a rule decides."""
    segments = jnp.asarray(batch.segments)
    depth = DepthConfig(solver="euler", schedule="unit")
    out = exit_early(
        loaded.model, jnp.asarray(batch.tokens), rule, depth, segments=segments, weights=np.asarray(batch.weights)
    )
    return out.logits.argmax(-1), out.block_evaluations


def measured(way: Any, batches: Sequence[Batch]) -> tuple[float, float]:
    """Exact matches and mean evaluations over the questions."""
    right, spent, count = 0, 0.0, 0
    for batch in batches:
        predicted = np.asarray(batch.weights) > 0
        there = predicted.any(axis=1)
        found, evaluations = (np.asarray(one) for one in way(batch))
        same = (found == np.asarray(batch.targets)) | ~predicted
        right += int(same.all(axis=1)[there].sum())
        spent, count = spent + float(evaluations[there].sum()), count + int(there.sum())
    return right / count, spent / count


def main() -> None:
    """Read the command line, measure, keep."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--tasks", default="s5")
    parser.add_argument("--ways", default="unit,exits")
    parser.add_argument("--work", type=Path, default=Path("runs/depth"))
    parser.add_argument("--figure", action="store_true")
    told = parser.parse_args()
    if told.figure:
        figure()
        return
    rows: list[dict[str, Any]] = []
    for task in told.tasks.split(","):
        for name in told.ways.split(","):
            loaded = jaxode.load(told.work / task / f"{name}-0")
            batches = questions(loaded)
            counts = range(1, loaded.config.model.steps + 1)
            ways: dict[tuple[str, float], Any] = {("steps", n): partial(fixed, loaded, n, "unit") for n in counts}
            ways |= {("even steps", n): partial(fixed, loaded, n, "even") for n in counts[1:-1]}
            ways |= {
                (type(rule).__name__.lower(), float(rule.threshold)): partial(exiting, loaded, rule) for rule in RULES
            }
            curve: list[tuple[float, float]] = []
            for (rule, threshold), way in ways.items():
                exact, evaluations = measured(way, batches)
                if rule in ("steps", "even steps"):
                    curve.append((exact, evaluations))
                row = {"task": task, "model": name, "rule": rule, "threshold": threshold, "exact": exact}
                rows.append(row | {"block_evaluations": evaluations, "share": evaluations / needed(curve, exact)})
                print(rows[-1], flush=True)
    report("depth-exits", rows)
    figure()


def figure() -> None:
    """A panel a model, a line a rule."""
    lines: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for row in read_csv(RESULTS / "depth-exits.csv"):
        mine = lines.setdefault(f"{row['task']}, trained as {row['model']}", {})
        mine.setdefault(row["rule"], []).append((row["block_evaluations"], row["exact"]))
    panels = []
    for title, rules in lines.items():
        series: dict[str, Any] = {rule: tuple(zip(*sorted(points), strict=True)) for rule, points in rules.items()}
        panels.append(Panel(series, "block evaluations, mean", "exact matches", title))
    panel_figure(RESULTS / "depth-exits.png", panels, "Questions of all difficulties, together")


def needed(curve: Sequence[tuple[float, float]], exact: float) -> float:
    """Evaluations of a fixed number of steps for a share of right answers; that of the best where none is as right."""
    best: list[tuple[float, float]] = []
    for right, evaluations in sorted(curve, key=lambda point: point[1]):
        if not best or right > best[-1][0]:
            best.append((right, evaluations))
    rights, spent = zip(*best, strict=True)
    return float(np.interp(exact, rights, spent))


if __name__ == "__main__":
    main()
