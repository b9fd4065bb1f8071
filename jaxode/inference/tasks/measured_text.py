"""The text that a task of infer.py measures on: a file, or what the run itself was trained and validated on."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import jaxode.data  # its names by attribute: what reads corpora loads where a task needs it
from jaxode.checkpoint import TrainedModel
from jaxode.config import UserError, require
from jaxode.data import Batch, BatchSpec, documents, segments
from jaxode.data.packing import windows
from jaxode.inference.tasks.output import Write

LONGEST_ROW = 2048
"""Tokens of a row of text that is measured on, at most: models that read 65,536 would need as many at once."""

FILE_INSTEAD = "name a text file with --file"


@dataclass(frozen=True)
class Text:
    """Batches to predict."""

    batches: Iterable[Batch]
    bytes_per_token: float | None
    """None for a masked model, which predicts a part of the tokens only."""
    words_per_token: float | None = None
    """Words as WikiText counts them: what white space divides, and the end of every line; None as for bytes."""
    note: str | None = None
    """What differs from how the model could read it."""


def tell(text: Text, note: Write) -> None:
    """What differs, where anything does."""
    if text.note is not None:
        note(text.note)


def corpus(trained: TrainedModel) -> jaxode.data.PreparedData:
    """The corpus of the run, read with its own tokenizer.

    Raises:
        UserError: it is not at hand.
    """
    model = trained.config.model
    if model.labels_texts:
        from jaxode.data.labelled import prepare_labelled

        require(bool(trained.config.data.train), "it names none; a classifier is measured on labelled texts")
        return prepare_labelled(trained.config.data, model, trained.own_tokenizer)
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


def file_text(trained: TrainedModel, file: str, limit: int | None = None, stride: int = 0) -> Text:
    """A file, read as one of the run's corpus is, or its first `limit` batches.

    Args:
        trained: the model.
        file: text, or lines of JSON.
        limit: of batches; None reads all. Bytes and words a token are those of the whole file.
        stride: rows move on by so many tokens and predict what is new in them; 0: they stand end to end.

    Raises:
        UserError: it cannot be read, is no UTF-8, is a table, or is empty; a stride that does not fit the model.
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
    note = "; ".join(filter(None, [note, *scored.stats.notes(length)])) or None
    whole = model.learns == "causal" and not spec.answer_after and not scored.stats.cut
    batches: Iterable[Batch] = scored.batches
    if stride:
        require(
            model.learns == "causal" and not data.whole_texts and stride <= length,
            f"stride = {stride}: rows of a causal model's stream of text move on, by {length} tokens at most; this is "
            f'a {model.learns} model with data.rows = "{data.rows}"',
        )
        batches = itertools.islice(_windows(texts, spec, length, stride, rows), limit)
    words = sum(map(_words, texts))
    return Text(
        batches,
        1 / scored.stats.tokens_per_byte if whole else None,
        words / scored.stats.tokens if whole else None,
        note,
    )


def _words(text: str) -> int:
    """What white space divides, and an end for every line, empty ones too."""
    return len(text.split()) + text.count("\n") + (not text.endswith("\n"))


def _windows(texts: Sequence[str], spec: BatchSpec, length: int, stride: int, rows: int) -> Iterator[Batch]:
    """The stream of the texts in rows that overlap, `rows` a batch; the last batch is filled with rows of weight 0."""
    end = spec.tokenizer.end_id
    documents_ids = spec.tokenizer.encode_batch(texts)
    stream = np.concatenate([np.asarray([*ids, end], np.int32) for ids in documents_ids])
    number = segments(stream, end, len(stream))
    places = list(windows(len(stream), length, stride))
    for first in range(0, len(places), rows):
        tokens = np.full((rows, length), spec.tokenizer.pad_id, np.int32)
        targets, inside = tokens.copy(), np.zeros((rows, length), np.int32)
        weights = np.zeros((rows, length), np.float32)
        for row, (start, new) in enumerate(places[first : first + rows]):
            here = slice(start, min(start + length, len(stream) - 1))
            size, following = here.stop - start, slice(start + 1, here.stop + 1)
            tokens[row, :size], targets[row, :size] = stream[here], stream[following]
            inside[row, :size] = 1 + number[here] - number[start]
            predicted = np.arange(size) >= new
            if spec.document_mask:
                # the first token of a document cannot be foreseen from another one
                predicted &= number[following] == number[here]
            weights[row, :size] = predicted
        yield Batch(tokens, targets, weights, inside)
