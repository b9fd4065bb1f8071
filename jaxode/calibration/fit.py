"""Fit a short solve to the full one: schedule, multistep weights, low-rank correction; the model stays frozen."""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from tqdm import tqdm

from jaxode.calibration.comparison import Comparison, Reference
from jaxode.calibration.least_squares import follow
from jaxode.calibration.search import candidates, sizes
from jaxode.config import DepthConfig, ModelConfig, require
from jaxode.data import Batch, PreparedData
from jaxode.depth import Coefficients
from jaxode.model import plan
from jaxode.model.parameters import Architecture, Parameters


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
    """Refuse a number of steps that leaves nothing to calibrate.

    Raises:
        UserError: an unshared model, or steps outside 1 .. N - 1.
    """
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
    3. Lower KL(full || short) of the logits by gradient through the solve (Adam), weights and correction together.

    Deterministic. The last `held_out` batches are not fitted on; the figures are theirs.

    Raises:
        UserError: steps that do not fit the layout or leave nothing to calibrate, or too few batches.
    """
    fit = fit or Fit()
    started = time.perf_counter()
    model: ModelConfig = architecture.bind(params).config
    check_steps(model, steps)
    fit = dataclasses.replace(fit, rank=min(fit.rank, model.width))
    both = zip(plan(model, DepthConfig()), plan(model, DepthConfig(steps=steps)), strict=True)
    groups = [(full.steps, short.steps) for full, short in both]
    require(
        len(batches) > held_out,
        f"{len(batches)} batches to calibrate on: at least {held_out + 1} needed; give more text",
    )
    comparison = Comparison(architecture, params, steps, document_mask)
    references = [comparison.reference(batch) for batch in batches]
    fitted, held = references[: len(batches) - held_out], references[len(batches) - held_out :]
    ranked = candidates([one.states for one in fitted], groups, fit.candidates)
    bar = tqdm(total=len(ranked) + fit.updates, desc=f"calibrating {steps} steps", disable=None if progress else True)
    few = fitted[: -(-len(fitted) // 4)]
    found = []
    for times in ranked:
        tried = follow(comparison, few, times, fit.memory, fit.rank)
        kl, _ = _means(comparison, tried, few)
        found.append((kl if np.isfinite(kl) else np.inf, times))
        bar.update()
    _, times = min(found)
    coefficients = follow(comparison, fitted, times, fit.memory, fit.rank)
    coefficients = _refine(comparison, fitted, coefficients, fit, bar.update)
    bar.close()
    kl, rise = _means(comparison, coefficients, held)
    return Calibration(
        steps=steps,
        schedule=tuple(itertools.chain.from_iterable(sizes(part) for part in times)),
        coefficients=jax.tree.map(lambda x: np.asarray(x, np.float32), coefficients),
        kl=kl,
        rise=rise,
        tokens=int(sum(one.tokens for one in fitted)),
        seconds=time.perf_counter() - started,
    )


def _means(comparison: Comparison, coefficients: Coefficients, references: Sequence[Reference]) -> tuple[float, float]:
    """KL and rise of the loss, per predicted token."""
    found = [comparison.distance(coefficients, reference) for reference in references]
    tokens = sum(one.tokens for one in found)
    return sum(one.kl for one in found) / tokens, sum(one.rise for one in found) / tokens


def _refine(
    comparison: Comparison,
    references: Sequence[Reference],
    start: Coefficients,
    fit: Fit,
    tick: Callable[[], Any],
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
        gradient = comparison.gradient(coefficients, references[number % len(references)])
        coefficients, state = update(gradient, state, coefficients)
        tick()
    return coefficients
