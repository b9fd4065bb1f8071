"""Which times of the full solve a short one should aim for, from the full trajectory alone: no block is evaluated."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float


def gram(states: Float[np.ndarray, "M *rows D"]) -> Float[np.ndarray, "M M"]:
    """Inner products of the states x*(0) .. x*(M-1) of a full solve, over all positions and channels."""
    flat = states.reshape(len(states), -1).astype(np.float32)
    return np.asarray(flat @ flat.T, np.float64)


def step_error(products: Float[np.ndarray, "M M"], before: int | None, start: int, end: int) -> float:
    """What the best step from x*(start) to x*(end) misses, relative to ||x*(end)||^2.

    The step is a combination of the increments at `start` and, where there was one, at the start of the step `before`;
    an increment at time t is x*(t + 1) - x*(t). All of it is linear in the states, so their inner products suffice.
    """
    size = len(products)

    def difference(later: int, earlier: int) -> np.ndarray:
        vector = np.zeros(size)
        vector[later] += 1
        vector[earlier] -= 1
        return vector

    basis = [difference(t + 1, t) for t in ([start] if before is None else [start, before])]
    wanted = difference(end, start)
    normal = np.array([[a @ products @ b for b in basis] for a in basis])
    normal += 1e-9 * np.trace(normal) * np.eye(len(basis))
    right = np.array([a @ products @ wanted for a in basis])
    missed = wanted @ products @ wanted - right @ np.linalg.solve(normal, right)
    return float(max(missed, 0.0) / products[end, end])


def rank_schedules(products: Float[np.ndarray, "M M"], steps: int, beam: int = 256) -> list[tuple[int, ...]]:
    """Whole-number schedules 0 < t_1 < .. < t_n = M - 1 by the sum of their steps' errors, the best first.

    Exhaustive where there are at most `beam` partial schedules of a length, a beam search beyond.

    Args:
        products: of the states at the M whole times.
        steps: n.
        beam: partial schedules kept; also the most that are returned.
    """
    last = len(products) - 1
    partial: list[tuple[float, list[int]]] = [(0.0, [0])]
    errors: dict[tuple[int | None, int, int], float] = {}
    for left in range(steps - 1, -1, -1):
        grown = []
        for cost, times in partial:
            before, start = (times[-2] if len(times) > 1 else None), times[-1]
            for end in [last] if left == 0 else range(start + 1, last - left + 1):
                key = (before, start, end)
                if key not in errors:
                    errors[key] = step_error(products, *key)
                grown.append((cost + errors[key], [*times, end]))
        partial = sorted(grown)[:beam]
    return [tuple(times) for _, times in partial]


def candidates(
    trajectories: Sequence[Float[np.ndarray, "M ... D"]], groups: Sequence[tuple[int, int]], count: int
) -> list[tuple[tuple[int, ...], ...]]:
    """The best `count` schedules of a model with one field a group.

    Args:
        trajectories: full solves.
        groups: of every field, its steps at full depth and the steps to find times for.
        count: how many.

    Returns:
        Each is a tuple of the groups' times, counted along the whole trajectory.
    """
    ranked, start = [], 0
    for units, steps in groups:
        products = np.sum([gram(states[start : start + units + 1]) for states in trajectories], axis=0)
        ranked.append([tuple(start + t for t in times) for times in rank_schedules(products, steps)[:count]])
        start += units
    return list(zip(*ranked, strict=False))


def starts(times: Sequence[Sequence[int]]) -> Float[np.ndarray, " n"]:
    """When every group's steps begin, each group in its own depth-time."""
    return np.concatenate([np.asarray(part[:-1], np.float32) - part[0] for part in times])


def sizes(times: Sequence[int]) -> tuple[int, ...]:
    """Step sizes of a schedule."""
    return tuple(int(step) for step in np.diff(times))
