"""Texts of a classifier or an encoder in batches, and what a bound on a short solve is tested on."""

from __future__ import annotations

import dataclasses
from itertools import islice

import numpy as np

from jaxode.checkpoint import Task, TrainedModel
from jaxode.config import InferConfig, require
from jaxode.data import Batch, BatchSpec, ValidationBatches
from jaxode.data.columns import Columns
from jaxode.data.notices import notice
from jaxode.data.packing import pack_texts
from jaxode.data.tables import read_table
from jaxode.data.tagged import has_tags, read_tagged
from jaxode.data.tokenizers import Frame
from jaxode.inference.loading.names import LINE_TASKS
from jaxode.inference.tasks.line_tables import BATCH_SIZE, Lines, read_labelled, read_lines, read_words
from jaxode.inference.tasks.measured_text import Text, file_text, validation_text
from jaxode.inference.texts.batching import bucketed
from jaxode.inference.texts.text_pass import model_rows
from jaxode.inference.texts.token_ids import token_rows

PACKED_TOKENS = 1024
"""In a batch of a fit of states, where no batch size is given."""

FEWEST = 4
"""Batches that a short text is divided into, where no batch size is given."""

SHAPES = 4
"""Lengths of batches that a fit or a comparison compiles for."""


def line_batches(trained: TrainedModel, lines: Lines, config: InferConfig) -> list[Batch]:
    """The first `config.most_batches` batches of texts, one a row, in few shapes; in an order of their own, so that the
    last batches are like all others.
    """
    tokenizer, length = trained.own_tokenizer, trained.config.model.length
    size = config.batch_size or BATCH_SIZE
    texts, names = lines.texts[: config.most_batches * size], lines.names[: config.most_batches * size]
    options = {"frame": _frame(trained, config), "truncate": config.truncate, "names": names}
    pairs = None if lines.pairs is None else lines.pairs[: len(texts)]
    rows = model_rows(trained.config.model, tokenizer, texts, pairs, **options)
    _tell_unknown(config.file, rows.unknown)
    found = []
    for batch in bucketed(rows.lengths, size, length, SHAPES):
        tokens, real, *kinds = rows.arrays(batch, tokenizer.pad_id)
        found.append(Batch(tokens, tokens, real.astype(np.float32), real, kinds=kinds[0] if kinds else None))
    return [found[i] for i in np.random.default_rng(config.seed).permutation(len(found))]


def _tell_unknown(file: str, unknown: int) -> None:
    if unknown:
        notice(f"{file}: pieces of text that the tokenizer does not know, read as its unknown token: {unknown}")


def measured_by_labels(task: Task, config: InferConfig) -> bool:
    """Whether a sweep or a report measures a model by the labels that it gives.

    A classifier of texts always; one of words where there are labels: in the run's own data, in a file that is called
    as one with a word a line, in lists of JSON lines, or where `config.label` says so. Else by its states.
    """
    if config.task not in ("sweep", "report") or task not in ("classifier", "token_classifier"):
        return False
    return task == "classifier" or not config.file or bool(config.label) or has_tags(config.file)


def labelled_text(trained: TrainedModel, config: InferConfig) -> Text:
    """The labelled texts that a classifier is measured on: a file's, or those that it was validated on.

    Raises:
        UserError: as `read_table`; labels that the model has not; long texts without `config.truncate`.
    """
    if not config.file:
        return validation_text(trained, config.most_batches, "name labelled texts with --file")
    from jaxode.data.labelled import labelled_batches

    columns = Columns(config.text, config.pair, config.label, config.header, config.quotes)
    read = read_tagged if trained.task == "token_classifier" else read_table
    # of a Hugging Face model these stand beside its settings
    model = dataclasses.replace(
        trained.config.model,
        head=trained.task,  # pyright: ignore[reportArgumentType]
        labels=trained.labels,
        problem_type=getattr(trained.model, "problem_type", trained.config.model.problem_type),
    )
    batches, stats = labelled_batches(
        read(config.file, columns, labelled=True),
        trained.own_tokenizer,
        model,
        trained.labels,
        frame=_frame(trained, config),
        batch_size=config.batch_size or BATCH_SIZE,
        limit=config.most_batches,
    )
    require(
        config.truncate or not stats.cut,
        f"{config.file}: {stats.cut} texts have more tokens than the model reads, model.length = "
        f"{trained.config.model.length}: shorten them, or cut them with --truncate",
    )
    read = min(len(batches) * (config.batch_size or BATCH_SIZE), stats.documents)
    some = f"the first {read} of {stats.documents} texts, in an order of their own; --batches reads more"
    notes = [*([some] if read < stats.documents else []), *stats.notes(trained.config.model.length)]
    return Text(batches, None, note="; ".join(notes) or None)


def packed_batches(trained: TrainedModel, lines: Lines, config: InferConfig) -> list[Batch]:
    """At most `config.most_batches` batches for a fit of states, in an order of their own: texts share rows of the
    model's length, so that almost nothing is padding, and each is read as if it stood alone.
    """
    tokenizer, length = trained.own_tokenizer, trained.config.model.length
    encoded = token_rows(
        tokenizer, lines.texts, length, frame=_frame(trained, config), truncate=config.truncate, names=lines.names
    )
    _tell_unknown(config.file, encoded.unknown)
    size = config.batch_size or max(1, PACKED_TOKENS // length)
    rows = [
        row.features for row in islice(pack_texts(encoded.ids, length, tokenizer.pad_id), config.most_batches * size)
    ]
    if config.batch_size is None:
        # a short text still makes batches to fit on and to measure on
        size = max(1, min(size, len(rows) // min(FEWEST, config.most_batches)))
    spec = BatchSpec(tokenizer, "encoder", document_mask=True, around=((), ()))
    found = list(ValidationBatches(rows, spec, min(size, len(rows))))
    return [found[i] for i in np.random.default_rng(config.seed).permutation(len(found))]


def _frame(trained: TrainedModel, config: InferConfig) -> Frame:
    """As asked for, else as the model was trained."""
    return trained.text_frame if config.text_frame is None else config.text_frame


def bound_batches(trained: TrainedModel, config: InferConfig) -> list[Batch]:
    """The text that a bound on the loss or on changed labels is tested on."""
    if trained.task in LINE_TASKS and config.bound_file:
        # its labels are not looked at
        named = dataclasses.replace(config, file=config.bound_file, label="")
        text_key = trained.config.data.text_key
        if trained.task == "classifier":
            lines = read_labelled(named, text_key)
        elif trained.task == "token_classifier" and config.task != "encode":
            lines = read_words(named)
        else:
            lines = read_lines(config.bound_file, text_key, classified=True)
        return line_batches(trained, lines, config)
    if config.bound_file:
        return list(file_text(trained, config.bound_file, config.most_batches).batches)
    remedy = "name one with --bound-file, or choose the depth with --steps or --budget"
    return list(validation_text(trained, config.most_batches, remedy).batches)
