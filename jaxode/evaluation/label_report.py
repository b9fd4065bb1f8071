"""Classifiers in fewer steps: how well each method labels, how often as the full depth does, and at what cost."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from jaxode.checkpoint import takes_params
from jaxode.config import ModelConfig
from jaxode.data import Batch
from jaxode.evaluation.divergence import Diverged
from jaxode.evaluation.labels import LabelPredictions, class_divergence, label_step, predict_labels
from jaxode.evaluation.method_rows import MethodRow, filled_table, method_columns, method_panel, row_cells, save_methods
from jaxode.evaluation.methods import Method, full_depth, ready
from jaxode.evaluation.profiles import DepthProfile, depth_profile
from jaxode.evaluation.timing import ENOUGH, median_times
from jaxode.model.parameters import Architecture, Parameters


@dataclass(frozen=True, kw_only=True)
class LabelRow(MethodRow):
    """One way to solve a classifier, measured. A solve that diverged has an infinite loss, and no metrics."""

    metrics: Mapping[str, float]
    """Of the labels against those of the file; the first is the task's."""
    loss: float
    """Nats per text or word, or of a regression the mean square error."""
    agreement: float | None
    """Share of texts or words labelled as the full depth labels them; None of a regression, which gives numbers."""
    divergence: float | None
    """KL(full depth || method) of the predictions, nats per text or word; None of a regression."""
    distance: float | None
    """Root mean square distance from the full depth's numbers, in their unit; None of labels."""


@dataclass(frozen=True)
class LabelReport:
    """Rows and profiles in the order asked for; the full depth stands first."""

    rows: tuple[LabelRow, ...]
    profiles: tuple[DepthProfile, ...]
    texts: int
    """Texts, or words, behind every figure."""
    unit: str
    """What has a label: "text" or "word"."""


Teacher = tuple[Architecture, Parameters]
"""The model whose labels, at its full depth, others are to agree with."""


@takes_params
def compare_labels(
    architecture: Architecture,
    params: Parameters,
    batches: Iterable[Batch],
    methods: Sequence[Method],
    *,
    labels: Sequence[str] = (),
    teacher: Teacher | None = None,
    profiles: bool = False,
    rounds: int = 7,
    progress: str | None = None,
) -> LabelReport:
    """Measure the full depth and `methods` on the same labelled texts, then time them side by side on the first batch.

    Args:
        architecture: a classifier of texts, pairs or words without its numbers.
        params: its numbers.
        batches: with their labels; all are padded to the longest.
        methods: what to compare; several of one name make one line of a figure.
        labels: their names, where the model's own settings hold none.
        teacher: whose labels those of the methods are compared with; None: the model's own at full depth.
        profiles: also follow every even solve by Euler's method along depth.
        rounds: timings of each method, of which the median counts; as few as three where they take over a minute.
        progress: name of a bar, shown where standard error is a terminal; None shows none.

    Raises:
        UserError: an unshared model, a method that does not fit the layout, or no text.
        Diverged: predictions at full depth that are not finite.
    """
    model, chosen = architecture.bind(params).config, ready(architecture, params, methods)
    batches = same_length(list(batches))
    followed = [
        one for one in chosen.methods if profiles and (one.depth.solver, one.depth.schedule) == ("euler", "even")
    ]
    total = len(batches) * (len(chosen.methods) + len(followed)) + rounds * len(chosen.methods)
    bar = tqdm(total=total, desc=progress, unit="solve", leave=False, disable=True if progress is None else None)

    def predicted(method: Method) -> LabelPredictions | None:
        try:
            own = chosen.weights | method.parameters
            return predict_labels(architecture, own, batches, method.depth, labels=labels, tick=bar.update)
        except Diverged:
            if method is chosen.methods[0]:
                raise
            return None

    with bar:
        found = [predicted(method) for method in chosen.methods]
        first = found[0]
        assert first is not None  # the full depth raises
        reference = first
        if teacher is not None:
            reference = predict_labels(*teacher, batches, full_depth(teacher[0].bind(teacher[1]).config).depth)
        traces = tuple(depth_profile(architecture, chosen.weights, batches, one, False, bar.update) for one in followed)
        batch = jax.device_put(batches[0])

        def solve(method: Method) -> Any:
            own = chosen.weights | method.parameters
            return label_step(own, batch, architecture=architecture, depth=method.depth)

        times = median_times(
            {number: partial(solve, method) for number, method in enumerate(chosen.methods)},
            rounds,
            bar.update,
            enough=ENOUGH,
        )
    nothing = dict.fromkeys(first.evaluation.metrics, math.nan)
    rows = tuple(
        _row(model, method, predictions, reference, nothing, (times[number], times[0]), chosen.numbers[number])
        for number, (method, predictions) in enumerate(zip(chosen.methods, found, strict=True))
    )
    return LabelReport(rows, traces, first.evaluation.texts, first.evaluation.unit)


