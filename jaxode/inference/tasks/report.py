"""Task report of infer.py: which methods a run is measured with, and on what magnitude matching is fitted."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

from jaxode.calibration import Calibration, calibration_batches, magnitude_matching
from jaxode.checkpoint import TrainedModel
from jaxode.config import DepthConfig, InferConfig, ModelConfig, UserError, require
from jaxode.data import Batch
from jaxode.evaluation import (
    Method,
    StateReport,
    comparators,
    compare_states,
    evaluation_counts,
    fits,
    resolved,
    save_report,
    work_precision,
)
from jaxode.evaluation.label_report import LabelReport, compare_labels, save_label_report
from jaxode.evaluation.methods import FULL_DEPTH
from jaxode.inference.loading.loaded_model import LoadedModel, load
from jaxode.inference.loading.names import STATE_TASKS
from jaxode.inference.tasks.controls import CALIBRATION_BATCHES, write_controls
from jaxode.inference.tasks.line_text import labelled_text
from jaxode.inference.tasks.measured_text import Text, corpus, file_text, validation_text
from jaxode.inference.tasks.output import Write
from jaxode.interop import is_pretrained
from jaxode.model.parameters import calibration_parameters, without_calibrations

Comparison = TypeVar("Comparison", StateReport, LabelReport)

TUNED = "tuned"


def report_methods(
    model: ModelConfig, config: InferConfig, depth: DepthConfig, calibrations: Mapping[int, Calibration]
) -> tuple[Method, ...]:
    """Every method that can be named before the weights are read: the comparators, what was asked, the calibrations.

    Args:
        model: of the run.
        config: whose `steps` are compared at besides the layout's own.
        depth: what the flags ask for; a solver or schedule of its own is measured under its own name.
        calibrations: of the run.

    Raises:
        UserError: an unshared model.
    """
    methods = list(comparators(model, evaluation_counts(model, config.steps)))
    asked = resolved(model, depth)
    listed = asked.solver == "calibrated" or (asked.solver, asked.schedule) == ("euler", "even")
    if not listed and asked not in [method.depth for method in methods]:
        methods.append(Method(f"{asked.solver}, {asked.schedule}", asked))
    methods += [_fitted("", steps, one) for steps, one in calibrations.items()]
    return tuple(methods)


def _fitted(whose: str, steps: int, one: Calibration) -> Method:
    """A calibration as a method."""
    name = "step adapters" if one.adapted else "calibrated"
    return Method(
        f"{whose}{name}", one.depth, calibration_parameters(steps, one.coefficients), one.tokens, one.seconds / 60
    )


def with_tuned(
    trained: TrainedModel, tuned: LoadedModel, batches: Sequence[Batch], config: InferConfig, report: Comparison
) -> Comparison:
    """The report, and of a model that was trained on from this one, in every number of steps, the same: its states or
    labels against this one's at full depth; times are relative to this one's.
    """
    model, run = tuned.config.model, tuned.config.train
    methods = [Method(TUNED, DepthConfig(steps=n, solver="euler")) for n in evaluation_counts(model, config.steps)]
    methods += [_fitted(f"{TUNED}, ", steps, one) for steps, one in tuned.calibrations.items()]
    read = tuned.step * run.batch_size * model.length
    teacher = (trained.architecture, without_calibrations(trained.params))
    named = partial(compare_labels, labels=trained.labels)
    compare = named if isinstance(report, LabelReport) else compare_states
    found = compare(tuned, batches, methods, teacher=teacher, progress="report: tuned")
    rows = tuple(
        dataclasses.replace(
            row,
            method=TUNED if row.method == FULL_DEPTH else row.method,
            relative_time=row.milliseconds / report.rows[0].milliseconds,
            numbers=tuned.model.num_parameters + row.numbers,
            fit_tokens=(read + (row.fit_tokens or 0)) if read else None,
        )
        for row in found.rows
    )
    return dataclasses.replace(report, rows=(*report.rows, *rows))  # pyright: ignore[reportArgumentType]


_SAME_STATES = {
    "model.width": lambda one: one.config.model.width,
    "task": lambda one: one.task,
    # of a Hugging Face model neither task nor pooler stands among its settings
    "pooler": lambda one: getattr(getattr(one.model, "head", None), "pool", None) is not None,
}
# of a Hugging Face model these stand beside its settings
_SAME_LABELS = {
    "task": lambda one: one.task,
    "labels": lambda one: one.labels,
    "problem_type": lambda one: getattr(one.model, "problem_type", None),
}


def tuned_model(trained: TrainedModel, name: str, by_labels: bool) -> LoadedModel:
    """The model that `tuned` names.

    Raises:
        UserError: none, one that is not measured as this one is, or one with another vocabulary or other labels.
    """
    tuned = load(name)
    require(
        by_labels or tuned.task in STATE_TASKS,
        f"tuned = {name}: is a {tuned.task} model; name one that is measured by its states, as this one is",
    )
    for what, value in _SAME_LABELS.items() if by_labels else _SAME_STATES.items():
        own, theirs = value(trained), value(tuned)
        require(
            own == theirs,
            f"tuned = {name}: has {what} = {theirs!r}, this model {own!r}; name one that was trained on from it",
        )
    require(
        tuned.own_tokenizer.fingerprint == trained.own_tokenizer.fingerprint,
        f"tuned = {name}: reads with another tokenizer ({tuned.own_tokenizer.name}) than this model "
        f"({trained.own_tokenizer.name}); name one that was trained on from it",
    )
    return tuned


def write_report(
    trained: TrainedModel,
    config: InferConfig,
    methods: tuple[Method, ...],
    write: Write,
    note: Write,
) -> None:
    """Fit magnitude matching, measure everything, write the table and the files.

    Raises:
        UserError: a text that cannot be measured on, or a folder that cannot be written.
    """
    folder = _made_folder(trained, config)
    text = (
        file_text(trained, config.file, config.most_batches)
        if config.file
        else validation_text(trained, config.most_batches)
    )
    if text.note is not None:
        note(text.note)
    report = work_precision(
        trained,
        text.batches,
        (*methods, *_magnitudes(trained, config, text, note)),
        progress=True,
    )
    write(save_report(folder, report) + "\n")
    files = ", ".join(str(folder / name) for name in ("report.csv", "report.png", "trace.csv", "trace.png"))
    note(f"{report.tokens} tokens predicted; written: {files}")
    if config.controls:
        write("\n")
        counts = evaluation_counts(trained.config.model, config.steps)
        write_controls(trained, config, list(text.batches), counts, write, note)


def write_label_report(
    trained: TrainedModel,
    config: InferConfig,
    methods: tuple[Method, ...],
    write: Write,
    note: Write,
) -> None:
    """Measure a classifier on labelled texts or words by every method, write the table and the files.

    Raises:
        UserError: labelled texts that cannot be measured on, or a folder that cannot be written.
    """
    folder, text = _made_folder(trained, config), labelled_text(trained, config)
    if text.note is not None:
        note(text.note)
    tuned = tuned_model(trained, config.tuned, by_labels=True) if config.tuned else None
    batches = list(text.batches)
    report = compare_labels(trained, batches, methods, labels=trained.labels, profiles=True, progress="report")
    if tuned is not None:
        report = with_tuned(trained, tuned, batches, config, report)
    write(save_label_report(folder, report) + "\n")
    files = ", ".join(str(folder / name) for name in ("report.csv", "report.png", "trace.csv", "trace.png"))
    note(f"{report.texts} {report.unit}s labelled; written: {files}")


def _made_folder(trained: TrainedModel, config: InferConfig) -> Path:
    folder = Path(config.out) if config.out else trained.run.path
    try:  # now, not after minutes of measuring
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: the report cannot be written there: {error.strerror or error}") from None
    return folder


def _magnitudes(trained: TrainedModel, config: InferConfig, text: Text, note: Write) -> list[Method]:
    model = trained.config.model
    counts = [n for n in evaluation_counts(model, config.steps) if n < model.steps]
    counts = [n for n in counts if fits(model, DepthConfig(steps=n))]
    batches, source = _lengths_text(trained, config, text)
    note(f"magnitude matching: lengths of {len(batches)} batches of {source}")
    found = magnitude_matching(
        trained,
        batches,
        counts,
        progress=True,
    )
    return [
        Method("magnitude matching", DepthConfig(steps=n, solver="calibrated"), calibration_parameters(n, coefficients))
        for n, coefficients in found.items()
    ]


def _lengths_text(trained: TrainedModel, config: InferConfig, text: Text) -> tuple[list[Batch], str]:
    """Training text where the run's corpus is at hand, else the text that is measured on; and its name."""
    if is_pretrained(trained.run.path):
        return list(itertools.islice(text.batches, CALIBRATION_BATCHES)), "the measured text itself"
    try:
        return calibration_batches(corpus(trained), config.seed, CALIBRATION_BATCHES), "the run's training text"
    except UserError as error:
        chosen = list(itertools.islice(text.batches, CALIBRATION_BATCHES))
        return chosen, f"the measured text itself, for the run's corpus is not at hand ({error})"
