"""Work-precision report: what each method of solving the network reaches for its evaluations and for its time."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from tqdm import tqdm

from jaxode.checkpoint import takes_params
from jaxode.config import DepthConfig, ModelConfig, require
from jaxode.data import Batch
from jaxode.depth import get_solver
from jaxode.evaluation.divergence import diverged
from jaxode.evaluation.figures import Panel
from jaxode.evaluation.loss import LossSums, batch_inputs, forward, kl_divergence
from jaxode.evaluation.method_rows import filled_table, method_panel, row_cells, save_methods
from jaxode.evaluation.methods import FULL_DEPTH, Method, check_shared
from jaxode.evaluation.profiles import DepthProfile, depth_profile
from jaxode.evaluation.timing import ENOUGH, median_times
from jaxode.model import block_evaluations, plan
from jaxode.model.parameters import CALIBRATION, Architecture, Parameters
from jaxode.types import Logits


@dataclass(frozen=True)
class ReportRow:
    """One method measured. A solve that diverged has an infinite loss."""

    method: str
    solver: str
    schedule: str
    steps: int | None
    """Solver steps; None for an adaptive solver, which chooses them."""
    block_evaluations: int | float
    """Applications of a block in one forward pass, prelude and coda included; a mean for an adaptive solver."""
    nats_per_token: float
    rise: float
    """Nats per token over the full depth's."""
    perplexity_rise: float
    """100 (exp(rise) - 1), percent."""
    kl: float
    """KL(full depth || method) of the predictions, nats per predicted token."""
    milliseconds: float
    """Median latency of the forward pass and loss of one batch, compiled and warmed up."""
    relative_time: float
    """milliseconds over the full depth's."""


@dataclass(frozen=True)
class Report:
    """Rows and profiles in the order asked for; the full depth stands first."""

    rows: tuple[ReportRow, ...]
    profiles: tuple[DepthProfile, ...]
    tokens: int
    """Predicted tokens behind every loss."""


@takes_params
def work_precision(
    architecture: Architecture,
    params: Parameters,
    batches: Iterable[Batch],
    methods: Sequence[Method],
    *,
    document_mask: bool = False,
    rounds: int = 7,
    progress: bool = False,
) -> Report:
    """Measure the full depth and `methods` on the same batches, then time them side by side on the first batch.

    Every even solve by Euler's method, the full depth among them, is also followed along depth.

    Args:
        architecture: the model without its numbers.
        params: its numbers.
        batches: of one shape.
        methods: what to compare; `comparators` gives those that need no data.
        document_mask: keep attention within documents.
        rounds: timings of each method, of which the median counts; as few as three where they take over a minute.
        progress: a bar on standard error, over all measurements.

    Raises:
        UserError: an unshared model, a method that does not fit the layout, or no tokens to predict.
        Diverged: the loss at full depth is not finite.
    """
    model: ModelConfig = architecture.bind(params).config
    check_shared(model)
    # a method's calibration is never mixed with one that the model came with
    weights = {name: value for name, value in params.items() if not name.startswith(CALIBRATION)}
    # N steps of size 1 by their other name, which is the one that profiles are told by
    full = DepthConfig(steps=model.steps, solver="euler", schedule="even")
    measured = [Method(FULL_DEPTH, full), *methods]
    measured = [
        dataclasses.replace(method, depth=architecture.bind(weights | method.parameters).resolve(method.depth))
        for method in measured
    ]
    for method in measured:
        plan(model, method.depth)
    # on the device, or every timing would carry them there
    measured = [dataclasses.replace(method, parameters=jax.device_put(method.parameters)) for method in measured]
    batches = list(batches)
    profiled = [method for method in measured if (method.depth.solver, method.depth.schedule) == ("euler", "even")]
    total = len(batches) * (len(measured) + len(profiled)) + rounds * len(measured)
    solve = partial(_solve, architecture, weights, document_mask)
    sums = [_Sums() for _ in measured]
    with tqdm(total=total, desc="report: loss", unit="solve", leave=False, disable=None if progress else True) as bar:
        for batch in batches:
            reference = None
            for method, found in zip(measured, sums, strict=True):
                if math.isfinite(found.nats):
                    out = solve(method, batch)
                    # one batch's predictions are kept at a time
                    reference = jax.nn.log_softmax(out[0]) if reference is None else reference
                    found.add(reference, out, batch)
                if not math.isfinite(sums[0].nats):
                    inputs = batch_inputs(batch, model.kind, document_mask)
                    raise diverged("the loss", architecture, params, batch.tokens, inputs, measured[0].depth)
                bar.update()
        require(sums[0].tokens > 0, "nothing to report on: the text holds no token to predict; give more text")
        bar.set_description("report: depth")
        profiles = tuple(
            depth_profile(architecture, weights, batches, method, document_mask, bar.update) for method in profiled
        )
        bar.set_description("report: time")
        first = jax.device_put(batches[0])
        times = median_times(
            {number: partial(solve, method, first) for number, method in enumerate(measured)},
            rounds,
            bar.update,
            enough=ENOUGH,
        )
    rows = tuple(
        _row(model, method, found, sums[0], times[number], times[0])
        for number, (method, found) in enumerate(zip(measured, sums, strict=True))
    )
    return Report(rows, profiles, round(sums[0].tokens))


