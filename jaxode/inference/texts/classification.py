"""The label of each of many texts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import jax
import numpy as np
from jaxtyping import Array, Float

from jaxode.checkpoint import takes_tokenizer
from jaxode.config import DepthConfig, require
from jaxode.data import Tokenizer
from jaxode.inference.texts.batch_pass import BatchPass, Throughput
from jaxode.inference.texts.batching import RowBatch, padded, real_tokens
from jaxode.inference.texts.token_ids import check_vocabulary, encode_texts
from jaxode.model import SequenceClassifier
from jaxode.model.parameters import Architecture, Parameters
from jaxode.types import Segments, Tokens


@dataclass(frozen=True)
class TextClass:
    """A text's label."""

    label: int
    """The most likely one, from 0."""
    probabilities: tuple[float, ...]
    """Softmax over all labels."""


@dataclass(frozen=True)
class TextClasses:
    """Of every text, in the order of the input."""

    classes: tuple[TextClass, ...]
    truncated: int
    """Texts that were cut to the model's length."""
    throughput: Throughput


@partial(jax.jit, static_argnames=("architecture", "depth"))
def class_probabilities(
    params: Parameters, tokens: Tokens, segments: Segments, *, architecture: Architecture, depth: DepthConfig
) -> Float[Array, "B classes"]:
    """Softmax over the labels of each row."""
    return jax.nn.softmax(architecture.bind(params)(tokens, depth, segments=segments).logits)


@takes_tokenizer
def classify_texts(
    architecture: Architecture,
    params: Parameters,
    tokenizer: Tokenizer,
    texts: Iterable[str],
    *,
    depth: DepthConfig | None = None,
    batch_size: int = 32,
    frame: bool | None = None,
    truncate: bool = False,
    names: Sequence[str] = (),
    progress: str | None = None,
) -> TextClasses:
    """The most likely label of each text, and the probabilities of all.

    Args:
        architecture: a `SequenceClassifier` without its numbers.
        params: its numbers.
        tokenizer: the model's own.
        texts: each at most L tokens long, frame included; special tokens written out in them are plain text.
        depth: solver, steps and schedule; full depth when None.
        batch_size: rows that go through the model at once.
        frame: put each text within the tokenizer's template ([CLS] text [SEP]); None: where the model was trained so.
        truncate: cut longer texts to their first tokens instead of refusing them.
        names: what errors call the texts; "text 1", "text 2", .. when empty.
        progress: name of a bar, shown where standard error is a terminal; None shows none.

    Raises:
        UserError: a model without a classifier head, another model's tokenizer, one string in place of several, no
            text, one without tokens or too long, a depth that does not fit or chooses its own steps, or a batch that
            does not fit into memory.
        Diverged: probabilities that are not finite.
    """
    solve = BatchPass(architecture, params, depth or DepthConfig(), batch_size, progress)
    model = solve.check()
    require(
        isinstance(model, SequenceClassifier),
        f"{type(model).__name__} has no classifier head: give a SequenceClassifier",
    )
    check_vocabulary(model.config, tokenizer)
    framed = tokenizer.framed if frame is None else frame
    encoded = encode_texts(tokenizer, texts, model.config.length, frame=framed, truncate=truncate, names=names)

    def inputs(batch: RowBatch) -> tuple[np.ndarray, ...]:
        rows = [encoded.ids[i] for i in batch.rows]
        return padded(rows, batch, tokenizer.pad_id), real_tokens(rows, batch)

    solved = solve(class_probabilities, inputs, encoded.lengths, texts=len(encoded.ids), predicted=0)
    classes = tuple(TextClass(int(row.argmax()), tuple(map(float, row))) for row in solved.values)
    return TextClasses(classes, encoded.truncated, solved.throughput)
