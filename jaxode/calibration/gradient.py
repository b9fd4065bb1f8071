"""The last stage of a fit: coefficients moved along the gradient of what separates two solves."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxode.calibration.comparison import Comparison, Reference
from jaxode.calibration.recipe import Fit
from jaxode.depth import Coefficients
from jaxode.model.gains import Gains


def refine(
    comparison: Comparison,
    references: Sequence[Reference],
    start: Coefficients,
    fit: Fit,
    tick: Callable[[], Any],
) -> Coefficients:
    """Coefficients behind Adam on the gap of `Comparison`, one batch an update in turn, as the form's recipe says.

    Args:
        comparison: with the full depth.
        references: its solves of the batches.
        start: where to begin.
        fit: how many updates, and how.
        tick: called after each.
    """
    if fit.updates == 0:
        return start
    # entries before the start of a solve stay 0: their gradient is 0
    labels = dataclasses.replace(
        jax.tree.map(lambda _: "correction", start),
        weights="weights",
        gains=_gain_labels(start.gains),
        starts=jax.tree.map(lambda _: "starts", start.starts),
    )
    recipe, warm = fit.recipe, round(fit.recipe.warmup * fit.updates)

    def adam(share: float) -> optax.GradientTransformation:
        peak = recipe.learning_rate * share
        if not warm:
            return optax.adam(optax.cosine_decay_schedule(peak, fit.updates))
        return optax.adam(optax.warmup_cosine_decay_schedule(peak / warm, peak, warm, fit.updates))

    # the schedule was searched for; its starts stay
    shares = {"weights": 1.0, "gains": recipe.gains, "correction": recipe.correction, "adapters": recipe.adapters}
    rules: dict[Hashable, optax.GradientTransformation] = {name: adam(share) for name, share in shares.items()}
    rules["starts"] = optax.set_to_zero()
    clip = optax.clip_by_global_norm(recipe.clip) if math.isfinite(recipe.clip) else optax.identity()
    optimizer = optax.chain(clip, optax.partition(rules, labels))
    coefficients = jax.tree.map(jnp.asarray, start)
    state = optimizer.init(coefficients)

    @jax.jit
    def update(gradient: Any, state: Any, coefficients: Any) -> tuple[Any, Any]:
        updates, state = optimizer.update(gradient, state, coefficients)
        return optax.apply_updates(coefficients, updates), state

    for number in range(fit.updates):
        gradient = comparison.gradient(coefficients, references[number % len(references)])
        # these stay, and do not count in the norm that is clipped
        gradient = dataclasses.replace(gradient, starts=jax.tree.map(jnp.zeros_like, gradient.starts))
        coefficients, state = update(gradient, state, coefficients)
        tick()
    return coefficients


def _gain_labels(gains: Gains | None) -> Any:
    """Gains, and the low-rank part of adapters, whose norms are gains too."""
    if gains is None or gains.adapters is None:
        return jax.tree.map(lambda _: "gains", gains)
    low_rank = jax.tree.map(lambda _: "adapters", gains.adapters)
    adapters: Any = dataclasses.replace(low_rank, scale="gains", shift="gains")
    return dataclasses.replace(jax.tree.map(lambda _: "gains", gains), adapters=adapters)
