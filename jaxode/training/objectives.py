"""Objectives: in how many steps an update solves its batch, and what of these solves it minimises."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, no_type_check

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float

from jaxode.config import Config, DepthConfig, ModelConfig, ObjectiveConfig, UserError, parse_counts, require
from jaxode.data import Batch
from jaxode.depth import Coefficients, draw_sizes, secant
from jaxode.evaluation import default_steps
from jaxode.evaluation.loss import batch_segments, kl_divergence, token_loss
from jaxode.model import ModelOutput, flops_per_token, plan
from jaxode.model.cost import block_evaluations
from jaxode.types import Key, Scalar

DIVISORS = (1, 2, 3, 4, 6)
SIGMA = 0.5
"""Of the logarithm of the Poisson mean (Geiping et al. 2025, section 3.3)."""


@dataclass(frozen=True)
class Solves:
    """Step counts of one update: static, one compiled program for each value."""

    main: int
    short: int | None = None


class Curriculum:
    """Which solves each update makes: a function of (seed, update) alone, from a small fixed set.

    Raises:
        UserError: step counts, spacing or conditioning that do not fit the model.
    """

    def __init__(self, config: Config):
        """Resolve the step counts of `config.objective` for the model."""
        model, depth, own = config.model, config.depth, config.objective.resolved
        self._seed, self._updates = config.train.seed, config.train.updates
        self.full = model.steps if depth.steps is None else depth.steps
        _check(model, depth, config.objective)
        self._rule, self._main = _choices("steps", own.steps, model)
        self._short_rule, self._short = _choices("short", own.short, model)
        if self._rule == "grow" and not parse_counts(own.steps)[1]:
            self._main = tuple(steps for steps in self._main if self.full // steps in (4, 2, 1))
        require(
            self._rule != "grow" or self._main[-1:] == (self.full,),
            f'objective.steps = "{own.steps}" ends with {self._main[-1] if self._main else None}: depth must grow to '
            f"the full {self.full} steps",
        )
        self._short = tuple(steps for steps in self._short if steps < self.full)
        require(
            not own.short or bool(self._short),
            f'objective.short = "{own.short}": no step count below the full depth of {self.full} fits the layout',
        )

    def at(self, update: int) -> Solves:
        """The solves of an update, counted from 0."""
        rng = np.random.default_rng((self._seed, update, 0x0DE))
        reached = min(update * len(self._main) // self._updates, len(self._main) - 1)
        if self._rule == "grow":
            main = self._main[reached]
        elif self._rule == "widen":
            main = _draw(rng, "inverse", self._main[: reached + 1])
        else:
            main = _draw(rng, self._rule, self._main) if self._main else self.full
        shorter = [steps for steps in self._short if steps < main]
        return Solves(main, _draw(rng, self._short_rule, shorter) if shorter else None)


@dataclass(frozen=True)
class Cost:
    """Of one update or of several, forward and backward; recomputation is no progress and is not counted."""

    block_evaluations: int
    """Applications of a block in the forward solves."""
    flops: int
    """Per token: three times the forward pass."""


@cache
def cost(model: ModelConfig, depth: DepthConfig, objective: ObjectiveConfig, solves: Solves) -> Cost:
    """Per token of one update."""
    objective = objective.resolved
    main = dataclasses.replace(depth, steps=solves.main, schedule="even")
    each = [main] + ([_static(solves.short)] if solves.short is not None else [])
    evaluations = sum(block_evaluations(model, one) for one in each)
    flops = sum(flops_per_token(model, one).total for one in each)
    flops += len(objective.exit_shares) * flops_per_token(model).head
    return Cost(evaluations, 3 * flops)


@no_type_check  # JAX rebuilds pytrees with leaves of any kind
@struct.dataclass
class Terms:
    """An objective and its terms, each a sum that adds up over micro-batches and devices.

    Attributes:
        total: what the gradient is of.
        loss: of the main solve, nats per predicted token.
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
    """
    objective = objective.resolved
    segments = batch_segments(batch, model.config.kind, document_mask)
    targets, weights = jnp.asarray(batch.targets), jnp.asarray(batch.weights)
    real = jnp.asarray(batch.segments) > 0

    def solve(steps: int, solver: str, key_of: Key, trace: bool = False) -> ModelOutput:
        chosen, coefficients = _depth(model.config, depth, objective.spacing, steps, solver, key_of)
        tokens = jnp.asarray(batch.tokens)
        return model(tokens, chosen, segments=segments, key=key, coefficients=coefficients, trace=trace)

    def nats(logits: Any) -> Scalar:
        return token_loss(logits, targets, weights).nats / counts.tokens

    keys = jax.random.split(schedule_key)
    traced = bool(objective.exits) or objective.collinear > 0
    main = solve(solves.main, depth.solver, keys[0], traced)
    loss = nats(main.logits)
    others: dict[str, Scalar] = {}
    if traced:
        assert main.trace is not None
        states = main.trace.states
        if objective.exits:
            others["exit_loss"] = _exit_loss(model, states, objective.exit_shares, nats, segments)
        if objective.collinear:
            others["collinear"] = _turning(states, real) / counts.positions
    if solves.short is not None:
        short = solve(solves.short, objective.short_solver, keys[1])
        reference = jax.lax.stop_gradient(main)
        if objective.short_loss:
            others["short_loss"] = nats(short.logits)
        if objective.distil:
            expected = jax.nn.log_softmax(reference.logits)
            others["distil"] = kl_divergence(expected, short.logits, weights) / counts.tokens
        if objective.match:
            distance = jnp.mean(jnp.square(short.state - reference.state), axis=-1)
            others["match"] = jnp.sum(jnp.where(real, distance, 0.0)) / counts.positions
    total = loss + sum(getattr(objective, name) * term for name, term in others.items())
    return Terms(total=total, loss=loss, others=others)


def _exit_loss(model: Any, states: Any, shares: Sequence[float], nats: Any, segments: Any) -> Scalar:
    """Mean loss of the read-outs after these shares of a solve's steps, through the head alone."""
    steps = len(states) - 1
    indices = sorted({min(max(1, round(share * steps)), steps) for share in shares})
    return jnp.mean(jnp.stack([nats(model.read_out(states[index], segments)) for index in indices]))


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
    groups = zip(plan(model, DepthConfig()), plan(model, _static(steps)), strict=True)
    for index, (full, short) in enumerate(groups):
        sizes = draw_sizes(jax.random.fold_in(key, index), full.steps, short.steps, spacing)
        weights.append(secant(sizes) if solver == "secant" else sizes[:, None])
        starts.append(jnp.concatenate([jnp.zeros(1), jnp.cumsum(sizes)[:-1]]))
    coefficients = Coefficients(jnp.concatenate(weights), starts=jnp.concatenate(starts))
    return dataclasses.replace(depth, steps=steps, solver="calibrated", schedule="even"), coefficients


