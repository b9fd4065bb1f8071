"""Encoders in fewer steps: how far their states end from those of the full depth, and what that saves."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, no_type_check

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float
from tqdm import tqdm

from jaxode.checkpoint import takes_params
from jaxode.config import DepthConfig, require
from jaxode.data import Batch
from jaxode.evaluation.divergence import diverged
from jaxode.evaluation.figures import Panel, line_figure, write_csv, writing
from jaxode.evaluation.loss import batch_inputs
from jaxode.evaluation.method_rows import (
    MethodRow,
    filled_table,
    method_columns,
    method_panel,
    row_cells,
    save_methods,
)
from jaxode.evaluation.methods import Method, full_depth, ready
from jaxode.evaluation.profiles import DepthProfile, depth_profile
from jaxode.evaluation.timing import ENOUGH, median_times
from jaxode.model import normalised
from jaxode.model.parameters import Architecture, Parameters
from jaxode.types import State


@dataclass(frozen=True, kw_only=True)
class StateRow(MethodRow):
    """One way to solve an encoder, measured. A solve that diverged has an infinite error."""

    error: float
    """Relative error of the states at real tokens: the root mean square of x_n - x_N over that of x_N - mean x_N."""
    cosine: float | None
    """Between x_n and x_N, the mean over real tokens."""
    pooled_error: float | None
    """Relative error of the pooled vectors; None without a pooler."""


@dataclass(frozen=True)
class StateReport:
    """Rows and profiles in the order asked for; the full depth stands first."""

    rows: tuple[StateRow, ...]
    profiles: tuple[DepthProfile, ...]
    tokens: int
    """Real tokens behind every error."""


@dataclass(frozen=True)
class StateEvaluation:
    """How far a model's states end from a teacher's, and what a forward pass costs."""

    error: float
    """Relative error: the root mean square of x_n - x_N over that of x_N - mean x_N, with x_N the teacher's."""
    cosine: float
    """Between both, the mean over real tokens."""
    tokens: int
    """Real tokens."""
    block_evaluations: int | float
    """Applications of a block in one forward pass; the mean over batches for an adaptive solver."""
    solver: str
    """The one that ran."""


Teacher = tuple[Architecture, Parameters]
"""The model, at its full depth, whose states are to be met."""


def evaluate_states(
    architecture: Architecture,
    params: Parameters,
    batches: Iterable[Batch],
    depth: DepthConfig,
    teacher: Teacher,
) -> StateEvaluation:
    """Compare the states of a model at a depth with those of its teacher, both behind their final norm.

    Raises:
        Diverged: states that are not finite.
        UserError: no token.
    """
    bound = architecture.bind(params)
    depth = bound.resolve(depth)
    own, sums = Method("", depth), _Sums()
    reference = _full(*teacher)
    for batch in batches:
        expected, found = _solve(*teacher, reference, batch), _solve(architecture, params, own, batch)
        for who, solved, method in ((teacher, expected, reference), ((architecture, params), found, own)):
            _check_finite(solved, *who, batch, method.depth)
        sums.add(expected, found, batch)
    require(sums.states.count > 0, "nothing to compare: the text holds no token; give more text")
    states = sums.states
    return StateEvaluation(
        states.error, float(states.cosine / states.count), round(states.count), sums.mean_evaluations, depth.solver
    )


