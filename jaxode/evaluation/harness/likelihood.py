"""How likely continuations are behind their contexts."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxode.config import DepthConfig, UserError
from jaxode.evaluation.loss import row_loss
from jaxode.inference.texts.batch_pass import BatchPass
from jaxode.inference.texts.batching import RowBatch, padded, real_tokens
from jaxode.model.parameters import Architecture, Parameters
from jaxode.types import Segments, Tokens


@partial(jax.jit, static_argnames=("architecture", "depth"))
def continuation_nats(
    params: Parameters,
    tokens: Tokens,
    segments: Segments,
    places: Int[Array, "B K"],
    targets: Int[Array, "B K"],
    *,
    architecture: Architecture,
    depth: DepthConfig,
) -> Float[Array, "B 2"]:
    """Of each row the sum of -log p over its targets from 0 on, and how many of them are not the likeliest token.

    The head reads the states at the places before them alone: most of a row is context.
    """
    model = architecture.bind(params)
    states = model.hidden(tokens, depth, segments=segments).state
    logits = model.read_out(jnp.take_along_axis(states, places[..., None], axis=1))
    predicted = targets >= 0
    nats = row_loss(logits, jnp.maximum(targets, 0), predicted.astype(jnp.float32))[0]
    missed = jnp.sum(predicted & (jnp.argmax(logits, axis=-1) != targets), axis=1)
    return jnp.stack([nats, missed.astype(jnp.float32)], axis=1)


def pair_nats(
    pairs: Sequence[Sequence[list[int]]], name: str, solve: BatchPass, *, length: int, first_id: int, pad_id: int
) -> Float[np.ndarray, "pairs 2"]:
    """-log p of the second ids of each pair behind the first, and how many a greedy choice would miss.

    Pairs that are the same go through the model once, and one without predicted ids not at all.

    Args:
        pairs: ids that are given, and ids that are predicted behind them.
        name: of the requests, as errors name it.
        solve: the model, at a depth.
        length: tokens that a row reads at most; of longer pairs the first are cut.
        first_id: stands before what has no ids before it.
        pad_id: fills rows up.

    Raises:
        UserError: predicted ids that leave no room for anything before them.
    """
    answers = np.zeros((len(pairs), 2))
    places: dict[tuple[tuple[int, ...], int], list[int]] = {}
    for number, (given, predicted) in enumerate(pairs):
        given = given or [first_id]
        if len(predicted) > length:
            raise UserError(
                f"{name}: a continuation has {len(predicted)} tokens, and the model reads {length}: nothing of its "
                "context would be left; leave that task out"
            )
        if predicted:
            row = (*given, *predicted)[-length - 1 :]
            places.setdefault((row, min(len(predicted), len(row) - 1)), []).append(number)
    rows = list(places)
    if not rows:
        return answers

    # one number for all batches: each compiles
    most = 1 << (max(count for _, count in rows) - 1).bit_length()

    def inputs(batch: RowBatch) -> tuple[np.ndarray, ...]:
        here = [rows[i] for i in batch.rows]
        read = [row[:-1] for row, _ in here]
        places = np.zeros((batch.size, min(most, batch.length)), np.int32)
        wanted = np.full_like(places, -1)
        for line, target, (row, count) in zip(places, wanted, here, strict=False):
            line[:count] = np.arange(len(row) - 1 - count, len(row) - 1)
            target[:count] = row[len(row) - count :]
        return padded(read, batch, pad_id), real_tokens(read, batch), places, wanted

    lengths = np.asarray([len(row) - 1 for row, _ in rows], np.int64)
    solved = solve(continuation_nats, inputs, lengths, texts=len(rows), predicted=None)
    for row, values in zip(rows, solved.values, strict=True):
        answers[places[row]] = values
    return answers
