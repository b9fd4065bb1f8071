"""Objectives: what an update minimises of its solves."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, no_type_check

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float

from jaxode.config import DepthConfig, ModelConfig, ObjectiveConfig
from jaxode.config.objective import WEIGHTS
from jaxode.data import Batch
from jaxode.depth import Coefficients, draw_sizes, secant
from jaxode.evaluation.labels import class_divergence, class_loss, row_weights
from jaxode.evaluation.loss import batch_inputs, kl_divergence, token_loss
from jaxode.model import Encoder, SequenceClassifier, plan, resolve
from jaxode.training.curriculum import Solves
from jaxode.training.terms import reads_trace, term_mean
from jaxode.types import Key, Scalar


@no_type_check  # JAX rebuilds pytrees with leaves of any kind
@struct.dataclass
class Terms:
    """An objective and its terms, each a sum that adds up over micro-batches and devices.

    Attributes:
        total: what the gradient is of.
        loss: of the main solve, nats per predicted token, or of a classifier per text; of an encoder the mean square
            distance of a channel's states to the teacher's.
        others: the further terms by name, before their weights.
    """

    total: Scalar
    loss: Scalar
    others: dict[str, Scalar]


@no_type_check
@struct.dataclass
class Counts:
    """Of the whole batch: what sums are divided by."""

    tokens: Scalar
    positions: Scalar


def count(batch: Batch) -> Counts:
    """Predicted tokens, and positions that hold text."""
    return Counts(jnp.sum(batch.weights), jnp.sum(batch.segments > 0).astype(jnp.float32))


def objective_terms(
    model: Any,
    batch: Batch,
    solves: Solves,
    objective: ObjectiveConfig,
    depth: DepthConfig,
    counts: Counts,
    *,
    document_mask: bool,
    key: Key | None,
    schedule_key: Key,
    teacher: Any = None,
) -> Terms:
    """The objective on a part of a batch; traceable and differentiable.

    Args:
        model: with its parameters.
        batch: the part.
        solves: how many steps.
        objective: which terms, with which weights.
        depth: solver, schedule and adjoint of the main solve; an objective's spacing takes the schedule's place.
        counts: of the whole batch.
        document_mask: keep attention within documents.
        key: of dropout; None turns it off.
        schedule_key: of drawn schedules; the same for all parts of a batch.
        teacher: the model that teaches, with its parameters, where the objective names one.
    """
    # weights in training hold no calibration
    objective, depth = objective.resolved, resolve(model.config, depth)
    inputs, encodes = batch_inputs(batch, model.config.kind, document_mask), isinstance(model, Encoder)
    labelled = isinstance(model, SequenceClassifier)
    targets, weights = jnp.asarray(batch.targets), jnp.asarray(batch.weights)
    real = jnp.asarray(batch.segments) > 0

    def solve(steps: int, solver: str, key_of: Key, trace: bool = False) -> Any:
        chosen, coefficients = _depth(model.config, depth, objective.spacing, steps, solver, key_of)
        tokens = jnp.asarray(batch.tokens)
        return model(tokens, chosen, **inputs, key=key, coefficients=coefficients, trace=trace)

    def nats(logits: Any) -> Scalar:
        if labelled:
            each = class_loss(logits, jnp.asarray(batch.wanted), model.problem_type)
            return jnp.sum(each * row_weights(batch)) / counts.tokens
        return token_loss(logits, targets, weights).nats / counts.tokens

    def divergence(out: Any) -> Scalar:
        if labelled:
            each = class_divergence(reference.logits, out.logits, model.problem_type)
            return jnp.sum(each * row_weights(batch)) / counts.tokens
        return kl_divergence(jax.nn.log_softmax(reference.logits), out.logits, weights) / counts.tokens

    def distance(out: Any) -> Scalar:
        each = jnp.mean(jnp.square(out.state - reference.state), axis=-1)
        return jnp.sum(jnp.where(real, each, 0.0)) / counts.positions

    def own(out: Any) -> Scalar:
        return distance(out) if encodes else nats(out.logits)

    keys = jax.random.split(schedule_key)
    traced = bool(objective.exits) or objective.collinear > 0 or reads_trace(objective)
    main = solve(solves.main, depth.solver, keys[0], traced)
    taught = objective.teacher == "init"
    reference = jax.lax.stop_gradient(teacher(jnp.asarray(batch.tokens), **inputs) if taught else main)
    loss = own(main)
    others: dict[str, Scalar] = {}
    states: Any = None if main.trace is None else main.trace.states
    if objective.exits:
        _, context = model.start(jnp.asarray(batch.tokens), **inputs)
        others["exit_loss"] = _exit_loss(model, states, objective.exit_shares, nats, inputs["segments"], context)
    if objective.collinear:
        others["collinear"] = _turning(states, real) / counts.positions
    short = None if solves.short is None else solve(solves.short, objective.short_solver, keys[1])
    if short is not None and objective.short_loss:
        others["short_loss"] = own(short)
    learners = [one for one in (main if taught else None, short) if one is not None]
    if learners and objective.distil:
        others["distil"] = jnp.mean(jnp.stack([divergence(one) for one in learners]))
    if learners and objective.match:
        others["match"] = jnp.mean(jnp.stack([distance(one) for one in learners]))
    further = dict(objective.weighted_terms)
    others |= {name: term_mean(name, main, batch, weights, counts.tokens) for name in further}
    weight_of = {name: getattr(objective, name) for name in WEIGHTS} | further
    total = objective.main_loss * loss + sum(weight_of[name] * term for name, term in others.items())
    return Terms(total=total, loss=loss, others=others)


def _exit_loss(model: Any, states: Any, shares: Sequence[float], nats: Any, segments: Any, context: Any) -> Scalar:
    """Mean loss of the read-outs after these shares of a solve's steps, through coda and head, as exits read them."""
    steps = len(states) - 1
    indices = sorted({min(max(1, round(share * steps)), steps) for share in shares})
    leave = model.stack.leave
    return jnp.mean(jnp.stack([nats(model.read_out(leave(states[index], context), segments)) for index in indices]))


