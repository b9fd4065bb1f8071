"""How likely each of many texts is: log-likelihood (causal) or pseudo-log-likelihood (masked)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxode.checkpoint import takes_tokenizer
from jaxode.config import DepthConfig, UserError, require
from jaxode.data import Tokenizer
from jaxode.evaluation.loss import row_loss
from jaxode.inference.texts.batch_pass import BatchPass, Solved, Throughput
from jaxode.inference.texts.batching import RowBatch, padded, real_tokens
from jaxode.inference.texts.text_pass import TextPass
from jaxode.inference.texts.token_ids import Frame, TokenRows, text_names
from jaxode.model import CausalLM, MaskedLM
from jaxode.model.parameters import Architecture, Parameters
from jaxode.types import Segments, Tokens


@dataclass(frozen=True)
class TextScore:
    """How likely a text is."""

    nats: float
    """-log p: the sum over its predicted tokens."""
    tokens: int
    """Predicted tokens."""

    @property
    def nats_per_token(self) -> float:
        """Mean over predicted tokens; its exponential is the (pseudo-)perplexity."""
        return self.nats / self.tokens


@dataclass(frozen=True)
class TextScores:
    """Of every text, in the order of the input."""

    scores: tuple[TextScore, ...]
    truncated: int
    """Texts that were cut to the model's length."""
    unknown: int
    """Tokens of the texts that stand for what the tokenizer does not know."""
    throughput: Throughput

    @property
    def solver(self) -> str:
        """The one that ran."""
        return self.throughput.solver


# One cache for the process: other texts, batches and weights of the same shapes compile nothing.
@partial(jax.jit, static_argnames=("architecture", "depth"))
def masked_nats(
    params: Parameters,
    tokens: Tokens,
    segments: Segments,
    positions: Int[Array, " B"],
    targets: Int[Array, " B"],
    *,
    architecture: Architecture,
    depth: DepthConfig,
) -> Float[Array, " B"]:
    """-log p of one token a row, at the only position of it that goes through the head."""
    model = architecture.bind(params)
    state = model.hidden(tokens, depth, segments=segments).state
    at = jnp.take_along_axis(state, positions[:, None, None], axis=1)
    return row_loss(model.head(at, model.embedding), targets[:, None], jnp.ones(at.shape[:2]))[0]


@partial(jax.jit, static_argnames=("architecture", "depth"))
def causal_nats(
    params: Parameters,
    tokens: Tokens,
    segments: Segments,
    targets: Int[Array, "B L"],
    *,
    architecture: Architecture,
    depth: DepthConfig,
) -> Float[Array, " B"]:
    """Sum of -log p(target) over the real positions of each row; a target below 0 is not predicted."""
    logits = architecture.bind(params)(tokens, depth, segments=segments).logits
    predicted = (segments > 0) & (targets >= 0)
    return row_loss(logits, jnp.maximum(targets, 0), predicted.astype(jnp.float32))[0]


