"""The sweeps of infer.py: a model's quality at several depths, by what it learns."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jaxode.config import DepthConfig, InferConfig
from jaxode.data import BatchSpec
from jaxode.evaluation import (
    Method,
    compare_states,
    depth_sweep,
    save_state_report,
    save_state_sweep,
    save_sweep,
)
from jaxode.evaluation.label_sweep import label_sweep, save_label_sweep
from jaxode.inference.loading.loaded_model import LoadedModel
from jaxode.inference.tasks.controls import write_controls
from jaxode.inference.tasks.line_tables import Lines
from jaxode.inference.tasks.line_text import labelled_text, line_batches
from jaxode.inference.tasks.measured_text import file_text, tell, validation_text
from jaxode.inference.tasks.output import Write
from jaxode.inference.tasks.report import tuned_model, with_tuned


def sweep_losses(
    loaded: LoadedModel, config: InferConfig, depths: tuple[DepthConfig, ...], write: Write, note: Write
) -> None:
    """The loss of a text."""
    text = (
        file_text(loaded, config.file, config.most_batches)
        if config.file
        else validation_text(loaded, config.most_batches)
    )
    tell(text, note)
    result = depth_sweep(
        loaded,
        text.batches,
        depths,
        bytes_per_token=text.bytes_per_token,
        progress=True,
    )
    folder = Path(config.out) if config.out else loaded.run.path
    write(save_sweep(folder, result) + "\n")
    note(f"{result.tokens} tokens predicted; written: {folder / 'sweep.csv'}, {folder / 'sweep.png'}")
    if config.controls:
        write_controls(loaded, config, list(text.batches), _counts(loaded, depths), write, note)


def sweep_answers(
    loaded: LoadedModel, config: InferConfig, depths: tuple[DepthConfig, ...], write: Write, note: Write
) -> None:
    """Exact matches of a task's questions by difficulty, in the place of a text's loss."""
    # questions are made of what reads corpora, which nothing else here needs
    from jaxode.evaluation.answer_sweep import answer_sweep, save_answer_sweep, task_answers

    data, model = loaded.config.data, loaded.config.model
    spec = BatchSpec.of(data, loaded.own_tokenizer, model.learns, model.length)
    questions = task_answers(data, spec, model.length, loaded.config.train.batch_size, config.batches)
    rows = answer_sweep(loaded.architecture, loaded.params, questions, depths, progress="answers")
    folder = Path(config.out) if config.out else loaded.run.path
    write(save_answer_sweep(folder, rows, data.corpus) + "\n")
    difficulties = f"{len(questions)} difficulties of {data.corpus}"
    note(f"{difficulties}, exact matches; written: {folder / 'answers.csv'}, {folder / 'answers.png'}")
    if config.controls:
        trained = [batch for one in questions if one.trained for batch in one.batches]
        write_controls(loaded, config, trained, _counts(loaded, depths), write, note)


def _counts(loaded: LoadedModel, depths: Sequence[DepthConfig]) -> list[int]:
    """The steps of a sweep."""
    return [one.steps or loaded.config.model.steps for one in depths]


def sweep_labels(
    loaded: LoadedModel, config: InferConfig, depths: tuple[DepthConfig, ...], write: Write, note: Write
) -> None:
    """Loss and metrics of a classifier's labels in the place of a text's loss."""
    text = labelled_text(loaded, config)
    tell(text, note)
    rows = label_sweep(loaded.architecture, loaded.params, text.batches, depths, loaded.labels)
    unit = "words" if loaded.task == "token_classifier" else "texts"
    folder = Path(config.out) if config.out else loaded.run.path
    write(save_label_sweep(folder, rows) + "\n")
    note(f"{rows[0][unit]} {unit} labelled; written: {folder / 'sweep.csv'}, {folder / 'sweep.png'}")


def sweep_states(
    loaded: LoadedModel,
    lines: Lines | None,
    config: InferConfig,
    depths: tuple[DepthConfig, ...],
    methods: tuple[Method, ...],
    write: Write,
    note: Write,
) -> None:
    """Sweep or report of an encoder: errors of its states in the place of losses."""
    folder, reports = Path(config.out) if config.out else loaded.run.path, bool(methods)
    compared = methods or tuple(Method(f"{one.solver}, {one.schedule}", one) for one in depths)
    tuned = tuned_model(loaded, config.tuned, by_labels=False) if config.tuned else None
    if lines is None:
        batches = list(validation_text(loaded, config.most_batches).batches)
    else:
        batches = line_batches(loaded, lines, config)
    found = compare_states(loaded, batches, compared, profiles=reports, progress="report" if reports else "sweep")
    if tuned is not None:
        found = with_tuned(loaded, tuned, batches, config, found)
    write((save_state_report if reports else save_state_sweep)(folder, found) + "\n")
    names = ("report.csv", "report.png", "trace.csv", "trace.png") if reports else ("sweep.csv", "sweep.png")
    note(f"{found.tokens} tokens compared; written: {', '.join(str(folder / name) for name in names)}")
