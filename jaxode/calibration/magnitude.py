"""Magnitude matching: data decide how long each step is, and nothing about its direction. A comparator."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from tqdm import tqdm

from jaxode.calibration.comparison import Comparison, Reference
from jaxode.checkpoint import takes_params
from jaxode.config import DepthConfig, ModelConfig, require
from jaxode.data import Batch
from jaxode.depth import Coefficients
from jaxode.model import plan
from jaxode.model.parameters import Architecture, Parameters


@takes_params
def magnitude_matching(
    architecture: Architecture,
    params: Parameters,
    batches: Sequence[Batch],
    steps: Iterable[int],
    *,
    document_mask: bool = False,
    progress: bool = False,
) -> dict[int, Coefficients]:
    """Coefficients of solver "calibrated" for each number of steps, by `match_magnitude` on the same full solves.

    Args:
        architecture: the model without its numbers.
        params: its numbers.
        batches: text to measure lengths on.
        steps: numbers n, in block applications, that fit the layout.
        document_mask: keep attention within documents.
        progress: a bar on standard error.
    """
    steps = tuple(steps)
    model: ModelConfig = architecture.bind(params).config
    require(model.sharing != "none", 'model.sharing = "none": an unshared model has no steps whose lengths to match')
    require(len(batches) > 0, "no batches to match lengths on: give at least one")
    comparisons = {n: Comparison(architecture, params, n, document_mask) for n in steps}
    if not comparisons:
        return {}
    # the full solve is the same whatever n
    first = next(iter(comparisons.values()))
    found = {}
    with tqdm(total=len(steps) + 1, desc="magnitude matching", leave=False, disable=None if progress else True) as bar:
        references = [first.reference(batch) for batch in batches]
        bar.update()
        for n, comparison in comparisons.items():
            found[n] = match_magnitude(comparison, references, whole_times(model, n))
            bar.update()
    return found


def whole_times(model: ModelConfig, steps: int) -> tuple[int, ...]:
    """The times of an even solve, group after group, each rounded to the nearest whole one."""
    times, start = [0], 0.0
    for full, short in zip(plan(model, DepthConfig()), plan(model, DepthConfig(steps=steps)), strict=True):
        times += [round(start + t) for t in short.times[1:]]
        start += full.times[-1]
    return tuple(times)


def match_magnitude(comparison: Comparison, references: Sequence[Reference], times: Sequence[int]) -> Coefficients:
    """Weights [n, 1] with which a step is as long as the full solve's move over the same interval of depth.

    w_i = mean ||x*(t_{i+1}) - x*(t_i)|| / mean ||f(x_i)||, x* the full solve, means over the positions of the text. f
    is evaluated where the short solve really stands, step after step, so that its lengths are matched on the way it
    takes; along x* they would be matched for a solve that nobody runs.

    Args:
        comparison: of the full and the short solve.
        references: the full solve of the text to match.
        times: t_0 .. t_n along the whole trajectory, solver steps over all groups; a cycle of blocks is one.
    """
    steps = len(times) - 1
    weights = np.zeros((steps, 1), np.float32)
    for i in range(steps):
        moved = _length(one.states[times[i + 1]] - one.states[times[i]] for one in references)
        # a step of weight 1 shows the increment where the solve stands
        weights[i] = 1.0
        walked = [comparison.states(Coefficients(weights), one) for one in references]
        increment = _length(states[i + 1] - states[i] for states in walked)
        # a field at rest has no length to match
        weights[i] = moved / increment if increment > 0 else times[i + 1] - times[i]
    return Coefficients(weights)


def _length(differences: Iterable[np.ndarray]) -> float:
    """Mean Euclidean norm over positions."""
    return float(np.mean([np.linalg.norm(one, axis=-1).mean() for one in differences]))
