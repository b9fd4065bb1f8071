"""A task's exact matches by difficulty and by steps, as a table and a figure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from jaxode.config import DataConfig, DepthConfig
from jaxode.data import Batch, BatchSpec, text_batches
from jaxode.data.tasks import asked
from jaxode.evaluation.answers import evaluate_answers
from jaxode.evaluation.divergence import Diverged
from jaxode.evaluation.figures import Panel, panel_figure, table, write_csv, writing
from jaxode.evaluation.sweep import default_configs, fits
from jaxode.model import block_evaluations
from jaxode.model.parameters import Architecture, Parameters


@dataclass(frozen=True)
class Answers:
    """Questions of one difficulty."""

    difficulty: int
    batches: Sequence[Batch]
    majority: float
    """Share of the most frequent answer."""
    chance: float
    """Share that is right by drawing."""
    trained: bool
    """Whether such questions were trained on; else they are more difficult."""
    distinct: int
    """How many different questions they are."""
    held_out: bool
    """Whether none of these themselves was trained on."""


def task_answers(
    config: DataConfig, spec: BatchSpec, length: int, batch_size: int, limit: int | None = None
) -> list[Answers]:
    """The questions that a run on a task is tested on at its end (`data.task`), as batches of its own tokens.

    Args:
        config: of the run.
        spec: its tokens.
        length: of a row, in tokens.
        batch_size: rows of a batch.
        limit: of batches a difficulty; None takes all.

    Raises:
        UserError: a difficulty that the task has not.
    """
    return [
        Answers(
            one.difficulty,
            list(text_batches(one.texts, spec, length, batch_size, limit).batches),
            one.majority,
            one.chance,
            one.trained,
            one.distinct,
            one.held_out,
        )
        for one in asked(config)
    ]


def answer_depths(architecture: Architecture, params: Parameters) -> tuple[DepthConfig, ...]:
    """N, N/2, N/3 and N/4 steps, and three halves of N, steps of size 1 beyond the trained depth."""
    model = architecture.bind(params).config
    more = DepthConfig(steps=3 * model.steps // 2, solver="euler", schedule="unit")
    return (more, *default_configs(model)) if fits(model, more) else default_configs(model)


def answer_sweep(
    architecture: Architecture,
    params: Parameters,
    answers: Sequence[Answers],
    depths: Sequence[DepthConfig] = (),
    progress: str | None = None,
) -> list[dict[str, Any]]:
    """Exact matches of every difficulty at every depth, a row each; what diverges is never right.

    Args:
        architecture: a causal language model without its numbers.
        params: its numbers.
        answers: the questions.
        depths: to solve in; `answer_depths` where none are named.
        progress: name of a bar, shown where standard error is a terminal; None shows none.

    Raises:
        UserError: another kind of model, or a depth that does not fit.
    """
    model, rows = architecture.bind(params), []
    depths = depths or answer_depths(architecture, params)
    bar = tqdm(total=len(depths) * len(answers), desc=progress, leave=False, disable=None if progress else True)
    with bar:
        for depth in depths:
            resolved = model.resolve(depth)
            for one in answers:
                try:
                    found = evaluate_answers(architecture, params, one.batches, depth)
                    exact, tokens, nats = found.exact, found.tokens, found.nats_per_token
                except Diverged:
                    exact, tokens, nats = 0.0, 0.0, math.inf
                rows.append(
                    {
                        "solver": resolved.solver,
                        "schedule": resolved.schedule,
                        "steps": model.config.steps if depth.steps is None else depth.steps,
                        "block_evaluations": block_evaluations(model.config, resolved),
                        "difficulty": one.difficulty,
                        "trained": one.trained,
                        "exact": exact,
                        "tokens": tokens,
                        "nats_per_token": nats,
                        "predicted": sum(int((np.asarray(batch.weights) > 0).sum()) for batch in one.batches),
                        "majority": one.majority,
                        "chance": one.chance,
                        "distinct": one.distinct,
                        "held_out": one.held_out,
                    }
                )
                bar.update()
    return rows


def save_answer_sweep(folder: Path, rows: Sequence[Mapping[str, Any]], name: str) -> str:
    """Write answers.csv and answers.png, exact matches against block evaluations, a line a difficulty; returns a table
    of them.

    Raises:
        UserError: the folder cannot be written.
    """
    kinds = sorted({(row["difficulty"], row["solver"]) for row in rows})
    several = len({solver for _, solver in kinds}) > 1
    lines = {}
    for kind in kinds:
        same = [row for row in rows if (row["difficulty"], row["solver"]) == kind]
        points = sorted((row["block_evaluations"], row["exact"]) for row in same)
        label = f"difficulty {kind[0]}" + (f", {kind[1]}" if several else "")
        lines[label] = ([x for x, _ in points], [y for _, y in points])
    with writing(folder, "the answers"):
        write_csv(folder / "answers.csv", rows)
        panel_figure(folder / "answers.png", [Panel(lines, "block evaluations", "exact matches")], name)
    shown: list[dict[str, Any]] = []
    for steps, solver in dict.fromkeys((row["steps"], row["solver"]) for row in rows):
        same = [row for row in rows if (row["steps"], row["solver"]) == (steps, solver)]
        cells = {f"d{row['difficulty']}": row["exact"] for row in same}
        shown.append({"steps": steps, "solver": solver, **cells})
    for baseline in ("majority", "chance"):
        shown.append({"steps": "", "solver": baseline, **{f"d{row['difficulty']}": row[baseline] for row in rows}})
    few = [str(difficulty) for difficulty in dict.fromkeys(r["difficulty"] for r in rows if not r["held_out"])]
    warned = (
        f"\nof difficulty {', '.join(few)} there are so few questions that those asked were trained on" if few else ""
    )
    return table(shown, list(shown[0])) + warned