@takes_params
def compare_states(
    architecture: Architecture,
    params: Parameters,
    batches: Iterable[Batch],
    methods: Sequence[Method],
    *,
    teacher: Teacher | None = None,
    profiles: bool = False,
    rounds: int = 7,
    progress: str | None = None,
) -> StateReport:
    """Measure the full depth and `methods` on the same batches, then time them side by side on the first batch.

    Args:
        architecture: an encoder without its numbers; or another model, whose states are compared behind its final norm.
        params: its numbers.
        batches: texts, one a row; `segments` is 0 at padding.
        methods: what to compare; several of one name make one line of a figure.
        teacher: whose states are to be met; None: the model's own at full depth.
        profiles: also follow every even solve by Euler's method along depth.
        rounds: timings of each method, of which the median counts; as few as three where they take over a minute.
        progress: name of a bar, shown where standard error is a terminal; None shows none.

    Raises:
        UserError: an unshared model, a method that does not fit the layout, or no token.
        Diverged: the states at full depth are not finite.
    """
    model, chosen = architecture.bind(params).config, ready(architecture, params, methods)
    measured, weights = chosen.methods, chosen.weights
    batches = list(batches)
    solve = partial(_solve, architecture, weights)
    sums = [_Sums() for _ in measured]
    followed = [one for one in measured if profiles and (one.depth.solver, one.depth.schedule) == ("euler", "even")]
    total = len(batches) * (len(measured) + len(followed)) + rounds * len(measured)
    bar = tqdm(total=total, desc=progress, unit="solve", leave=False, disable=True if progress is None else None)
    with bar:
        for batch in batches:
            if teacher is None:
                reference = solve(measured[0], batch)
                _check_finite(reference, architecture, params, batch, measured[0].depth)
            else:
                reference = _solve(*teacher, _full(*teacher), batch)
                _check_finite(reference, *teacher, batch, _full(*teacher).depth)
            for method, found in zip(measured, sums, strict=True):
                found.add(reference, solve(method, batch), batch)
                bar.update()
        require(sums[0].states.count > 0, "nothing to compare: the text holds no token; give more text")
        traces = tuple(depth_profile(architecture, weights, batches, one, False, bar.update) for one in followed)
        first = jax.device_put(batches[0])
        times = median_times(
            {number: partial(solve, method, first) for number, method in enumerate(measured)},
            rounds,
            bar.update,
            enough=ENOUGH,
        )
    rows = tuple(
        _row(model, method, found, times[number], times[0], chosen.numbers[number])
        for number, (method, found) in enumerate(zip(measured, sums, strict=True))
    )
    return StateReport(rows, traces, round(sums[0].states.count))


@no_type_check  # JAX rebuilds pytrees with leaves of any kind
@struct.dataclass
class Solved:
    """States behind the final norm, what the model pools from them, and the evaluations made."""

    state: State
    pooled: Float[Array, "B D"] | None
    evaluations: Any


@partial(jax.jit, static_argnames=("architecture", "depth"))
def solve_step(params: Parameters, batch: Batch, *, architecture: Architecture, depth: DepthConfig) -> Solved:
    """The compiled forward pass that is measured and timed."""
    model = architecture.bind(params)
    inputs = batch_inputs(batch, "masked", False)
    out = model.hidden(jnp.asarray(batch.tokens), depth, **inputs)
    # one vector a row, so where a row is a text
    pool = None if batch.places is not None else getattr(getattr(model, "head", None), "pool", None)
    pooled = None if pool is None else pool(out.state, inputs["segments"])
    return Solved(normalised(model, out.state), pooled, out.block_evaluations)


def _full(architecture: Architecture, params: Parameters) -> Method:
    """A model at full depth."""
    return full_depth(architecture.bind(params).config)


def _check_finite(
    solved: Solved, architecture: Architecture, params: Parameters, batch: Batch, depth: DepthConfig
) -> None:
    if not jnp.isfinite(solved.state).all():
        inputs = batch_inputs(batch, "masked", False)
        raise diverged("the state", architecture, params, batch.tokens, inputs, depth)


def _solve(architecture: Architecture, weights: Parameters, method: Method, batch: Batch) -> Solved:
    return solve_step(weights | method.parameters, batch, architecture=architecture, depth=method.depth)