@takes_tokenizer
def score_texts(
    architecture: Architecture,
    params: Parameters,
    tokenizer: Tokenizer,
    texts: Iterable[str],
    *,
    depth: DepthConfig | None = None,
    batch_size: int = 32,
    document_mask: bool = False,
    frame: Frame = None,
    truncate: bool = False,
    names: Sequence[str] = (),
    progress: str | None = None,
) -> TextScores:
    """How likely each text is, in nats.

    A masked model gives the pseudo-log-likelihood (Salazar et al. 2020, section 2): the sum of log p(w_i | the others)
    over the text's tokens, each masked in turn, which takes one row a token. A causal one gives the log-likelihood, the
    sum of log p(w_i | w_1 .. w_i-1), where the first token follows the end token, or what the model's own tokenizer
    opens texts with (as <s> of Llama's). A causal model that was trained with `document_mask` never saw a text follow
    an end token, so its first token is given and not predicted.

    Args:
        architecture: a causal or masked model without its numbers.
        params: its numbers.
        tokenizer: the model's own.
        texts: each at most L tokens long, frame included; special tokens written out in them are plain text.
        depth: solver, steps and schedule; full depth when None.
        batch_size: rows that go through the model at once.
        document_mask: attention was kept within documents in training.
        frame: put each text within the tokenizer's template, whose tokens are not predicted (masked models only); None:
            where the model was trained so.
        truncate: cut longer texts to their first tokens instead of refusing them.
        names: what errors call the texts; "text 1", "text 2", .. when empty.
        progress: name of a bar, shown where standard error is a terminal; None shows none.

    Raises:
        UserError: a model without a vocabulary head or a mask token, another model's tokenizer, one string in place of
            several, no text, one without tokens or too long, a depth that does not fit or chooses its own steps, or a
            batch that does not fit into memory.
        Diverged: predictions that are not finite.
    """
    reading = TextPass(architecture, params, tokenizer, depth, batch_size, frame, truncate, names, progress)
    model = reading.model
    require(
        isinstance(model, CausalLM | MaskedLM),
        f"{type(model).__name__} has no head over the vocabulary, so it gives no likelihood: give a language model",
    )
    masked = isinstance(model, MaskedLM)
    require(
        masked or not frame,
        f"frame = {frame}: a causal model reads a text behind what its own tokenizer opens texts with; leave it out",
    )
    opening = tokenizer.opening or (tokenizer.end_id,)
    encoded = reading.rows(texts) if masked else reading.opened_rows(texts, opening)
    given = 1 if document_mask and not masked else 0
    if given and encoded.own.min() == 1:
        first = int(encoded.own.argmin())
        name = text_names(names, len(encoded.ids))[first]
        raise UserError(
            f"{name} has one token, which a model trained with data.document_mask is given and does not predict: "
            "remove it"
        )
    solve = reading.batches
    solved = _pseudo(solve, encoded, tokenizer) if masked else _causal(solve, encoded, tokenizer, opening, given)
    both = zip(solved.values, encoded.own - given, strict=True)
    scores = tuple(TextScore(float(nats), int(count)) for nats, count in both)
    return TextScores(scores, encoded.truncated, encoded.unknown, solved.throughput)


def _pseudo(solve: BatchPass, encoded: TokenRows, tokenizer: Tokenizer) -> Solved:
    """-sum log p of every text, from one row for each of its own tokens."""
    mask_id = tokenizer.mask_id
    if mask_id is None:
        raise UserError(f"tokenizer {tokenizer.name} has no mask token to mask with: give the model's own tokenizer")
    own = encoded.own
    text = np.repeat(np.arange(len(own)), own)
    place = encoded.before + np.arange(len(text)) - np.repeat(np.cumsum(own) - own, own)

    def inputs(batch: RowBatch) -> tuple[np.ndarray, ...]:
        rows = [encoded.ids[i] for i in text[batch.rows]]
        tokens = padded(rows, batch, tokenizer.pad_id)
        positions = np.zeros(batch.size, np.int32)
        positions[: len(batch.rows)] = place[batch.rows]
        at = np.arange(batch.size), positions
        targets = tokens[at]
        tokens[at] = mask_id
        return tokens, real_tokens(rows, batch), positions, targets

    solved = solve(masked_nats, inputs, encoded.lengths[text], texts=len(own), predicted=1)
    return Solved(np.bincount(text, weights=solved.values), solved.throughput)


def _causal(solve: BatchPass, encoded: TokenRows, tokenizer: Tokenizer, opening: tuple[int, ...], given: int) -> Solved:
    """-log p of every text but its first `given` tokens: a row each, behind `opening`, of every token but the last."""
    opening = () if given else opening
    unpredicted = (-1,) * (len(opening) - 1)

    def inputs(batch: RowBatch) -> tuple[np.ndarray, ...]:
        ids = [encoded.ids[i] for i in batch.rows]
        read = [(*opening, *row[:-1]) for row in ids]
        targets = padded([(*unpredicted, *row[given:]) for row in ids], batch, tokenizer.pad_id)
        return padded(read, batch, tokenizer.pad_id), real_tokens(read, batch), targets

    return solve(causal_nats, inputs, encoded.own - given + len(unpredicted), texts=len(encoded.ids), predicted=None)
