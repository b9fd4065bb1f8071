"""Whether a causal model answers right: every token the likeliest one, behind the question and the answer so far.

That is what greedy decoding gives, found in one forward pass.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jaxode.checkpoint import takes_params
from jaxode.config import DepthConfig, require
from jaxode.data import Batch
from jaxode.evaluation.divergence import diverged
from jaxode.evaluation.loss import batch_inputs, token_loss
from jaxode.model.parameters import Architecture, Parameters


@dataclass(frozen=True)
class AnswerEvaluation:
    """How many of some answers are right, at one depth."""

    exact: float
    """Share of answers all of whose tokens are right."""
    tokens: float
    """Share of the answers' tokens that are right."""
    nats_per_token: float
    """Mean loss of the answers' tokens."""
    answers: int
    block_evaluations: int | float
    solver: str
    """The one that ran."""


@partial(jax.jit, static_argnames=("architecture", "depth"))
def _right(
    params: Parameters, batch: Batch, *, architecture: Architecture, depth: DepthConfig
) -> tuple[Bool[Array, "B L"], Bool[Array, ""], Float[Array, ""], Any]:
    model = architecture.bind(params)
    out = model(jnp.asarray(batch.tokens), depth, **batch_inputs(batch, model.config.kind, True))
    finite = jnp.all(jnp.isfinite(jnp.where(jnp.asarray(batch.weights)[..., None] > 0, out.logits, 0.0)))
    targets = jnp.asarray(batch.targets)
    nats = token_loss(out.logits, targets, jnp.asarray(batch.weights)).nats
    return out.logits.argmax(axis=-1) == targets, finite, nats, out.block_evaluations


@takes_params
def evaluate_answers(
    architecture: Architecture, params: Parameters, batches: Iterable[Batch], depth: DepthConfig
) -> AnswerEvaluation:
    """Exact matches over rows of whole texts, of which only answers are predicted (`data.answer_after`).

    Args:
        architecture: a causal language model without its numbers.
        params: its numbers.
        batches: as of `PreparedData.validation`.
        depth: of every solve.

    Raises:
        UserError: another kind of model, or no answer.
        Diverged: predictions that are not finite.
    """
    model = architecture.bind(params)
    require(
        model.config.learns == "causal",
        f"answers are predicted token by token: needs a causal model, this one is {model.config.learns}",
    )
    depth = model.resolve(depth)
    exact = tokens = answers = predicted = count = 0
    nats = evaluations = 0.0
    for batch in batches:
        found, finite, loss, used = jax.device_get(_right(params, batch, architecture=architecture, depth=depth))
        if not finite:
            inputs = batch_inputs(batch, model.config.kind, True)
            raise diverged("a prediction", architecture, params, batch.tokens, inputs, depth)
        counts, segments = np.asarray(batch.weights) > 0, np.asarray(batch.segments)
        for row, real, number in zip(found, counts, segments, strict=True):
            # the number of an answer's text is that of the tokens before it
            for text in np.unique(number[real]):
                right = row[real & (number == text)]
                exact, answers = exact + int(right.all()), answers + 1
                tokens, predicted = tokens + int(right.sum()), predicted + len(right)
        nats, evaluations, count = nats + float(loss), evaluations + float(used), count + 1
    require(answers > 0, "nothing to evaluate: no text has an answer")
    blocks = evaluations / count
    return AnswerEvaluation(
        exact / answers,
        tokens / predicted,
        nats / predicted,
        answers,
        round(blocks) if blocks == round(blocks) else blocks,
        depth.solver,
    )
