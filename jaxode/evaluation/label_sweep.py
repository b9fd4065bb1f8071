"""A classifier's quality at several depths, as a table and a figure."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from jaxode.data import Batch
from jaxode.evaluation.divergence import Diverged
from jaxode.evaluation.figures import Panel, panel_figure, table, write_csv
from jaxode.evaluation.labels import evaluate_labels
from jaxode.evaluation.sweep import default_configs
from jaxode.model import block_evaluations
from jaxode.model.parameters import Architecture, Parameters


def label_sweep(architecture: Architecture, params: Parameters, batches: Iterable[Batch]) -> list[dict[str, Any]]:
    """Loss and metrics at N, N/2, N/3 and N/4 steps, a row each.

    Raises:
        Diverged: outputs that are not finite at full depth.
    """
    rows: list[dict[str, Any]] = []
    model, full = architecture.bind(params), None
    for depth in default_configs(model.config):
        try:
            found = evaluate_labels(architecture, params, batches, depth)
        except Diverged:
            if full is None:  # the full depth comes first
                raise
            nothing = dict.fromkeys(full.metrics, math.nan)
            blocks = block_evaluations(model.config, depth)
            found = dataclasses.replace(full, loss=math.inf, metrics=nothing, block_evaluations=blocks)
        full = full or found
        rows.append(
            {
                "solver": found.solver,
                "schedule": model.resolve(depth).schedule,
                "steps": model.config.steps if depth.steps is None else depth.steps,
                "block_evaluations": found.block_evaluations,
                "loss": found.loss,
                **found.metrics,
                "texts": found.texts,
            }
        )
    return rows


def save_label_sweep(folder: Path, rows: list[dict[str, Any]]) -> str:
    """Write sweep.csv and sweep.png; returns the table.

    Raises:
        UserError: the folder cannot be written.
    """
    write_csv(folder / "sweep.csv", rows)
    names = [name for name in rows[0] if name not in ("solver", "schedule", "steps", "block_evaluations", "texts")]
    evaluations = [row["block_evaluations"] for row in rows]
    panels = [
        Panel({name: (evaluations, [row[name] for row in rows])}, "block evaluations", name) for name in names[:2]
    ]
    panel_figure(folder / "sweep.png", panels, "validation, by steps")
    return table(rows, list(rows[0]))
