"""Magnitude matching: data decide how long each step is, and nothing about its direction. A comparator."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from tqdm import tqdm

from jaxode.calibration.comparison import Comparison, Reference
from jaxode.config import ModelConfig
from jaxode.data import Batch
from jaxode.depth import Coefficients
from jaxode.model.parameters import Architecture, Parameters


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
            found[n] = match_magnitude(comparison, references, n // model.groups if model.sharing == "cycle" else n)
            bar.update()
    return found


def match_magnitude(comparison: Comparison, references: Sequence[Reference], steps: int) -> Coefficients:
    """Weights [n, 1] with which a step is as long as the full solve's move over the same interval of depth.

    w_i = mean ||x*(t_{i+1}) - x*(t_i)|| / mean ||f(x_i)||, x* the full solve, means over all positions, on even times
    t_i (the nearest whole ones). f is evaluated where the short solve really stands, step after step, so that its
    lengths are matched on the way that it takes; along x* they would be matched for a solve that nobody runs.

    Args:
        comparison: of the full and the short solve.
        references: the full solve of the text to match.
        steps: n, solver steps over all groups; a cycle of blocks is one.
    """
    units = len(references[0].states) - 1
    times = [round(i * units / steps) for i in range(steps + 1)]
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
