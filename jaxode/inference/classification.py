"""The label of each of many texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import jax
import numpy as np
from jaxtyping import Array, Float

from jaxode.config import DepthConfig, require
from jaxode.data import Tokenizer
from jaxode.inference.batch_pass import BatchPass, Throughput
from jaxode.inference.batching import RowBatch, padded, real_tokens
from jaxode.inference.encoding import encode_texts
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

    @property
    def solver(self) -> str:
        """The one that ran."""
        return self.throughput.solver


@partial(jax.jit, static_argnames=("architecture", "depth"))
def class_probabilities(
    params: Parameters, tokens: Tokens, segments: Segments, *, architecture: Architecture, depth: DepthConfig
) -> Float[Array, "B classes"]:
    """Softmax over the labels of each row."""
    return jax.nn.softmax(architecture.bind(params)(tokens, depth, segments=segments).logits)


def classify_texts(
    architecture: Architecture,
    params: Parameters,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    *,
    depth: DepthConfig | None = None,
    batch_size: int = 32,
    frame: bool = False,
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
        frame: put each text within the tokenizer's template, for a model that was trained with it ([CLS] text [SEP]).
        truncate: cut longer texts to their first tokens instead of refusing them.
        names: what errors call the texts; "text 1", "text 2", .. when empty.
        progress: name of a bar, shown where standard error is a terminal; None shows none.

    Raises:
        UserError: a model without a classifier head, no text, one without tokens or too long, a depth that does not fit
            or chooses its own steps, or a batch that does not fit into memory.
        Diverged: probabilities that are not finite.
    """
    solve = BatchPass(architecture, params, depth or DepthConfig(), batch_size, progress)
    model = solve.check()
    require(
        isinstance(model, SequenceClassifier),
        f"{type(model).__name__} has no classifier head: give a SequenceClassifier",
    )
    encoded = encode_texts(tokenizer, texts, model.config.length, frame=frame, truncate=truncate, names=names)

    def inputs(batch: RowBatch) -> tuple[np.ndarray, ...]:
        rows = [encoded.ids[i] for i in batch.rows]
        return padded(rows, batch, tokenizer.pad_id), real_tokens(rows, batch)

    solved = solve(class_probabilities, inputs, encoded.lengths, texts=len(texts), predicted=0)
    classes = tuple(TextClass(int(row.argmax()), tuple(map(float, row))) for row in solved.values)
    return TextClasses(classes, encoded.truncated, solved.throughput)
