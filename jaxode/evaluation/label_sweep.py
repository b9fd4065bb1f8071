"""A classifier's quality at several depths, as a table and a figure."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from jaxode.config import DepthConfig
from jaxode.data import Batch
from jaxode.evaluation.divergence import Diverged
from jaxode.evaluation.figures import Panel, Series, panel_figure, table, write_csv, writing
from jaxode.evaluation.labels import evaluate_labels
from jaxode.evaluation.sweep import default_configs
from jaxode.model import block_evaluations
from jaxode.model.parameters import Architecture, Parameters


def label_sweep(
    architecture: Architecture,
    params: Parameters,
    batches: Iterable[Batch],
    depths: Sequence[DepthConfig] = (),
    labels: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """Loss and metrics at several depths, a row each: at N, N/2, N/3 and N/4 steps where none are named; `labels` as of
    `predict_labels`.

    Raises:
        Diverged: outputs that are not finite at full depth.
    """
    rows: list[dict[str, Any]] = []
    model, full = architecture.bind(params), None
    batches = list(batches)
    for depth in depths or default_configs(model.config):
        try:
            found = evaluate_labels(architecture, params, batches, depth, labels=labels)
        except Diverged:
            # it may have been asked for later, or not at all
            full = full or evaluate_labels(architecture, params, batches, DepthConfig(), labels=labels)
            nothing, depth = dict.fromkeys(full.metrics, math.nan), model.resolve(depth)
            blocks = block_evaluations(model.config, depth)
            found = dataclasses.replace(
                full, loss=math.inf, metrics=nothing, block_evaluations=blocks, solver=depth.solver
            )
        full = full or found
        rows.append(
            {
                "solver": found.solver,
                "schedule": model.resolve(depth).schedule,
                "steps": model.config.steps if depth.steps is None else depth.steps,
                "block_evaluations": found.block_evaluations,
                "loss": found.loss,
                **found.metrics,
                f"{found.unit}s": found.texts,
            }
        )
    return rows


def save_label_sweep(folder: Path, rows: list[dict[str, Any]]) -> str:
    """Write sweep.csv and sweep.png; returns the table.

    Raises:
        UserError: the folder cannot be written.
    """
    columns = ("solver", "schedule", "steps", "block_evaluations", "texts", "words")
    names = [name for name in rows[0] if name not in columns]
    solvers = list(dict.fromkeys(row["solver"] for row in rows))

    def series(name: str) -> Series:
        lines = {solver: [row for row in rows if row["solver"] == solver] for solver in solvers}
        return {
            solver: ([row["block_evaluations"] for row in line], [row[name] for row in line])
            for solver, line in lines.items()
        }

    panels = [Panel(series(name), "block evaluations", name) for name in names[:2]]
    with writing(folder, "the sweep"):
        write_csv(folder / "sweep.csv", rows)
        panel_figure(folder / "sweep.png", panels, "validation, by steps")
    return table(rows, list(rows[0]))