def same_length(batches: Sequence[Batch]) -> list[Batch]:
    """Padded to the longest of them: a method then compiles once, and dozens of methods are compared."""
    longest = max((batch.tokens.shape[1] for batch in batches), default=0)

    def padded(name: str, value: Any, size: int) -> Any:
        # of words what is wanted is in `targets`; `wanted` has no length
        return value if value is None or name == "wanted" else np.pad(np.asarray(value), ((0, 0), (0, size)))

    return [
        Batch(**{name: padded(name, value, longest - batch.tokens.shape[1]) for name, value in vars(batch).items()})
        for batch in batches
    ]


def _row(
    model: ModelConfig,
    method: Method,
    found: LabelPredictions | None,
    reference: LabelPredictions,
    nothing: Mapping[str, float],
    times: tuple[float, float],
    numbers: int,
) -> LabelRow:
    evaluations, quality = None, {"metrics": nothing, "loss": math.inf}
    if found is not None:
        evaluations, evaluation = found.block_evaluations, found.evaluation
        quality = {"metrics": evaluation.metrics, "loss": evaluation.loss}
    cost = method_columns(model, method, evaluations, *times, numbers)
    return LabelRow(**cost, **quality, **_against(reference, found))


def _against(reference: LabelPredictions, found: LabelPredictions | None) -> dict[str, Any]:
    """How far predictions are from the full depth's; those that diverged are infinitely far."""
    agreement, apart = None, math.inf
    if found is not None:
        agreement = float(np.mean([one == other for one, other in zip(reference.decided, found.decided, strict=True)]))
        logits = jnp.asarray(reference.logits), jnp.asarray(found.logits)
        apart = float(jnp.mean(class_divergence(*logits, reference.problem_type)))
    if reference.problem_type == "regression":
        return {"agreement": None, "divergence": None, "distance": math.sqrt(apart)}
    return {"agreement": agreement, "divergence": apart, "distance": None}


def save_label_report(folder: Path | str, report: LabelReport) -> str:
    """Write report.csv, report.png, trace.csv and trace.png into `folder`; return the table for the terminal, which
    shows the first metric, and of a regression all three.

    Raises:
        UserError: the folder cannot be written.
    """
    first = report.rows[0]
    metric, *others = first.metrics
    other, called = "agreement", "agreement with the full depth"
    if numbers := first.distance is not None:
        other, called = "distance", "root mean square distance from the full depth"
    panels = [
        method_panel(report.rows, "block_evaluations", "block evaluations", metric, metric),
        method_panel(report.rows, "milliseconds", "milliseconds a batch", metric, metric),
        method_panel(report.rows, "block_evaluations", "block evaluations", other, called),
    ]
    # a correlation of what does not vary is nowhere
    panels = [panel for panel in panels if panel.series]
    what = f"Numbers for {report.texts} texts" if numbers else f"Labels of {report.texts} {report.unit}s"
    save_methods(Path(folder), report.rows, report.profiles, panels, f"{what}, against work")
    hidden = () if numbers else others
    cells = [row_cells(row) for row in report.rows]
    return filled_table([{name: cell for name, cell in row.items() if name not in hidden} for row in cells])
