"""Quality and latency against depth: one model, the same batches, different numbers of steps."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax

from jaxode.checkpoint import takes_params
from jaxode.config import DepthConfig, ModelConfig, UserError
from jaxode.data import Batch
from jaxode.depth import get_solver
from jaxode.evaluation.divergence import Diverged
from jaxode.evaluation.figures import line_figure, table, write_csv, writing
from jaxode.evaluation.loss import Evaluation, evaluate, evaluation_step
from jaxode.evaluation.timing import ENOUGH, median_times
from jaxode.model import plan, resolve
from jaxode.model.parameters import Architecture, Parameters

DIVISORS = (1, 2, 3, 4)


@dataclass(frozen=True)
class SweepRow:
    """One depth configuration measured. A solve that diverged has an infinite loss."""

    solver: str
    schedule: str
    steps: int | None
    """None for an adaptive solver, which chooses them."""
    block_evaluations: int | float | None
    """Applications of a block in one forward pass; None where the solve diverged."""
    nats_per_token: float
    perplexity: float
    bits_per_byte: float | None
    rise: float
    """nats per token over the full depth's."""
    milliseconds: float
    """Median latency of the forward pass and loss of one batch, compiled and warmed up."""
    relative_time: float
    """milliseconds over the full depth's."""


@dataclass(frozen=True)
class SweepResult:
    """Rows in the order asked for; the full depth stands first where it was not asked for."""

    rows: tuple[SweepRow, ...]
    tokens: int
    """Predicted tokens behind every loss."""


def default_steps(model: ModelConfig, divisors: Sequence[int] = DIVISORS) -> tuple[int, ...]:
    """N, N/2, N/3, N/4 where they are whole numbers that fit the layout; an unshared model has only N."""
    quotients = [model.steps // divisor for divisor in divisors if model.steps % divisor == 0]
    return tuple(steps for steps in quotients if fits(model, DepthConfig(steps=steps)))


def default_configs(model: ModelConfig, solver: str = "euler", schedule: str = "auto") -> tuple[DepthConfig, ...]:
    """The default step counts with a solver, by its name, and a schedule; one configuration for an adaptive solver.

    Schedule "auto" is the one that the model was made for.

    Raises:
        UserError: a solver or schedule that does not fit the layout at one of them.
    """
    steps = (None,) if get_solver(solver).adaptive else default_steps(model)
    configs = tuple(resolve(model, DepthConfig(steps=n, solver=solver, schedule=schedule)) for n in steps)
    for config in configs:
        plan(model, config)
    return configs


def fits(model: ModelConfig, depth: DepthConfig) -> bool:
    """Whether the layout can be solved so."""
    try:
        plan(model, depth)
    except UserError:
        return False
    return True


@takes_params
def depth_sweep(
    architecture: Architecture,
    params: Parameters,
    batches: Iterable[Batch],
    configs: Sequence[DepthConfig] | None = None,
    *,
    document_mask: bool = False,
    bytes_per_token: float | None = None,
    rounds: int = 7,
    progress: bool = False,
) -> SweepResult:
    """Evaluate every configuration on the same batches, then time them side by side.

    Args:
        architecture: the model without its numbers.
        params: its numbers.
        batches: of one shape; read once a configuration, so an iterator is kept in memory.
        configs: what to measure; `default_configs` of the model when None. The full depth is added where missing.
        document_mask: keep attention within documents.
        bytes_per_token: gives bits per byte.
        rounds: timings of each configuration, of which the median counts; three where they take a minute.
        progress: bars on standard error.

    Raises:
        UserError: a configuration that does not fit the layout, no tokens to predict, or a loss that is not finite at
            full depth.
    """
    bound = architecture.bind(params)
    model: ModelConfig = bound.config
    full = DepthConfig(steps=model.steps, solver="euler", schedule="even")
    configs = default_configs(model) if configs is None else configs
    asked = [resolved(model, bound.resolve(depth)) for depth in configs]
    # dict: every configuration once, in order
    candidates = list(dict.fromkeys(asked if full in asked else (full, *asked)))
    for depth in candidates:
        plan(model, depth)
    if iter(batches) is batches:
        batches = list(batches)
    losses = {}
    for depth in sorted(candidates, key=lambda depth: depth != full):
        name = f"sweep {depth.solver} {depth.steps or ''}" if progress else None
        try:
            losses[depth] = evaluate(
                architecture,
                params,
                batches,
                depth,
                document_mask=document_mask,
                bytes_per_token=bytes_per_token,
                progress=name,
            )
        except Diverged:
            if depth == full:
                raise
            losses[depth] = None
    times = _latencies(architecture, params, next(iter(batches)), candidates, document_mask, rounds)
    return SweepResult(
        rows=tuple(_row(depth, losses[depth], losses[full], times[depth], times[full]) for depth in candidates),
        tokens=losses[full].tokens,
    )


def resolved(model: ModelConfig, depth: DepthConfig) -> DepthConfig:
    """The same solve, its solver named, under one name: so the full depth is recognised however it was asked for."""
    depth = resolve(model, depth)
    # the steps of an adaptive solver say nothing, but for where unit ones end
    if get_solver(depth.solver).adaptive and depth.schedule != "unit":
        return dataclasses.replace(depth, steps=None)
    steps = model.steps if depth.steps is None else depth.steps
    trained = depth.schedule == "unit" and steps == model.steps
    return dataclasses.replace(depth, steps=steps, schedule="even" if trained else depth.schedule)


def _latencies(
    architecture: Architecture,
    params: Parameters,
    batch: Batch,
    candidates: Sequence[DepthConfig],
    document_mask: bool,
    rounds: int,
) -> dict[DepthConfig, float]:
    """Median milliseconds of one batch."""
    batch = jax.device_put(batch)

    def forward(depth: DepthConfig) -> Any:
        return evaluation_step(params, batch, architecture=architecture, depth=depth, document_mask=document_mask)

    return median_times({depth: partial(forward, depth) for depth in candidates}, rounds, enough=ENOUGH)


def _row(depth: DepthConfig, loss: Evaluation | None, full: Evaluation, time: float, full_time: float) -> SweepRow:
    nats = math.inf if loss is None else loss.nats_per_token
    return SweepRow(
        solver=depth.solver,
        schedule=depth.schedule,
        steps=depth.steps,
        block_evaluations=None if loss is None else loss.block_evaluations,
        nats_per_token=nats,
        perplexity=math.inf if loss is None else loss.perplexity,
        bits_per_byte=None if loss is None else loss.bits_per_byte,
        rise=nats - full.nats_per_token,
        milliseconds=time,
        relative_time=time / full_time,
    )


def save_sweep(folder: Path | str, result: SweepResult) -> str:
    """Write sweep.csv and sweep.png (loss against block evaluations) into `folder`; return the table for the terminal.

    Raises:
        UserError: the folder cannot be written.
    """
    folder = Path(folder)
    rows = [dataclasses.asdict(row) for row in result.rows]
    curves: dict[str, list[SweepRow]] = {}
    for row in result.rows:
        if math.isfinite(row.nats_per_token):
            curves.setdefault(f"{row.solver}, {row.schedule}", []).append(row)
    series = {
        name: ([row.block_evaluations or 0 for row in curve], [row.nats_per_token for row in curve])
        for name, curve in curves.items()
    }
    with writing(folder, "the sweep"):
        write_csv(folder / "sweep.csv", rows)
        line_figure(folder / "sweep.png", series, "block evaluations", "nats per token", "Loss against depth")
    columns = [name for name in rows[0] if any(row[name] is not None for row in rows)]
    return table(rows, columns)
