"""Methods measured side by side: what ran and at what cost, a row each, and the files and lines that show them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from jaxode.config import ModelConfig
from jaxode.depth import get_solver
from jaxode.evaluation.figures import Panel, panel_figure, table, write_csv, writing
from jaxode.evaluation.methods import Method
from jaxode.evaluation.profiles import DepthProfile, profile_panels, profile_rows
from jaxode.model import block_evaluations


@dataclass(frozen=True, kw_only=True)
class MethodRow:
    """One way to solve a model, and what it costs."""

    method: str
    solver: str
    schedule: str
    steps: int | None
    """Solver steps; None for an adaptive solver, which chooses them."""
    block_evaluations: int | float
    """Applications of a block in one forward pass, prelude and coda included; a mean for an adaptive solver."""
    milliseconds: float
    """Median latency of the forward pass of one batch, compiled and warmed up."""
    relative_time: float
    """milliseconds over the full depth's."""
    numbers: int
    """That were fitted, beside the model's own weights; of another model all of its weights."""
    fit_tokens: int | None
    """That they were fitted on."""
    fit_minutes: float | None
    """That it took, where they are known."""


COST = ("milliseconds", "relative_time", "numbers", "fit_tokens", "fit_minutes")
"""Columns behind those that say how well a method does."""


def method_columns(
    model: ModelConfig, method: Method, evaluations: int | float | None, milliseconds: float, full: float, numbers: int
) -> dict[str, Any]:
    """The fields of a `MethodRow`.

    Args:
        model: of the method.
        method: with its solver resolved.
        evaluations: applications of a block that were counted; None where the solve diverged.
        milliseconds: of the method.
        full: those of the full depth.
        numbers: that it brings beside the weights.
    """
    depth, adaptive = method.depth, get_solver(method.depth.solver).adaptive
    counted = adaptive and evaluations is not None
    return {
        "method": method.name,
        "solver": depth.solver,
        "schedule": depth.schedule,
        "steps": None if adaptive else depth.steps or model.steps,
        "block_evaluations": evaluations if counted else block_evaluations(model, depth),
        "milliseconds": milliseconds,
        "relative_time": milliseconds / full,
        "numbers": numbers,
        "fit_tokens": method.tokens,
        "fit_minutes": method.minutes,
    }


def row_cells(row: Any) -> dict[str, Any]:
    """The columns of a row: what ran, how well, at what cost; a mapping makes a column of each of its entries."""
    cells = {}
    for field in sorted(dataclasses.fields(row), key=lambda field: field.name in COST):
        value = getattr(row, field.name)
        cells |= value if isinstance(value, Mapping) else {field.name: value}
    return cells


def method_panel(
    rows: Sequence[Any],
    work: str,
    xlabel: str,
    column: str,
    ylabel: str,
    yscale: Literal["linear", "symlog"] = "linear",
) -> Panel:
    """A column of rows against another, a line a method; what diverged or is not defined has no place."""
    lines: dict[str, list[tuple[Any, float]]] = {}
    for row in rows:
        cells = row_cells(row)
        if cells[column] is not None and math.isfinite(cells[column]):
            lines.setdefault(row.method, []).append((cells[work], cells[column]))
    series = {name: ([x for x, _ in sorted(points)], [y for _, y in sorted(points)]) for name, points in lines.items()}
    return Panel(series, xlabel, ylabel, logx=True, yscale=yscale)


def save_methods(
    folder: Path, rows: Sequence[Any], profiles: Sequence[DepthProfile], panels: Sequence[Panel], title: str
) -> None:
    """Write report.csv, report.png, trace.csv and trace.png.

    Raises:
        UserError: the folder cannot be written.
    """
    with writing(folder, "the report"):
        write_csv(folder / "report.csv", [row_cells(row) for row in rows])
        write_csv(folder / "trace.csv", [row for profile in profiles for row in profile_rows(profile)])
        panel_figure(folder / "report.png", panels, title)
        panel_figure(folder / "trace.png", profile_panels(profiles), "Along depth")


def filled_table(cells: Sequence[Mapping[str, Any]]) -> str:
    """A table of those columns that say something in some row."""
    return table(cells, [name for name in cells[0] if any(row[name] is not None for row in cells)])
