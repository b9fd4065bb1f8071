"""Fit a short solve to the full one: schedule, multistep weights, low-rank correction; the model stays frozen."""

from __future__ import annotations

import dataclasses
import itertools
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

import jaxode.data  # PreparedData by attribute: importing its name would load what reads corpora
from jaxode.calibration.comparison import Comparison, Reference
from jaxode.calibration.gradient import refine
from jaxode.calibration.least_squares import follow
from jaxode.calibration.origin import Origin
from jaxode.calibration.recipe import Fit, Form
from jaxode.calibration.search import candidates, sizes, starts
from jaxode.checkpoint import takes_model
from jaxode.config import DepthConfig, ModelConfig, require
from jaxode.data import Batch
from jaxode.depth import Coefficients, secant
from jaxode.model import Transformer, plan
from jaxode.model.gains import Gains
from jaxode.model.parameters import split

FOLLOWED = 8
"""Batches that the least squares read; more text tells them little, and the gradient reads all."""


KEPT = 20
"""Batches whose full solves are kept, for ranking schedules and for least squares."""

GAINS_OF_SECANT = {"global": tuple(g / 8 for g in range(25)), "schedule": (0.0,)}


@dataclass(frozen=True)
class Calibration:
    """Coefficients for one number of steps, and what they reached on held-out batches."""

    steps: int
    """n, in block applications, as in `DepthConfig.steps`."""
    schedule: tuple[int, ...]
    """Step sizes in depth-time from which the fit began."""
    coefficients: Coefficients
    tokens: int
    """Predicted tokens of the fit."""
    seconds: float
    """Time it took."""
    kl: float | None = None
    """KL(full depth || calibrated), nats per predicted token; of a classifier, per sequence (and label, of several);
    None of an encoder and of a regression."""
    rise: float | None = None
    """Loss over the full depth's, in the same unit; of a classifier, that of the classes likeliest at full depth."""
    error: float | None = None
    """Relative error of an encoder's states: the root mean square of x_n - x_N over that of x_N - mean x_N."""
    distance: float | None = None
    """Of a regression: the root mean square difference of its numbers from the full depth's, in their unit."""
    plain: float | None = None
    """The same figure (kl, error or distance) of n even steps by Euler's method, on the same held-out batches."""
    origin: Origin | None = None
    """What it was made for, where it was read from a file."""

    @property
    def keeps_plain(self) -> bool:
        """Whether plain steps came nearer than what was fitted, and were kept."""
        return self.plain is not None and self.plain in (self.kl, self.error, self.distance)

    @property
    def adapted(self) -> bool:
        """Whether step adapters belong to it."""
        return self.coefficients.gains is not None and self.coefficients.gains.adapters is not None

    @property
    def depth(self) -> DepthConfig:
        """The depth configuration to run it with."""
        return DepthConfig(steps=self.steps, solver="calibrated")


