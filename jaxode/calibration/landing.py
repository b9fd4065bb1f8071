"""Where a solve that stops early would have ended: a linear map of its last two increments, by least squares."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from jaxode.calibration.comparison import Comparison
from jaxode.calibration.least_squares import best_weights, reduced_rank
from jaxode.checkpoint import takes_params
from jaxode.config import DepthConfig, ModelConfig, require
from jaxode.data import Batch
from jaxode.depth import Coefficients
from jaxode.model import plan
from jaxode.model.parameters import Architecture, Parameters


@takes_params
def fit_landing(
    architecture: Architecture,
    params: Parameters,
    batches: Sequence[Batch],
    *,
    rank: int = 32,
    document_mask: bool = False,
) -> Coefficients:
    """Fit x(N) ~ x_{i+1} + w_i0 d_i + w_i1 d_{i-1} + ([d_i d_{i-1}] P_i) Q_i for every step i of the full depth.

    d_i = x_{i+1} - x_i. First the weights, then the correction of what they miss, both by least squares on the full
    trajectory; no gradient, and no block evaluation beyond one full solve of the text. The last row is 0.

    Args:
        architecture: the model without its numbers.
        params: its numbers.
        batches: text to fit to; a few thousand tokens will do.
        rank: R of the correction; 0 leaves it out.
        document_mask: keep attention within documents.

    Raises:
        UserError: an unshared model, no batches, or a negative rank.
    """
    model: ModelConfig = architecture.bind(params).config
    schedules = plan(model, DepthConfig())
    require(bool(schedules), 'model.sharing = "none": an unshared model has no solve to stop early')
    require(len(batches) > 0, "no batches to fit a landing to: give at least one")
    require(rank >= 0, f"rank = {rank}: must be at least 0")
    comparison = Comparison(architecture, params, model.steps, document_mask)
    solved = [comparison.reference(batch).states for batch in batches]
    states = np.concatenate([one.reshape(len(one), -1, one.shape[-1]) for one in solved], axis=1)
    # of all streams that the loop carries
    width = states.shape[-1]
    steps, rank = len(states) - 1, min(rank, width)
    weights = np.zeros((steps, 2), np.float32)
    down = np.zeros((steps, 2, width, rank), np.float32)
    up = np.zeros((steps, rank, width), np.float32)
    # a group's field is its own: its first step has no increment before it
    firsts = np.cumsum([0, *(schedule.steps for schedule in schedules)])
    for i in range(steps - 1):
        recent = [states[i + 1] - states[i]]
        if i not in firsts:
            recent.append(states[i] - states[i - 1])
        missing = states[-1] - states[i + 1]
        chosen = best_weights(np.stack([one.ravel() for one in recent], 1), missing.ravel())
        weights[i, : len(chosen)] = chosen
        if rank:
            missed = missing - sum(w * one for w, one in zip(chosen, recent, strict=True))
            first, up[i] = reduced_rank(np.concatenate(recent, 1), missed, rank)
            down[i, : len(recent)] = first.reshape(len(recent), width, rank)
    return Coefficients(weights, down, up) if rank else Coefficients(weights)
