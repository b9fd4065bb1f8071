"""Does a text know when it is done? Exits of single texts beside fixed numbers of steps, one at a time and 32 at once.

    python benchmarks/finetuning.py --data DATA --tasks sst2,trec,agnews --kinds elastic,exits --seeds 0 --again
    python benchmarks/label_exits.py --data DATA

Reads the runs that the first command leaves in --work. Rules: patience (PABEE, Zhou et al. 2020) and confidence (CALM,
Schuster et al. 2022) over the full depth's steps, for the model whose head was trained on the way (exits) and for the
elastic one; beside them the elastic model in 12, 6, 4, 3 and 2 steps. Keeps docs/results/label-exits.csv and .png:
accuracy on the test texts, the mean of block evaluations of a text, and texts a second, whose median over rounds counts
and which are timed in turns; tasks that are not named keep their rows. A batch waits for its last text, so at 32 a
rule saves less time than evaluations.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from finetuning import TASKS, tables
from timing import RESULTS, report

import jaxode
from jaxode import Confidence, DepthConfig, Patience, exit_early
from jaxode.data import Batch
from jaxode.data.columns import Columns
from jaxode.data.labelled import labelled_batches
from jaxode.data.tables import read_table
from jaxode.evaluation.figures import Panel, panel_figure, read_csv
from jaxode.evaluation.loss import batch_inputs

RULES = [Patience(patience, "sequence") for patience in (1, 2, 3, 4)]
RULES += [Confidence(sure, "sequence") for sure in (0.7, 0.9, 0.97, 0.99)]
STEPS = (12, 6, 4, 3, 2)


def inputs(loaded: Any, batch: Batch) -> dict[str, Any]:
    """Of the model, beside the tokens."""
    return batch_inputs(batch, loaded.config.model.kind, True)


@partial(jax.jit, static_argnames=("architecture", "depth"))
def solved(params: Any, tokens: Any, told: Any, *, architecture: Any, depth: DepthConfig) -> Any:
    """Labels in a fixed number of steps."""
    return architecture.bind(params)(tokens, depth, **told).logits.argmax(-1)


def fixed(loaded: Any, steps: int, batch: Batch) -> tuple[Any, Any]:
    """Labels of a batch, and evaluations."""
    depth = DepthConfig(steps=steps, solver="euler")
    labels = solved(
        loaded.params,
        jnp.asarray(batch.tokens),
        inputs(loaded, batch),
        architecture=loaded.architecture,
        depth=depth,
    )
    return labels, np.full(len(batch.tokens), steps)


def exiting(loaded: Any, rule: Any, batch: Batch) -> tuple[Any, Any]:
    """The same, where a rule decides."""
    out = exit_early(loaded.model, jnp.asarray(batch.tokens), rule, **inputs(loaded, batch))
    return out.logits.argmax(-1), out.block_evaluations


def ways(runs: dict[str, Any]) -> dict[tuple[str, str, float], Callable[[Batch], tuple[Any, Any]]]:
    """Everything that is compared, by model, rule and threshold or steps."""
    found: dict[tuple[str, str, float], Any] = {
        ("elastic", "steps", n): partial(fixed, runs["elastic"], n) for n in STEPS
    }
    for name, loaded in runs.items():
        for rule in RULES:
            found[name, type(rule).__name__.lower(), float(rule.threshold)] = partial(exiting, loaded, rule)
    return found


def measured(way: Callable[[Batch], tuple[Any, Any]], batches: Sequence[Batch]) -> tuple[float, float]:
    """Accuracy and mean evaluations over the texts."""
    right, spent, count = 0.0, 0.0, 0
    for batch in batches:
        real = np.asarray(batch.weights)[:, 0] > 0
        labels, evaluations = (np.asarray(one)[real] for one in way(batch))
        assert batch.wanted is not None
        right += float(np.sum(labels == np.asarray(batch.wanted)[real, 0]))
        spent, count = spent + float(evaluations.sum()), count + int(real.sum())
    return right / count, spent / count


def rates(found: dict[Any, Callable[[Batch], Any]], batches: Sequence[Batch], rounds: int) -> dict[Any, float]:
    """Texts a second of every way, in turns; what it compiles comes first."""
    texts = sum(float(np.sum(np.asarray(batch.weights)[:, 0] > 0)) for batch in batches)
    seconds: dict[Any, list[float]] = {key: [] for key in found}
    for turn in range(rounds + 1):
        for key, way in found.items():
            begun = time.perf_counter()
            for batch in batches:
                jax.block_until_ready(way(batch)[0])
            if turn:
                seconds[key].append(time.perf_counter() - begun)
    return {key: texts / statistics.median(values) for key, values in seconds.items()}


def main() -> None:
    """Read the command line, measure, keep."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("runs/finetuning"))
    parser.add_argument("--tasks", default="sst2,trec,agnews")
    parser.add_argument("--timed", type=int, default=256, help="texts that are timed")
    parser.add_argument("--rounds", type=int, default=5)
    told = parser.parse_args()
    kept = RESULTS / "label-exits.csv"
    rows: list[dict[str, Any]] = read_csv(kept) if kept.exists() else []
    for name in told.tasks.split(","):
        rows = [row for row in rows if row["task"] != name]
        runs = {kind: jaxode.load(told.work / name / f"{kind}-0") for kind in ("elastic", "exits")}
        own = runs["elastic"]
        table = read_table(str(tables(told.data, told.work, name)[1]), Columns(), labelled=True)
        batched = {
            size: list(
                labelled_batches(table, own.own_tokenizer, own.config.model, own.labels, batch_size=size, limit=limit)[
                    0
                ]
            )
            for size, limit in ((1, told.timed), (32, None))
        }
        found = ways(runs)
        alone = rates(found, batched[1], told.rounds)
        together = rates(found, batched[32][: told.timed // 32], told.rounds)
        for key, way in found.items():
            accuracy, evaluations = measured(way, batched[32])
            rows.append(
                {
                    "task": name,
                    "model": key[0],
                    "rule": key[1],
                    "threshold": key[2],
                    TASKS[name].metric: accuracy,
                    "block_evaluations": evaluations,
                    "texts_per_second_alone": alone[key],
                    "texts_per_second_of_32": together[key],
                }
            )
        report("label-exits", rows)
    panels = []
    for name in dict.fromkeys(row["task"] for row in rows):
        for work, label in (("block_evaluations", "block evaluations"), ("texts_per_second_of_32", "texts a second")):
            series: dict[str, Any] = {}
            for row in rows:
                if row["task"] == name:
                    line = series.setdefault(f"{row['model']}, {row['rule']}", ([], []))
                    line[0].append(row[work])
                    line[1].append(row["accuracy"])
            panels.append(Panel(series, label, f"{name}: accuracy"))
    panel_figure(RESULTS / "label-exits.png", panels, "Exits of single texts, and fixed numbers of steps")


if __name__ == "__main__":
    main()