class _Sums:
    """What one method adds up over batches, in float64."""

    def __init__(self) -> None:
        self.states, self.pooled = _Squares(), _Squares()
        self.evaluations, self.batches = 0.0, 0

    def add(self, reference: Solved, found: Solved, batch: Batch) -> None:
        real = np.asarray(batch.segments) > 0
        self.states.add(reference.state, found.state, real)
        if reference.pooled is not None:
            self.pooled.add(reference.pooled, found.pooled, np.asarray(real.any(axis=1)))
        self.evaluations += float(found.evaluations)
        self.batches += 1

    @property
    def mean_evaluations(self) -> int | float:
        """Applications of a block in a forward pass."""
        mean = self.evaluations / self.batches
        return round(mean) if mean == round(mean) else mean


class _Squares:
    """Vectors against their references."""

    def __init__(self) -> None:
        self.missed = self.square = self.cosine = self.count = 0.0
        self.total: Any = 0.0

    def add(self, reference: Any, found: Any, real: Bool[np.ndarray, " *rows"]) -> None:
        missed, square, total, cosine = (np.asarray(one, np.float64) for one in _compared(reference, found, real))
        self.missed, self.square, self.cosine = self.missed + missed, self.square + square, self.cosine + cosine
        self.total, self.count = self.total + total, self.count + float(real.sum())

    @property
    def error(self) -> float:
        """sqrt(sum |y - x|^2 / sum |x - mean|^2)."""
        about_mean = self.square - float(np.sum(np.square(self.total))) / self.count
        return math.sqrt(self.missed / about_mean) if math.isfinite(self.missed) and about_mean > 0 else math.inf


@jax.jit
def _compared(
    reference: Float[Array, "*rows D"], found: Float[Array, "*rows D"], real: Bool[Array, "*rows"]
) -> tuple[Array, Array, Array, Array]:
    """Sums over real rows: |y - x|^2, |x|^2, x, and the cosine of x and y."""

    def kept(values: Array) -> Array:
        return jnp.where(real.reshape(real.shape + (1,) * (values.ndim - real.ndim)), values, 0.0)

    lengths = jnp.linalg.norm(reference, axis=-1) * jnp.linalg.norm(found, axis=-1)
    cosine = jnp.sum(reference * found, axis=-1) / jnp.maximum(lengths, 1e-30)
    rows = tuple(range(reference.ndim - 1))
    return (
        jnp.sum(kept(jnp.square(found - reference))),
        jnp.sum(kept(jnp.square(reference))),
        jnp.sum(kept(reference), axis=rows),
        jnp.sum(kept(cosine)),
    )


def _row(model: Any, method: Method, found: _Sums, time: float, full_time: float, numbers: int) -> StateRow:
    states, pooled = found.states, found.pooled
    return StateRow(
        **method_columns(model, method, found.evaluations / found.batches, time, full_time, numbers),
        error=states.error,
        cosine=float(states.cosine / states.count) if math.isfinite(states.cosine) else None,
        pooled_error=pooled.error if pooled.count else None,
    )


def save_state_sweep(folder: Path | str, report: StateReport) -> str:
    """Write sweep.csv and sweep.png (error against block evaluations); return the table for the terminal.

    Raises:
        UserError: the folder cannot be written.
    """
    folder = Path(folder)
    cells, panel = [row_cells(row) for row in report.rows], _errors(report, "block_evaluations", "block evaluations")
    with writing(folder, "the sweep"):
        write_csv(folder / "sweep.csv", cells)
        line_figure(folder / "sweep.png", panel.series, panel.xlabel, panel.ylabel, "Error against depth")
    return filled_table(cells)


def save_state_report(folder: Path | str, report: StateReport) -> str:
    """Write report.csv, report.png, trace.csv and trace.png into `folder`; return the table for the terminal.

    Raises:
        UserError: the folder cannot be written.
    """
    panels = [
        _errors(report, "block_evaluations", "block evaluations"),
        _errors(report, "milliseconds", "milliseconds a batch"),
    ]
    save_methods(Path(folder), report.rows, report.profiles, panels, "Relative error of the states, against work")
    return filled_table([row_cells(row) for row in report.rows])


def _errors(report: StateReport, work: str, label: str) -> Panel:
    return method_panel(report.rows, work, label, "error", "relative error", "symlog")
