"""What a classifier of tokens finds in the words of many sentences."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import jax
import numpy as np
from jaxtyping import Array, Float

from jaxode.checkpoint import takes_tokenizer
from jaxode.config import DepthConfig, UserError, require
from jaxode.data import Tokenizer
from jaxode.data.tagged import word_tokens
from jaxode.inference.texts.batch_pass import Throughput
from jaxode.inference.texts.text_pass import TextPass
from jaxode.inference.texts.token_ids import Frame, TokenRows, check_vocabulary, count_long, text_names
from jaxode.model import TokenClassifier
from jaxode.model.parameters import Architecture, Parameters
from jaxode.types import Segments, Tokens


@dataclass(frozen=True)
class WordLabels:
    """Of every sentence and word, in the order of the input; labels count from 0."""

    labels: tuple[tuple[int, ...], ...]
    """The most likely one; of a sentence that was cut, of the words that were read."""
    probabilities: tuple[tuple[float, ...], ...]
    """Of that label."""
    truncated: int
    """Sentences that were cut to the model's length."""
    unknown: int
    """Pieces of text that the tokenizer does not know."""
    throughput: Throughput

    @property
    def solver(self) -> str:
        """The one that ran."""
        return self.throughput.solver


@partial(jax.jit, static_argnames=("architecture", "depth"))
def word_outputs(
    params: Parameters, tokens: Tokens, segments: Segments, *, architecture: Architecture, depth: DepthConfig
) -> Float[Array, "B L classes"]:
    """A softmax over the labels at every token."""
    return jax.nn.softmax(architecture.bind(params)(tokens, depth, segments=segments).logits)


@takes_tokenizer
def classify_words(
    architecture: Architecture,
    params: Parameters,
    tokenizer: Tokenizer,
    sentences: Iterable[Sequence[str]],
    *,
    depth: DepthConfig | None = None,
    batch_size: int = 32,
    frame: Frame = None,
    truncate: bool = False,
    names: Sequence[str] = (),
    progress: str | None = None,
) -> WordLabels:
    """The most likely label of every word, read at its first token.

    Args:
        architecture: a `TokenClassifier` without its numbers.
        params: its numbers.
        tokenizer: the model's own.
        sentences: the words of each, without white space in them.
        depth: solver, steps and schedule; full depth when None.
        batch_size: rows that go through the model at once.
        frame: as of `classify_texts`.
        truncate: leave out the words of long sentences that the model cannot read instead of refusing them.
        names: what errors call the sentences; "text 1", "text 2", .. when empty.
        progress: name of a bar, shown where standard error is a terminal; None shows none.

    Raises:
        UserError: a model that labels no tokens, another model's tokenizer, a sentence that is one string, has no
            words, a word with white space or without a token of its own, or is too long; a depth that does not fit or
            chooses its own steps.
        Diverged: outputs that are not finite.
    """
    reading = TextPass(architecture, params, tokenizer, depth, batch_size, frame, truncate, names, progress)
    model = reading.model
    if not isinstance(model, TokenClassifier) or model.spans:
        raise UserError(f"{type(model).__name__} labels no tokens: give a TokenClassifier")
    check_vocabulary(model.config, tokenizer)
    texts = _texts(sentences, names)
    names = text_names(names, len(texts))
    before, after = tokenizer.around(frame)
    room = model.config.length - len(before) - len(after)
    # not `reading.rows`: where words begin is known of a text's own tokens only
    encoded = word_tokens(tokenizer, texts, names)
    reads = f", the model reads at most {room} of a text (model.length = {model.config.length})"
    cut = count_long([len(ids) for ids, _ in encoded], room, truncate, names, reads)
    ids = tuple((*before, *ids[:room], *after) for ids, _ in encoded)
    unknown = tokenizer.count_unknown(texts, [ids for ids, _ in encoded])
    rows = TokenRows(ids, len(before), len(after), cut, unknown)
    solved = reading.solve(word_outputs, rows, by_token=True)
    labels, probabilities = [], []
    for begin, (_, firsts) in zip(np.cumsum(rows.lengths) - rows.lengths, encoded, strict=True):
        found = solved.values[[begin + rows.before + place for place in firsts if place < room]]
        labels.append(tuple(map(int, found.argmax(axis=1))))
        probabilities.append(tuple(map(float, found.max(axis=1))))
    return WordLabels(tuple(labels), tuple(probabilities), rows.truncated, rows.unknown, solved.throughput)


def _texts(sentences: Iterable[Sequence[str]], names: Sequence[str]) -> list[str]:
    require(not isinstance(sentences, str), "sentences is one string: give a list of lists of words")
    texts = []
    for number, words in enumerate(sentences):
        name = names[number] if number < len(names) else f"text {number + 1}"
        require(
            isinstance(words, Sequence) and not isinstance(words, str | bytes) and len(words) > 0,
            f"{name} is no list of words; give its words one by one",
        )
        bad = next((word for word in words if not isinstance(word, str) or word.split() != [word]), None)
        require(bad is None, f"{name}: {bad!r} is no word: a text without white space")
        texts.append(" ".join(words))
    require(bool(texts), "no sentences: give at least one")
    return texts
