"""Weights and low-rank corrections by least squares on the full trajectory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Float

from jaxode.calibration.comparison import Comparison, Reference
from jaxode.depth import Coefficients
from jaxode.model.gains import Gains

RIDGE = 1e-2
"""Of the low-rank fit, relative to the mean square of the increments."""


def follow(
    comparison: Comparison,
    references: Sequence[Reference],
    times: tuple[tuple[int, ...], ...],
    memory: int,
    rank: int,
    gains: Gains | None = None,
    starts: Float[np.ndarray, " N"] | None = None,
) -> Coefficients:
    """Fit step after step: each to the full trajectory, from where the steps before it have really led.

    Args:
        comparison: of the full and the short solve.
        references: the full solve of the text to fit to.
        times: of every group, counted along the whole trajectory.
        memory: K.
        rank: R; 0 leaves the correction out.
        gains: with which the block is evaluated.
        starts: times of the evaluations, for a block that is told.
    """
    width = references[0].states.shape[-1]
    steps = sum(len(part) - 1 for part in times)
    weights = np.zeros((steps, memory), np.float32)
    down = np.zeros((steps, memory, width, rank), np.float32) if rank else None
    up = np.zeros((steps, rank, width), np.float32) if rank else None

    def rows(states: Iterable[np.ndarray]) -> np.ndarray:
        return np.concatenate([one.reshape(-1, width) for one in states])

    index = 0
    for part in times:
        fields: list[np.ndarray] = []
        for end in part[1:]:
            # a step of weight 1 shows the increment where the solve stands
            weights[index, 0] = 1.0
            states = [
                comparison.states(Coefficients(weights, down, up, gains, starts), reference) for reference in references
            ]
            here = rows(one[index] for one in states)
            fields = [rows(one[index + 1] for one in states) - here, *fields][:memory]
            wanted = rows(reference.states[end] for reference in references) - here
            chosen = best_weights(np.stack([field.ravel() for field in fields], 1), wanted.ravel())
            weights[index] = 0.0
            weights[index, : len(chosen)] = chosen
            if down is not None and up is not None:
                missed = wanted - sum(w * field for w, field in zip(chosen, fields, strict=True))
                first, second = reduced_rank(np.concatenate(fields, 1), missed, rank)
                down[index, : len(fields)] = first.reshape(len(fields), width, -1)
                up[index] = second
            index += 1
    return Coefficients(weights, down, up, gains, starts)


def best_weights(basis: Float[np.ndarray, "rows K"], wanted: Float[np.ndarray, " rows"]) -> Float[np.ndarray, " K"]:
    """The combination of the columns that comes nearest, with a ridge that only a singular basis feels."""
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
