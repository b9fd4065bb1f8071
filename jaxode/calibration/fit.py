"""Fit a short solve to the full one: schedule, multistep weights, low-rank correction; the model stays frozen."""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float
from tqdm import tqdm

from jaxode.calibration.search import gram, rank_schedules, sizes
from jaxode.config import DepthConfig, ModelConfig, require
from jaxode.data import Batch, PreparedData
from jaxode.depth import Coefficients
from jaxode.evaluation.loss import LossSums, batch_segments, token_loss
from jaxode.model import plan
from jaxode.model.parameters import Architecture, Parameters
from jaxode.types import Logits, Scalar

RIDGE = 1e-2
"""Of the low-rank fit, relative to the mean square of the increments."""


@dataclass(frozen=True)
class Fit:
    """How to calibrate.

    Attributes:
        memory: K, evaluations that a step combines; 1 is a fitted step size alone.
        rank: R, directions in which an increment may be turned; 0 leaves the correction out.
        candidates: schedules, the best by the full trajectory, that are fitted to a quarter of the batches to compare.
        updates: gradient steps on KL(full depth || short solve) after that; 0 leaves them out.
        learning_rate: of these updates, for the weights; the correction moves at a tenth of it.
    """

    memory: int = 2
    rank: int = 32
    candidates: int = 4
    updates: int = 40
    learning_rate: float = 2e-2

    def __post_init__(self) -> None:
        for name, least in (("memory", 1), ("rank", 0), ("candidates", 1), ("updates", 0)):
            value = getattr(self, name)
            require(value >= least, f"calibration {name} = {value}: must be at least {least}")


@dataclass(frozen=True)
class Calibration:
    """Coefficients for one number of steps, and what they reached on held-out batches."""

    steps: int
    """n, in block applications, as in `DepthConfig.steps`."""
    schedule: tuple[int, ...]
    """Step sizes in depth-time from which the fit began."""
    coefficients: Coefficients
    kl: float
    """KL(full depth || calibrated), nats per predicted token."""
    rise: float
    """Loss over the full depth's, nats per predicted token."""
    tokens: int
    """Predicted tokens of the fit."""
    seconds: float
    """Time it took."""

    @property
    def depth(self) -> DepthConfig:
        """The depth configuration to run it with."""
        return DepthConfig(steps=self.steps, solver="calibrated")