def _turning(states: Float[Array, "N_plus_1 B L D"], real: Any) -> Scalar:
    """1 - cosine of consecutive increments, averaged along depth, summed over positions."""
    increments = jnp.diff(states, axis=0)
    # a square root at 0 has no gradient
    sizes = jnp.sqrt(jnp.sum(jnp.square(increments), axis=-1) + 1e-12)
    cosines = jnp.sum(increments[1:] * increments[:-1], axis=-1) / (sizes[1:] * sizes[:-1])
    if not len(cosines):
        return jnp.zeros(())
    return jnp.sum(jnp.where(real, jnp.mean(1.0 - cosines, axis=0), 0.0))


def _depth(
    model: ModelConfig, depth: DepthConfig, spacing: str, steps: int, solver: str, key: Key
) -> tuple[DepthConfig, Coefficients | None]:
    """How to run `steps` steps: a static schedule, or one drawn here, as coefficients with times of their own."""
    full = model.steps if depth.steps is None else depth.steps
    if steps == full:
        return dataclasses.replace(depth, steps=steps, solver=solver), None
    if steps >= model.steps or spacing in ("even", "unit"):
        schedule = "unit" if spacing == "unit" and steps < model.steps else "even"
        return dataclasses.replace(depth, steps=steps, solver=solver, schedule=schedule), None
    weights, starts = [], []
    groups = zip(plan(model, DepthConfig()), plan(model, DepthConfig(steps=steps)), strict=True)
    for index, (full, short) in enumerate(groups):
        sizes = draw_sizes(jax.random.fold_in(key, index), full.steps, short.steps, spacing)
        weights.append(secant(sizes) if solver == "secant" else sizes[:, None])
        starts.append(jnp.concatenate([jnp.zeros(1), jnp.cumsum(sizes)[:-1]]))
    coefficients = Coefficients(jnp.concatenate(weights), starts=jnp.concatenate(starts))
    return dataclasses.replace(depth, steps=steps, solver="calibrated", schedule="even"), coefficients
