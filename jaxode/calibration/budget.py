"""How few steps a budget allows: a share of the block evaluations, or a loss increase with a stated confidence."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jaxode.config import DepthConfig, ModelConfig, UserError, require
from jaxode.data import Batch
from jaxode.evaluation.loss import batch_segments, row_loss
from jaxode.model import block_evaluations
from jaxode.model.parameters import Architecture, Parameters

FULL_DEPTH = DepthConfig(solver="euler")
CEILING = 1.0
"""Nats per token at which the increase of one sequence is cut off, both ways: a bound needs bounded numbers."""


@dataclass(frozen=True)
class Choice:
    """The depth that a budget allows, and why."""

    depth: DepthConfig
    reason: str


def within_share(model: ModelConfig, depths: Sequence[DepthConfig], share: float) -> Choice:
    """The most steps whose block evaluations stay within `share` of the full depth's, among `depths`.

    Raises:
        UserError: no depth is that cheap; the message names the cheapest.
    """
    require(0.0 < share <= 1.0, f"budget = {share}: a share of the block evaluations, above 0 and at most 1")
    full = block_evaluations(model)
    costs = {depth: block_evaluations(model, depth) / full for depth in (FULL_DEPTH, *depths)}
    allowed = [depth for depth, cost in costs.items() if cost <= share + 1e-9]
    if not allowed:
        cheapest = min(costs, key=lambda depth: costs[depth])
        raise UserError(
            f"budget = {share:g}: the cheapest depth at hand, {_name(model, cheapest)}, takes {costs[cheapest]:.2f} of "
            "the block evaluations; calibrate for fewer steps (--task calibrate --steps n), or raise it"
        )
    best = max(allowed, key=lambda depth: costs[depth])
    return Choice(best, f"{_name(model, best)}: {costs[best]:.2f} of the block evaluations of the full depth")


def within_increase(
    architecture: Architecture,
    params: Parameters,
    batches: Iterable[Batch],
    depths: Sequence[DepthConfig],
    limit: float,
    *,
    confidence: float = 0.95,
    document_mask: bool = False,
) -> Choice:
    """The fewest steps whose mean loss increase over the full depth is below `limit`, with `confidence`.

    Depths are tested from the dearest down until one fails, so that the chance of any wrong acceptance stays below
    1 - confidence (fixed-sequence testing in Angelopoulos et al. 2021, Learn then Test). Sequences count as independent
    draws from the text that the model will see; the increase of one is cut off at +-1 nat per token.

    Raises:
        UserError: not even the dearest depth passes; the message names the increase that it reached.
    """
    require(limit > 0, f"max_loss_increase = {limit}: nats per token, above 0")
    require(0.0 < confidence < 1.0, f"confidence = {confidence}: must lie between 0 and 1")
    model: ModelConfig = architecture.bind(params).config
    batches = list(batches)
    full = _row_losses(architecture, params, batches, FULL_DEPTH, document_mask)
    chosen: Choice | None = None
    reached = "none is calibrated; run --task calibrate --steps n first"
    for depth in sorted(depths, key=lambda depth: -block_evaluations(model, depth)):
        increase = _row_losses(architecture, params, batches, depth, document_mask) - full
        evidence = p_value(increase, limit)
        found = f"{_name(model, depth)}: loss +{increase.mean():.4f} nats per token on {len(increase)} sequences"
        if evidence > 1 - confidence:
            reached = f"{found}, which leaves a chance of {min(evidence, 1.0):.2g} that the true mean is above"
            break
        chosen = Choice(depth, f"{found}, below {limit:g} with confidence {confidence:g}")
    if chosen is None:
        raise UserError(f"max_loss_increase = {limit:g} cannot be promised with confidence {confidence:g}: {reached}")
    return chosen


def p_value(increases: Float[np.ndarray, " S"], limit: float) -> float:
    """Of the hypothesis that the mean increase is `limit` or more, without assuming a distribution.

    A bet against it: the capital prod_s (1 + b_s (limit - x_s)) with stakes b_s >= 0 that look only at earlier
    sequences can exceed 1/p with probability p at most (Ville). Stakes are about the growth-optimal ones, mean / mean
    square of limit - x so far (Waudby-Smith & Ramdas 2024, section 4).
    """
    gains = limit - np.clip(increases, -CEILING, CEILING)
    most = 0.9 / (CEILING - limit) if limit < CEILING else math.inf
    # the first square is a guess that keeps the first stakes small; any guess keeps the bound
    total, squares, capital, best = 0.0, 0.01 * CEILING**2, 0.0, 0.0
    for count, gain in enumerate(gains):
        stake = min(max(total / squares, 0.0), most) if count else 0.0
        capital += math.log1p(stake * gain)
        best = max(best, capital)
        total, squares = total + gain, squares + gain**2
    return math.exp(-best)


def _row_losses(
    architecture: Architecture, params: Parameters, batches: Sequence[Batch], depth: DepthConfig, document_mask: bool
) -> np.ndarray:
    """Mean nats per predicted token of every row that has one."""
    losses = []
    for batch in batches:
        nats, tokens = _rows(params, batch, architecture=architecture, depth=depth, document_mask=document_mask)
        kept = np.asarray(tokens) > 0
        losses.append(np.asarray(nats)[kept] / np.asarray(tokens)[kept])
    return np.concatenate(losses)


@partial(jax.jit, static_argnames=("architecture", "depth", "document_mask"))
def _rows(params: Parameters, batch: Batch, *, architecture: Architecture, depth: DepthConfig, document_mask: bool):
    model = architecture.bind(params)
    out = model(jnp.asarray(batch.tokens), depth, segments=batch_segments(batch, model.config.kind, document_mask))
    return row_loss(out.logits, jnp.asarray(batch.targets), jnp.asarray(batch.weights))


def _name(model: ModelConfig, depth: DepthConfig) -> str:
    solver = "" if depth.solver == "auto" else f" ({depth.solver})"
    return f"{depth.steps or model.steps} steps{solver}"
