"""What a classifier finds in each of many texts: a label, several, or numbers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import jax
import numpy as np
from jaxtyping import Array, Float

from jaxode.checkpoint import takes_tokenizer
from jaxode.config import DepthConfig, UserError
from jaxode.data import Tokenizer
from jaxode.inference.texts.batch_pass import Throughput
from jaxode.inference.texts.text_pass import TextPass
from jaxode.inference.texts.token_ids import Frame
from jaxode.model import SequenceClassifier
from jaxode.model.heads import ProblemType
from jaxode.model.parameters import Architecture, Parameters
from jaxode.types import Segments, Tokens, TokenTypes


@dataclass(frozen=True)
class TextClass:
    """What a classifier finds in a text; its `problem_type` says which of these there are. Labels count from 0."""

    label: int | None
    """The most likely one; None where the head is no choice of one label."""
    probabilities: tuple[float, ...]
    """Of every label: a softmax over all, or a sigmoid for each of several labels; none of a regression."""
    labels: tuple[int, ...]
    """Those that hold: the most likely one, or all above 1/2 of several labels; none of a regression."""
    scores: tuple[float, ...]
    """The numbers of a regression, as the head gives them; none of labels."""


@dataclass(frozen=True)
class TextClasses:
    """Of every text, in the order of the input."""

    classes: tuple[TextClass, ...]
    problem_type: ProblemType
    """What the model's outputs are."""
    truncated: int
    """Texts that were cut to the model's length."""
    unknown: int
    """Tokens of the texts that stand for what the tokenizer does not know."""
    throughput: Throughput

    @property
    def solver(self) -> str:
        """The one that ran."""
        return self.throughput.solver


@partial(jax.jit, static_argnames=("architecture", "depth"))
def class_outputs(
    params: Parameters,
    tokens: Tokens,
    segments: Segments,
    token_types: TokenTypes | None = None,
    *,
    architecture: Architecture,
    depth: DepthConfig,
) -> Float[Array, "B classes"]:
    """Of each row: a softmax over the labels, a sigmoid for each of several, or a regression's numbers as they are."""
    model = architecture.bind(params)
    logits = model(tokens, depth, segments=segments, token_types=token_types).logits
    if model.problem_type == "regression":
        return logits
    return jax.nn.sigmoid(logits) if model.problem_type == "multi_label_classification" else jax.nn.softmax(logits)


@takes_tokenizer
def classify_texts(
    architecture: Architecture,
    params: Parameters,
    tokenizer: Tokenizer,
    texts: Iterable[str],
    *,
    pairs: Iterable[str] | None = None,
    depth: DepthConfig | None = None,
    batch_size: int = 32,
    frame: Frame = None,
    truncate: bool = False,
    names: Sequence[str] = (),
    progress: str | None = None,
) -> TextClasses:
    """The most likely label of each text and the probabilities of all, or what else the head of the model gives.

    Args:
        architecture: a `SequenceClassifier` without its numbers.
        params: its numbers.
        tokenizer: the model's own.
        texts: each at most L tokens long, frame included; special tokens written out in them are plain text.
        pairs: the second text of each, where the model reads pairs: [CLS] text [SEP] pair [SEP].
        depth: solver, steps and schedule; full depth when None.
        batch_size: rows that go through the model at once.
        frame: put each text within the tokenizer's template ([CLS] text [SEP]); None does where the model was trained
            with it, as the tokenizer knows (`Tokenizer.framed`).
        truncate: cut longer texts to their first tokens instead of refusing them.
        names: what errors call the texts; "text 1", "text 2", .. when empty.
        progress: name of a bar, shown where standard error is a terminal; None shows none.

    Raises:
        UserError: a model without a classifier head, another model's tokenizer, one string in place of several, no
            text, one without tokens or too long, a depth that does not fit or chooses its own steps, or a batch that
            does not fit into memory.
        Diverged: outputs that are not finite.
    """
    reading = TextPass(architecture, params, tokenizer, depth, batch_size, frame, truncate, names, progress)
    model = reading.model
    if not isinstance(model, SequenceClassifier):
        raise UserError(f"{type(model).__name__} has no classifier head: give a SequenceClassifier")
    rows = reading.rows(texts, pairs)
    solved = reading.solve(class_outputs, rows)
    classes = tuple(_text_class(row, model.problem_type) for row in solved.values)
    return TextClasses(classes, model.problem_type, rows.truncated, rows.unknown, solved.throughput)


def _text_class(row: np.ndarray, problem_type: ProblemType) -> TextClass:
    outputs = tuple(map(float, row))
    if problem_type == "regression":
        return TextClass(label=None, probabilities=(), labels=(), scores=outputs)
    if problem_type == "multi_label_classification":
        above = tuple(map(int, np.flatnonzero(row > 0.5)))
        return TextClass(label=None, probabilities=outputs, labels=above, scores=())
    label = int(row.argmax())
    return TextClass(label, probabilities=outputs, labels=(label,), scores=())