def calibration_batches(data: PreparedData, seed: int = 0, batches: int = 10, tokens: int = 2048) -> list[Batch]:
    """Training text to calibrate on: `batches` of about `tokens` tokens, whose predictions fit in memory."""
    rows = min(max(1, tokens // data.length), len(data.train_rows))
    reader = data.train(rows, seed)
    try:
        return [reader.at(step) for step in range(batches)]
    finally:
        reader.close()


def check_steps(model: ModelConfig, steps: int | None) -> None:
    """Raises UserError for a number of steps that leaves nothing to calibrate."""
    require(model.sharing != "none", "an unshared model has no steps to choose: nothing to calibrate")
    require(
        steps is not None and 1 <= steps < model.steps,
        f"calibrate for {steps} steps: must be from 1 to N - 1 = {model.steps - 1}",
    )


def calibrate(
    architecture: Architecture,
    params: Parameters,
    batches: Sequence[Batch],
    steps: int,
    fit: Fit | None = None,
    *,
    held_out: int = 2,
    document_mask: bool = False,
    progress: bool = False,
) -> Calibration:
    """Make n steps end where the full depth ends, by fitting the solver; the model's weights stay as they are.

    1. Rank whole-number schedules by how well their steps can follow the full trajectory (`search`).
    2. Step by step along the short solve's own trajectory, fit weights and correction to the full one by least squares;
       keep the schedule whose logits come nearest.
    3. Lower KL(full || short) of the logits by gradient through the solve (Adam), the two corrections included.

    Deterministic. The last `held_out` batches are not fitted on; the figures are theirs.

    Raises:
        UserError: steps that do not fit the layout or leave nothing to calibrate, or too few batches.
    """
    fit = fit or Fit()
    started = time.perf_counter()
    model: ModelConfig = architecture.bind(params).config
    check_steps(model, steps)
    fit = dataclasses.replace(fit, rank=min(fit.rank, model.width))
    groups = len(plan(model, DepthConfig(steps=steps)))
    require(
        len(batches) > held_out,
        f"{len(batches)} batches to calibrate on: at least {held_out + 1} needed; give more text",
    )
    work = _Work(architecture, params, steps, document_mask)
    fitted, held = batches[: len(batches) - held_out], batches[len(batches) - held_out :]
    work.remember(fitted)
    full = [np.asarray(work.full_states(batch)) for batch in fitted]
    candidates = _schedules(full, groups, _total(model, steps) // groups, fit.candidates)
    bar = tqdm(
        total=len(candidates) + fit.updates, desc=f"calibrating {steps} steps", disable=None if progress else True
    )
    few = slice(0, -(-len(fitted) // 4))
    found = []
    for times in candidates:
        tried = _least_squares(work, fitted[few], full[few], times, fit)
        kl = float(np.mean([work.kl(tried, batch) for batch in fitted[few]]))
        found.append((kl if np.isfinite(kl) else np.inf, times))
        bar.update()
    _, times = min(found)
    coefficients = _least_squares(work, fitted, full, times, fit)
    coefficients = _refine(work, fitted, coefficients, fit, bar.update)
    bar.close()
    kl, nats, full_nats, tokens = (
        float(np.sum(x)) for x in zip(*(work.sums(coefficients, b) for b in held), strict=True)
    )
    return Calibration(
        steps=steps,
        schedule=tuple(itertools.chain.from_iterable(sizes(part) for part in times)),
        coefficients=jax.tree.map(lambda x: np.asarray(x, np.float32), coefficients),
        kl=kl / tokens,
        rise=(nats - full_nats) / tokens,
        tokens=int(sum(batch.weights.sum() for batch in fitted)),
        seconds=time.perf_counter() - started,
    )


def _total(model: ModelConfig, steps: int) -> int:
    """Solver steps: a cycle takes all its groups in one."""
    return steps // model.groups if model.sharing == "cycle" else steps


class _Work:
    """The model's compiled functions of the coefficients."""

    def __init__(self, architecture: Architecture, params: Parameters, steps: int, document_mask: bool):
        self._params = params
        kind = architecture.bind(params).config.kind
        short = DepthConfig(steps=steps, solver="calibrated", adjoint="remat")

        def run(params: Parameters, batch: Batch, depth: DepthConfig, coefficients: Any, trace: bool = False) -> Any:
            segments = batch_segments(batch, kind, document_mask)
            model = architecture.bind(params)
            return model(jnp.asarray(batch.tokens), depth, segments=segments, coefficients=coefficients, trace=trace)

        def divergence(
            params: Parameters, coefficients: Coefficients, batch: Batch, target: Any
        ) -> tuple[Scalar, LossSums]:
            logits = run(params, batch, short, coefficients).logits
            return _kl(target, logits, batch.weights), token_loss(logits, *_of(batch))

        def full(params: Parameters, batch: Batch) -> tuple[Any, LossSums]:
            logits = run(params, batch, DepthConfig(), None).logits
            # log-probabilities in half precision: this much memory is needed for every batch of the fit
            return jax.nn.log_softmax(logits).astype(jnp.float16), token_loss(logits, *_of(batch))

        self._full = jax.jit(full)
        self._full_states = jax.jit(lambda params, batch: run(params, batch, DepthConfig(), None, True).trace.states)
        self._short_states = jax.jit(lambda params, batch, c: run(params, batch, short, c, True).trace.states)
        self._divergence = jax.jit(divergence)
        self._gradient = jax.jit(jax.grad(lambda c, params, batch, target: divergence(params, c, batch, target)[0]))
        self._targets: dict[int, Any] = {}

    def remember(self, batches: Sequence[Batch]) -> None:
        """Keep the full depth's predictions for these batches."""
        self._targets = {id(batch): self._full(self._params, batch) for batch in batches}

    def full_states(self, batch: Batch) -> Any:
        return self._full_states(self._params, batch)

    def short_states(self, coefficients: Coefficients, batch: Batch) -> Any:
        return self._short_states(self._params, batch, coefficients)

    def _target(self, batch: Batch) -> Any:
        return self._targets[id(batch)] if id(batch) in self._targets else self._full(self._params, batch)

    def sums(self, coefficients: Coefficients, batch: Batch) -> tuple[float, float, float, float]:
        """KL, loss and full-depth loss summed over the predicted tokens, and their number."""
        target, full = self._target(batch)
        kl, short = self._divergence(self._params, coefficients, batch, target)
        tokens = float(full.tokens)
        return float(kl) * tokens, float(short.nats), float(full.nats), tokens

    def kl(self, coefficients: Coefficients, batch: Batch) -> float:
        """KL per predicted token."""
        kl, _, _, tokens = self.sums(coefficients, batch)
        return kl / tokens

    def gradient(self, coefficients: Coefficients, batch: Batch) -> Coefficients:
        """Of the KL."""
        return self._gradient(coefficients, self._params, batch, self._target(batch)[0])


def _of(batch: Batch) -> tuple[Array, Array]:
    return jnp.asarray(batch.targets), jnp.asarray(batch.weights)


def _kl(target: Logits, logits: Logits, weights: Any) -> Scalar:
    """Mean over the predicted tokens of KL(p || softmax(logits)), `target` = log p."""
    target, found = target.astype(jnp.float32), jax.nn.log_softmax(logits)
    each = jnp.sum(jnp.exp(target) * (target - found), axis=-1)
    return jnp.sum(jnp.where(weights > 0, each * weights, 0.0)) / jnp.sum(weights)


def _schedules(full: Sequence[np.ndarray], groups: int, steps: int, count: int) -> list[tuple[tuple[int, ...], ...]]:
    """The best `count` schedules: for each group its times, counted along the whole trajectory."""
    units = (len(full[0]) - 1) // groups
    ranked = []
    for group in range(groups):
        part = slice(group * units, (group + 1) * units + 1)
        products = sum(gram(states[part]) for states in full)
        best = rank_schedules(np.asarray(products), steps)[:count]
        ranked.append([tuple(group * units + t for t in times) for times in best])
    return list(zip(*ranked, strict=False))


def _least_squares(
    work: _Work, batches: Sequence[Batch], full: Sequence[np.ndarray], times: tuple[tuple[int, ...], ...], fit: Fit
) -> Coefficients:
    """Fit step after step: each to the full trajectory, from where the steps before it have really led."""
    width = full[0].shape[-1]
    steps = sum(len(part) - 1 for part in times)
    weights = np.zeros((steps, fit.memory), np.float32)
    down = np.zeros((steps, fit.memory, width, fit.rank), np.float32) if fit.rank else None
    up = np.zeros((steps, fit.rank, width), np.float32) if fit.rank else None

    def rows(states: Iterable[np.ndarray]) -> np.ndarray:
        return np.concatenate([one.reshape(-1, width) for one in states])

    index = 0
    for part in times:
        fields: list[np.ndarray] = []
        for end in part[1:]:
            # a step of weight 1 shows the increment where the solve stands
            weights[index, 0] = 1.0
            states = [np.asarray(work.short_states(Coefficients(weights, down, up), batch)) for batch in batches]
            here = rows(one[index] for one in states)
            fields = [rows(one[index + 1] for one in states) - here, *fields][: fit.memory]
            wanted = rows(one[end] for one in full) - here
            chosen = _solve(np.stack([field.ravel() for field in fields], 1), wanted.ravel())
            weights[index] = 0.0
            weights[index, : len(chosen)] = chosen
            if down is not None and up is not None:
                missed = wanted - sum(w * field for w, field in zip(chosen, fields, strict=True))
                first, second = reduced_rank(np.concatenate(fields, 1), missed, fit.rank)
                down[index, : len(fields)] = first.reshape(len(fields), width, -1)
                up[index] = second
            index += 1
    return Coefficients(weights, down, up)


def _solve(basis: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    normal = basis.T @ basis
    normal += 1e-6 * np.trace(normal) / len(normal) * np.eye(len(normal), dtype=normal.dtype)
    return np.linalg.solve(normal, basis.T @ wanted)


def reduced_rank(
    features: Float[np.ndarray, "rows F"], wanted: Float[np.ndarray, "rows D"], rank: int
) -> tuple[Float[np.ndarray, "F R"], Float[np.ndarray, "R D"]]:
    """P [F, R] and Q [R, D] that bring features P Q nearest to `wanted`, with a ridge (Izenman 1975)."""
    normal = (features.T @ features).astype(np.float64)
    normal += RIDGE * np.trace(normal) / len(normal) * np.eye(len(normal))
    whole = np.linalg.solve(normal, (features.T @ wanted).astype(np.float64))
    # principal directions of the predictions
    _, directions = np.linalg.eigh(whole.T @ normal @ whole)
    best = directions[:, ::-1][:, :rank]
    return (whole @ best).astype(np.float32), best.T.astype(np.float32)


def _refine(
    work: _Work, batches: Sequence[Batch], start: Coefficients, fit: Fit, tick: Callable[[], Any]
) -> Coefficients:
    """Adam on KL(full || short), one batch an update in turn; the learning rate falls to 0 along a cosine."""
    if fit.updates == 0:
        return start
    rate = partial(optax.cosine_decay_schedule, decay_steps=fit.updates)
    # entries before the start of a solve stay 0: their gradient is 0
    labels = dataclasses.replace(jax.tree.map(lambda _: "correction", start), weights="weights")
    optimizer = optax.partition(
        {"weights": optax.adam(rate(fit.learning_rate)), "correction": optax.adam(rate(fit.learning_rate / 10))}, labels
    )
    coefficients = jax.tree.map(jnp.asarray, start)
    state = optimizer.init(coefficients)

    @jax.jit
    def update(gradient: Any, state: Any, coefficients: Any) -> tuple[Any, Any]:
        updates, state = optimizer.update(gradient, state, coefficients)
        return optax.apply_updates(coefficients, updates), state

    for number in range(fit.updates):
        gradient = work.gradient(coefficients, batches[number % len(batches)])
        coefficients, state = update(gradient, state, coefficients)
        tick()
    return coefficients
