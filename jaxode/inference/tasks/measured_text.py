"""The text that a task of infer.py measures on: a file, or what the run itself was trained and validated on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import jaxode.data  # its names by attribute: what reads corpora loads where a task needs it
from jaxode.checkpoint import TrainedModel
from jaxode.config import UserError, require
from jaxode.data import Batch, BatchSpec, documents

LONGEST_ROW = 2048
"""Tokens of a row of text that is measured on, at most: models that read 65,536 would need as many at once."""

FILE_INSTEAD = "name a text file with --file"


@dataclass(frozen=True)
class Text:
    """Batches to predict."""

    batches: Iterable[Batch]
    bytes_per_token: float | None
    """None for a masked model, which predicts a part of the tokens only."""
    note: str | None = None
    """What differs from how the model could read it."""


def corpus(trained: TrainedModel) -> jaxode.data.PreparedData:
    """The corpus of the run, read with its own tokenizer.

    Raises:
        UserError: it is not at hand.
    """
    model = trained.config.model
    return jaxode.data.prepare(trained.config.data, model.length, model.learns, tokenizer=trained.own_tokenizer)


def needed_corpus(trained: TrainedModel, remedy: str = FILE_INSTEAD) -> jaxode.data.PreparedData:
    """The same for a task that cannot do without it; `remedy` ends the message.

    Raises:
        UserError: it is not at hand.
    """
    try:
        return corpus(trained)
    except UserError as error:
        raise UserError(f"{trained.run.path}: the text of the run is not at hand ({error}); or {remedy}") from None


def validation_text(trained: TrainedModel, limit: int, remedy: str = FILE_INSTEAD) -> Text:
    """The first `limit` batches of the run's validation split.

    Raises:
        UserError: the corpus is not at hand; `remedy` ends the message.
    """
    data = needed_corpus(trained, remedy)
    batches = data.validation(trained.config.train.batch_size, limit)
    return Text(batches, data.bytes_per_token("validation"))


def file_text(trained: TrainedModel, file: str, limit: int | None = None) -> Text:
    """A file, read as one of the run's corpus is, or its first `limit` batches.

    Raises:
        UserError: it cannot be read, is no UTF-8, is a table, or is empty.
    """
    data, model = trained.config.data, trained.config.model
    texts = tuple(documents.read_texts(Path(file).expanduser(), data.separator, data.text_key, data.lines))
    require(bool(texts), f"{file}: is empty; give a file that holds text")
    # a short text would leave most rows of a training batch empty
    tokens = sum(len(text.encode()) + 1 for text in texts)
    length = min(model.length, LONGEST_ROW)
    spec = BatchSpec.of(data, trained.own_tokenizer, model.learns, length)
    rows = min(trained.config.train.batch_size, (tokens - 1) // length + 1)
    scored = jaxode.data.text_batches(texts, spec, length, rows, limit)
    note = None
    if length < model.length:
        note = f"measured in rows of {length} tokens, each a beginning; the model reads up to {model.length} at once"
    note = scored.stats.cut_note(length) or note
    whole = model.learns == "causal" and not scored.stats.cut
    return Text(scored.batches, 1 / scored.stats.tokens_per_byte if whole else None, note)
