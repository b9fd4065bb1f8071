"""How few steps a budget allows: a share of the block evaluations, or a loss increase with a stated confidence."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from jaxode.checkpoint import takes_params
from jaxode.config import DepthConfig, ModelConfig, UserError, require
from jaxode.data import Batch
from jaxode.evaluation.labels import class_loss
from jaxode.evaluation.loss import batch_inputs, row_loss
from jaxode.model import Encoder, SequenceClassifier, TokenClassifier, block_evaluations, normalised
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


@takes_params
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
    draws from the text that the model will see; the increase of one is cut off at +-1 nat per token. A depth at
    which a solve is not finite is never chosen. For want of labels, a classifier's loss is that of what the full
    depth decides: the likeliest class, or yes or no for each of several labels; nats per sequence.

    A loaded model may stand for architecture and params.

    Raises:
        UserError: a model without such a loss, a regression, a limit outside (0, 1), or not even the dearest depth
            passes; the message names the increase that it reached.
    """
    require(
        0.0 < limit < CEILING,
        f"max_loss_increase = {limit}: nats per token, above 0 and below {CEILING:g}, where increases are cut off",
    )
    model = architecture.bind(params)
    require(
        not _states_alone(model),
        f"max_loss_increase = {limit}: {type(model).__name__} is measured by its states; bound their error with "
        "within_error",
    )
    batches = list(batches)
    classifier = model if isinstance(model, SequenceClassifier) else None
    labels = None
    if classifier is not None:
        _require_labels(classifier, f"max_loss_increase = {limit}")
        labels = _decided(classifier, _class_logits(architecture, params, batches, FULL_DEPTH))

    def losses(depth: DepthConfig) -> np.ndarray:
        if classifier is None:
            return np.asarray(_row_losses(architecture, params, batches, depth, document_mask))
        logits = _class_logits(architecture, params, batches, depth)
        return np.asarray(class_loss(jnp.asarray(logits), jnp.asarray(labels, jnp.float32), classifier.problem_type))

    full, unit = losses(FULL_DEPTH), "token" if labels is None else "sequence"
    return _within(
        model,
        depths,
        limit,
        confidence,
        measure=lambda depth: losses(depth) - full,
        name="max_loss_increase",
        told=lambda mean: f"loss {mean:+.4f} nats per {unit}",
    )


@takes_params
def within_flips(
    architecture: Architecture,
    params: Parameters,
    batches: Iterable[Batch],
    depths: Sequence[DepthConfig],
    limit: float,
    *,
    confidence: float = 0.95,
) -> Choice:
    """The fewest steps at which a classifier changes less than `limit` of the labels that it gives at full depth.

    The same test as that of `within_increase`, on 1 for a sequence whose label is another one, or of several labels at
    least one, and 0 for one that stays. A loaded model may stand for architecture and params.

    Raises:
        UserError: no classifier, a regression, or not even the dearest depth passes; the message names the share that
            it reached.
    """
    require(0.0 < limit < 1.0, f"max_label_flips = {limit}: a share of the labels, above 0 and below 1")
    model = architecture.bind(params)
    require(
        isinstance(model, SequenceClassifier),
        f"max_label_flips = {limit}: {type(model).__name__} labels no whole text; use "
        f"{'within_error' if _states_alone(model) else 'within_increase'}",
    )
    _require_labels(model, f"max_label_flips = {limit}")
    batches = list(batches)
    full = _decided(model, _class_logits(architecture, params, batches, FULL_DEPTH))

    def flips(depth: DepthConfig) -> np.ndarray:
        logits = _class_logits(architecture, params, batches, depth)
        return np.where(np.isfinite(logits).all(axis=1), (_decided(model, logits) != full).any(axis=1), np.nan)

    return _within(
        model,
        depths,
        limit,
        confidence,
        measure=flips,
        name="max_label_flips",
        told=lambda mean: f"{mean:.2%} of the labels changed",
    )


@takes_params
def within_error(
    architecture: Architecture,
    params: Parameters,
    batches: Iterable[Batch],
    depths: Sequence[DepthConfig],
    limit: float,
    *,
    confidence: float = 0.95,
) -> Choice:
    """The fewest steps at which the relative error of an encoder's states is below `limit`, with `confidence`.

    The same test as that of `within_increase`, on the mean squared error of every sequence's states over their
    variance at full depth, against `limit` squared. A loaded model may stand for architecture and params.

    Raises:
        UserError: not even the dearest depth passes; the message names the error that it reached.
    """
    require(0.0 < limit < 1.0, f"max_error = {limit}: a relative error, above 0 and below 1")
    model, batches = architecture.bind(params), list(batches)
    full = [_states(params, batch, architecture=architecture, depth=FULL_DEPTH) for batch in batches]
    real = [np.asarray(batch.segments) > 0 for batch in batches]
    every = np.concatenate([np.asarray(states)[kept] for states, kept in zip(full, real, strict=True)])
    variance = float(np.mean(np.sum(np.square(every - every.mean(axis=0)), axis=-1)))

    def errors(depth: DepthConfig) -> np.ndarray:
        found = []
        for batch, states, kept in zip(batches, full, real, strict=True):
            short = _states(params, batch, architecture=architecture, depth=depth)
            missed = np.sum(np.square(np.asarray(short) - np.asarray(states)), axis=-1)
            rows = kept.any(axis=1)
            found.append(((missed * kept).sum(axis=1)[rows] / kept.sum(axis=1)[rows]) / variance)
        return np.concatenate(found)

    return _within(
        model,
        depths,
        limit**2,
        confidence,
        measure=errors,
        name="max_error",
        told=lambda mean: f"relative error {math.sqrt(mean):.4f}",
        shown=limit,
    )


