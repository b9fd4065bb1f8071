"""Texts as vectors: states at the end of depth, one a text or one a token."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxode.checkpoint import takes_tokenizer
from jaxode.config import DepthConfig, require
from jaxode.data import Tokenizer
from jaxode.inference.texts.batch_pass import Throughput
from jaxode.inference.texts.text_pass import TextPass
from jaxode.inference.texts.token_ids import Frame
from jaxode.model import normalised
from jaxode.model.parameters import Architecture, Parameters
from jaxode.types import Segments, Tokens

Pooling = Literal["mean", "first", "none"]
"""One vector a text: the mean of its tokens' states, or the first one's; or the state of every token."""


@dataclass(frozen=True)
class TextVectors:
    """Of every text, in the order of the input."""

    vectors: Float[np.ndarray, "rows D"]
    """One row a text; with pooling "none" one a token, the texts one after the other."""
    lengths: Int[np.ndarray, " texts"]
    """Tokens of every text, those around it included."""
    truncated: int
    """Texts that were cut to the model's length."""
    unknown: int
    """Tokens of the texts that stand for what the tokenizer does not know."""
    throughput: Throughput

    @property
    def solver(self) -> str:
        """The one that ran."""
        return self.throughput.solver

    def of(self, text: int) -> Float[np.ndarray, "tokens D"]:
        """The rows of one text, counted from 0."""
        if len(self.vectors) == len(self.lengths) != int(self.lengths.sum()):
            return self.vectors[text : text + 1]
        start = int(self.lengths[:text].sum())
        return self.vectors[start : start + int(self.lengths[text])]


@partial(jax.jit, static_argnames=("architecture", "depth", "pooling"))
def text_states(
    params: Parameters,
    tokens: Tokens,
    segments: Segments,
    *,
    architecture: Architecture,
    depth: DepthConfig,
    pooling: Pooling,
) -> Float[Array, "B *L D"]:
    """The states of a batch behind the model's final norm, pooled over real tokens."""
    model = architecture.bind(params)
    state = normalised(model, model.hidden(tokens, depth, segments=segments).state)
    if pooling == "none":
        return state
    if pooling == "first":
        return state[:, 0]
    real = (segments > 0)[..., None]
    return jnp.sum(jnp.where(real, state, 0.0), axis=1) / jnp.maximum(jnp.sum(real, axis=1), 1)


@takes_tokenizer
def encode_texts(
    architecture: Architecture,
    params: Parameters,
    tokenizer: Tokenizer,
    texts: Iterable[str],
    *,
    pooling: str = "mean",
    depth: DepthConfig | None = None,
    batch_size: int = 32,
    frame: Frame = None,
    truncate: bool = False,
    names: Sequence[str] = (),
    progress: str | None = None,
) -> TextVectors:
    """Vectors of texts, from the states at the end of depth; behind the final norm where the model has one.

    Args:
        architecture: any model of `jaxode.model` without its numbers.
        params: its numbers.
        tokenizer: the model's own.
        texts: each at most L tokens long, frame included; special tokens written out in them are plain text.
        pooling: "mean" over a text's tokens, those of the frame included; "first", the one at place 0, as BERT's
            [CLS]; or "none", the state of every token.
        depth: solver, steps and schedule; full depth when None.
        batch_size: rows that go through the model at once.
        frame: put each text within the tokenizer's template ([CLS] text [SEP]), or between two named entries of the
            vocabulary; None does the former where the model was trained so (`Tokenizer.framed`).
        truncate: cut longer texts to their first tokens instead of refusing them.
        names: what errors call the texts; "text 1", "text 2", .. when empty.
        progress: name of a bar, shown where standard error is a terminal; None shows none.

    Raises:
        UserError: an unknown pooling, or "first" of a causal model, whose first token sees no other; another model's
            tokenizer, one string in place of several, no text, one without tokens or too long, a depth that does not
            fit or chooses its own steps, or a batch that does not fit into memory.
        Diverged: states that are not finite.
    """
    require(pooling in get_args(Pooling), f'pooling = "{pooling}": allowed are {", ".join(get_args(Pooling))}')
    reading = TextPass(architecture, params, tokenizer, depth, batch_size, frame, truncate, names, progress)
    require(
        pooling != "first" or reading.model.config.kind == "masked",
        'pooling = "first": the first token of a causal model sees no other; use "mean" or "none"',
    )
    rows = reading.rows(texts)
    program = partial(text_states, pooling=pooling)
    solved = reading.solve(program, rows, by_token=pooling == "none", dtype=np.float32)
    return TextVectors(solved.values, rows.lengths, rows.truncated, rows.unknown, solved.throughput)