def _static(steps: int) -> DepthConfig:
    return DepthConfig(steps=steps)


def _draw(rng: np.random.Generator, rule: str, choices: Sequence[int]) -> int:
    """Uniform, inverse to the steps, or the choice nearest to a log-normal Poisson draw with the choices' mean."""
    if rule == "uniform":
        return int(rng.choice(choices))
    if rule == "inverse":
        shares = 1.0 / np.asarray(choices)
        return int(rng.choice(choices, p=shares / shares.sum()))
    mean = sum(choices) / len(choices)
    rate = math.exp(rng.normal(math.log(mean) - SIGMA**2 / 2, SIGMA))
    drawn = rng.poisson(rate) + 1
    return min(choices, key=lambda steps: abs(steps - drawn))


def _choices(key: str, text: str, model: ModelConfig) -> tuple[str, tuple[int, ...]]:
    """Rule and step counts; without any, the divisions of N that fit the layout."""
    if not text:
        return "", ()
    rule, counts = parse_counts(text)
    if counts:
        for steps in counts:
            try:
                plan(model, _static(steps))
            except UserError as error:
                raise UserError(f'objective.{key} = "{text}": {error}') from None
        return rule, counts
    return rule, tuple(sorted(default_steps(model, DIVISORS)))


def _check(model: ModelConfig, depth: DepthConfig, objective: ObjectiveConfig) -> None:
    """Refuse an objective that needs what the model or the solver lacks."""
    own = objective.resolved
    require(
        model.sharing != "none" or own == ObjectiveConfig().resolved,
        f'objective.name = "{objective.name}" with model.sharing = "none": an unshared model has one depth only; leave '
        "every setting of objective as it is",
    )
    require(
        objective.name != "loopformer" or model.conditioning in ("step", "loopformer"),
        f'objective.name = "loopformer" with model.conditioning = "{model.conditioning}": its blocks are told t and '
        'the step; set model.conditioning = "loopformer", or "step"',
    )
    draws = own.spacing not in ("even", "unit")
    require(
        not (draws and bool(own.steps)) or depth.solver == "euler",
        f'objective.spacing = "{own.spacing}" with depth.solver = "{depth.solver}": schedules are drawn for "euler"',
    )
    require(
        not own.steps or depth.schedule == "even",
        f'objective.steps = "{own.steps}" with depth.schedule = "{depth.schedule}": objective.spacing chooses the '
        "schedules; leave depth.schedule even",
    )
    for key in ("steps", "short"):
        _, counts = parse_counts(getattr(own, key))
        for steps in counts:
            require(
                not draws or steps <= model.steps,
                f'objective.{key} = "{getattr(own, key)}" with objective.spacing = "{own.spacing}": schedules of whole '
                f"steps have at most N = {model.steps} of them",
            )