@partial(jax.jit, static_argnames=("architecture", "depth"))
def _states(params: Parameters, batch: Batch, *, architecture: Architecture, depth: DepthConfig) -> Any:
    model = architecture.bind(params)
    inputs = batch_inputs(batch, "masked", False)
    return normalised(model, model.hidden(jnp.asarray(batch.tokens), depth, **inputs).state)


def _within(
    bound: Any,
    depths: Sequence[DepthConfig],
    limit: float,
    confidence: float,
    *,
    measure: Callable[[DepthConfig], np.ndarray],
    name: str,
    told: Callable[[float], str],
    shown: float | None = None,
) -> Choice:
    """The last depth, from the dearest down, of which `measure`, a number a sequence, is below `limit` in the mean.

    The messages call the limit `shown`, where that is another number.
    """
    bar = limit if shown is None else shown
    require(0.0 < confidence < 1.0, f"confidence = {confidence}: must lie between 0 and 1")
    model: ModelConfig = bound.config
    depths = [bound.resolve(depth) for depth in depths]
    chosen: Choice | None = None
    reached = "none is calibrated; run --task calibrate --steps n first"
    for depth in sorted(depths, key=lambda depth: -block_evaluations(model, depth)):
        increase = np.asarray(measure(depth), np.float64)
        lost = np.count_nonzero(~np.isfinite(increase))
        if lost:
            reached = f"{_name(model, depth)}: the solve is not finite on {lost} of {len(increase)} sequences"
            break
        evidence = p_value(increase, limit)
        found = f"{_name(model, depth)}: {told(float(increase.mean()))} on {len(increase)} sequences"
        if evidence > 1 - confidence:
            reached = f"{found}, which leaves a chance of {min(evidence, 1.0):.2g} that the true mean is above"
            break
        chosen = Choice(depth, f"{found}, below {bar:g} with confidence {confidence:g}")
    if chosen is None:
        raise UserError(f"{name} = {bar:g} cannot be promised with confidence {confidence:g}: {reached}")
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
    out = model(jnp.asarray(batch.tokens), depth, **batch_inputs(batch, model.config.kind, document_mask))
    return row_loss(out.logits, jnp.asarray(batch.targets), jnp.asarray(batch.weights))


def _class_logits(
    architecture: Architecture, params: Parameters, batches: Sequence[Batch], depth: DepthConfig
) -> Float[np.ndarray, "S classes"]:
    """Of every sequence that holds a token."""
    logits = []
    for batch in batches:
        found = np.asarray(_classes(params, batch, architecture=architecture, depth=depth))
        logits.append(found[np.asarray(batch.segments).any(axis=1)])
    return np.concatenate(logits)


@partial(jax.jit, static_argnames=("architecture", "depth"))
def _classes(params: Parameters, batch: Batch, *, architecture: Architecture, depth: DepthConfig) -> Any:
    # who pools has to know where padding begins, causal or not
    inputs = batch_inputs(batch, "masked", False)
    return architecture.bind(params)(jnp.asarray(batch.tokens), depth, **inputs).logits


def _states_alone(model: object) -> bool:
    """Whether nothing but its states is bounded."""
    return isinstance(model, Encoder | TokenClassifier)


def _require_labels(model: SequenceClassifier, bound: str) -> None:
    require(
        model.problem_type != "regression",
        f"{bound}: this model gives numbers and no labels; choose the depth with steps or budget",
    )


def _decided(model: SequenceClassifier, logits: Float[np.ndarray, "S classes"]) -> Int[np.ndarray, "S K"]:
    """The number of the likeliest class, or 0 or 1 for each of several labels."""
    if model.problem_type == "multi_label_classification":
        return (logits > 0).astype(np.int32)
    return logits.argmax(axis=1)[:, None]


def _name(model: ModelConfig, depth: DepthConfig) -> str:
    solver = "" if depth.solver == "auto" else f" ({depth.solver})"
    return f"{depth.steps or model.steps} steps{solver}"