def calibration_batches(
    data: jaxode.data.PreparedData, seed: int = 0, batches: int = 20, tokens: int = 2048
) -> list[Batch]:
    """Training text to calibrate on: `batches` of about `tokens` tokens, whose predictions fit in memory. Of less text
    smaller batches, at last fewer: none holds a row that another has, for the last ones are held out of the fit.
    """
    held = len(data.train_rows)
    rows = min(max(1, tokens // data.length), max(1, held // batches))
    batches = min(batches, held // rows)
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
        f"calibrate for {steps} steps: must be from 1 to N - 1 = {model.steps - 1}; the model's own {model.steps} need "
        "no calibration, and more than those it was never trained for",
    )


@takes_model
def calibrate(
    model: Transformer,
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
    3. Lower KL(full || short) of the logits, or the squared error of an encoder's states or a regression's numbers, by
       gradient through the solve (Adam): weights, correction and gains together.

    4. Compare with n plain steps (even, Euler's method) on the held-out batches, and keep these where they come nearer,
       as they may where there is little text to fit.

    Deterministic. The last `held_out` batches are not fitted on; the figures are theirs.

    Args:
        model: a language model, a classifier, one of tokens or an encoder (the last two by their states); calibrations
            that it holds already are left alone.
        batches: text like the text that the model will see, in batches of one shape.
        steps: n, in block applications.
        fit: how; None takes the defaults.
        held_out: batches at the end that only measure.
        document_mask: keep attention within documents, as in training.
        progress: show a bar.

    Raises:
        UserError: steps that do not fit the layout or leave nothing to calibrate, too few batches, or a fit that
            diverged.
    """
    fit = fit or Fit()
    started = time.perf_counter()
    architecture, params = split(model)
    config = model.config
    check_steps(config, steps)
    most = min(itertools.chain(*config.matrices))
    require(
        fit.adapters <= most,
        f"calibration adapters = {fit.adapters}: the block's smallest matrix has rank {most}; must be at most that",
    )
    require(held_out >= 1, f"held_out = {held_out}: at least one batch must measure what the others fitted")
    fit = dataclasses.replace(fit, rank=min(fit.rank, config.width))
    both = zip(plan(config, DepthConfig()), plan(config, DepthConfig(steps=steps)), strict=True)
    groups = [(full.steps, short.steps) for full, short in both]
    require(
        len(batches) > held_out,
        f"{len(batches)} batches to calibrate on: at least {held_out + 1} needed; give more text",
    )
    comparison = Comparison(architecture, params, steps, document_mask)
    unit, count = fit.form == "unit", len(batches) - held_out
    kept = 0 if unit else min(count, KEPT)
    bar = tqdm(
        total=held_out + kept + (0 if unit else fit.candidates) + fit.updates,
        desc=f"calibrating {steps} steps",
        disable=None if progress else True,
    )
    held = []
    for batch in batches[count:]:
        held.append(comparison.reference(batch, trajectory=False))
        bar.update()
    references = _References(comparison, batches[:count], kept)
    fitted = []
    for number in range(kept):
        fitted.append(references[number])
        bar.update()
    ranked = [] if unit else candidates([one.states for one in fitted], groups, fit.candidates)
    bar.total = held_out + kept + len(ranked) + fit.updates
    few = fitted[: -(-min(len(fitted), FOLLOWED) // 4)]
    # neutral from the start, so that least squares and gradient share their compilations
    given = fit.gains and fit.updates
    gains = Gains.neutral(config, sum(short for _, short in groups), fit.adapters) if given else None
    told = config.conditioning != "none"

    def followed(references: Sequence[Reference], times: tuple[tuple[int, ...], ...]) -> Coefficients:
        return follow(comparison, references, times, fit.memory, fit.rank, gains, starts(times) if told else None)

    found = []
    for times in ranked:
        tried = [followed(few, times)] if fit.form == "step" else _closed_forms(times, fit.form, told)
        for coefficients in tried:
            gap, _ = _means(comparison, coefficients, few)
            found.append((gap if np.isfinite(gap) else np.inf, len(found), times, coefficients))
        bar.update()
    if unit:
        schedule, coefficients = _unit(groups, fit.memory, gains, told)
    else:
        *_, times, coefficients = min(found)
        schedule = tuple(itertools.chain.from_iterable(sizes(part) for part in times))
        if fit.form == "step":
            coefficients = followed(fitted[:FOLLOWED], times)
    coefficients = refine(comparison, references, coefficients, fit, bar.update)
    bar.close()
    gap, rise = _means(comparison, coefficients, held)
    require(
        math.isfinite(gap) and math.isfinite(rise),
        f"calibration for {steps} steps diverged: {comparison.gap} {gap:g} per {comparison.unit}; try more "
        f"steps, a lower rank than {fit.rank}, or a lower learning rate than {fit.recipe.learning_rate:g}",
    )
    plain = _plain(groups, coefficients, gains, told)
    plain_gap, plain_rise = _means(comparison, plain, held)
    if plain_gap < gap:
        coefficients, gap, rise = plain, plain_gap, plain_rise
        schedule = tuple(round(size) for size in plain.weights[:, 0])
    return Calibration(
        steps=steps,
        schedule=schedule,
        coefficients=jax.tree.map(lambda x: np.asarray(x, np.float32), coefficients),
        **comparison.measured(gap, rise),
        plain=next(iter(comparison.measured(plain_gap, plain_rise).values())) if math.isfinite(plain_gap) else None,
        tokens=references.tokens,
        seconds=time.perf_counter() - started,
    )


class _References(Sequence[Reference]):
    """The full solves of the batches that are fitted; the first ones are kept with their trajectories, the others made
    when they are asked for and forgotten.
    """

    def __init__(self, comparison: Comparison, batches: Sequence[Batch], kept: int):
        self._comparison, self._batches, self._kept = comparison, batches, kept
        self._held: dict[int, Reference] = {}
        self._tokens: dict[int, float] = {}

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, number: Any) -> Any:
        if number in self._held:
            return self._held[number]
        found = self._comparison.reference(self._batches[number], trajectory=number < self._kept)
        self._tokens[number] = found.tokens
        if number < self._kept:
            self._held[number] = found
        return found

    @property
    def tokens(self) -> int:
        """Predicted tokens of all that were asked for."""
        return int(sum(self._tokens.values()))


def _unit(
    groups: Sequence[tuple[int, int]], memory: int, gains: Gains | None, told: bool
) -> tuple[tuple[int, ...], Coefficients]:
    """The trained block applied n times; of a block that is told t, and may have learned what a longer step is, its own
    n even steps.
    """
    steps = sum(short for _, short in groups)
    weights = np.zeros((steps, memory), np.float32)
    sizes = [full / short if told else 1.0 for full, short in groups for _ in range(short)]
    weights[:, 0] = sizes
    at = np.concatenate([np.arange(short, dtype=np.float32) * (full / short) for full, short in groups])
    return tuple(round(size) for size in sizes), Coefficients(weights, gains=gains, starts=at if told else None)


def _plain(groups: Sequence[tuple[int, int]], like: Coefficients, gains: Gains | None, told: bool) -> Coefficients:
    """Even steps by Euler's method, with every part that others have, so that nothing is compiled for them."""
    _, even = _unit(groups, like.weights.shape[1], gains, told=True)
    nothing = jax.tree.map(np.zeros_like, like)
    return dataclasses.replace(nothing, weights=even.weights, gains=gains, starts=even.starts if told else None)


def _closed_forms(times: tuple[tuple[int, ...], ...], form: Form, told: bool) -> list[Coefficients]:
    """Solver "secant" on a schedule, a choice of gains; gain 0 is Euler's method, the schedule alone."""
    steps = [[float(size) for size in sizes(part)] for part in times]
    tables = [np.concatenate([secant(part, gain) for part in steps]) for gain in GAINS_OF_SECANT[form]]
    at = starts(times) if told else None
    return [Coefficients(table.astype(np.float32), starts=at) for table in tables]


def _means(comparison: Comparison, coefficients: Coefficients, references: Sequence[Reference]) -> tuple[float, float]:
    """Gap and rise of the loss, per predicted token."""
    found = [comparison.distance(coefficients, reference) for reference in references]
    tokens = sum(one.tokens for one in found)
    return sum(one.gap for one in found) / tokens, sum(one.rise for one in found) / tokens