Solved = tuple[Any, LossSums, Any]


@partial(jax.jit, static_argnames=("architecture", "depth", "document_mask"))
def solve_step(
    params: Parameters, batch: Batch, *, architecture: Architecture, depth: DepthConfig, document_mask: bool
) -> tuple[Logits, LossSums, Any]:
    """The compiled forward pass that is measured and timed: logits, loss, and the block evaluations made."""
    loss, out = forward(architecture.bind(params), batch, depth, document_mask=document_mask)
    return out.logits, loss, out.block_evaluations


def _solve(architecture: Architecture, params: Parameters, document_mask: bool, method: Method, batch: Batch) -> Solved:
    own = params | method.parameters
    return solve_step(own, batch, architecture=architecture, depth=method.depth, document_mask=document_mask)


_divergence = jax.jit(kl_divergence)


class _Sums:
    """What one method adds up over batches, in float64."""

    def __init__(self) -> None:
        self.nats = self.kl = self.tokens = self.evaluations = 0.0
        self.batches = 0

    def add(self, reference: Logits, solved: Solved, batch: Batch) -> None:
        logits, loss, evaluations = solved
        self.nats += float(loss.nats)
        self.kl += float(_divergence(reference, logits, jnp.asarray(batch.weights)))
        self.tokens += float(loss.tokens)
        self.evaluations += float(evaluations)
        self.batches += 1


def _row(model: ModelConfig, method: Method, found: _Sums, full: _Sums, time: float, full_time: float) -> ReportRow:
    depth, adaptive = method.depth, get_solver(method.depth.solver).adaptive
    nats, kl = (
        value / found.tokens if math.isfinite(found.nats) and math.isfinite(value) else math.inf
        for value in (found.nats, found.kl)
    )
    rise = nats - full.nats / full.tokens
    return ReportRow(
        method=method.name,
        solver=depth.solver,
        schedule=depth.schedule,
        steps=None if adaptive else depth.steps or model.steps,
        block_evaluations=found.evaluations / found.batches if adaptive else block_evaluations(model, depth),
        nats_per_token=nats,
        rise=rise,
        perplexity_rise=100 * math.expm1(rise) if rise < 700 else math.inf,
        kl=kl,
        milliseconds=time,
        relative_time=time / full_time,
    )


def save_report(folder: Path | str, report: Report) -> str:
    """Write report.csv, report.png, trace.csv and trace.png into `folder`; return the table for the terminal.

    Raises:
        UserError: the folder cannot be written.
    """
    panels = [
        _rises(report, "block_evaluations", "block evaluations"),
        _rises(report, "milliseconds", "milliseconds a batch"),
    ]
    save_methods(
        Path(folder), report.rows, report.profiles, panels, "Rise of the loss over the full depth's, against work"
    )
    return filled_table([row_cells(row) for row in report.rows])


def _rises(report: Report, work: str, label: str) -> Panel:
    return method_panel(report.rows, work, label, "rise", "rise, nats per token", "symlog")
