"""Side-by-side timing: candidates take turns in one run, so that a slow moment of the machine hits them all."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax

Name = TypeVar("Name")


ENOUGH = 60.0
"""Seconds after which what measures many things of a model begins no further round of timings."""
FEWEST = 3
"""Rounds that there are in any case: a median of fewer would be a mean, or a chance."""


def median_times(
    candidates: Mapping[Name, Callable[[], Any]],
    rounds: int = 11,
    tick: Callable[[], Any] | None = None,
    *,
    enough: float = math.inf,
) -> dict[Name, float]:
    """Median milliseconds of each candidate; every result is waited for.

    Args:
        candidates: functions by name. Each is called once before the rounds, which compiles it and fills its caches.
        rounds: timings of each, one after the other in every round.
        tick: called after every timing, or for one that is left out.
        enough: seconds after which no further round begins, once there were three.
    """
    for run in candidates.values():
        jax.block_until_ready(run())
    times: dict[Name, list[float]] = {name: [] for name in candidates}
    for number in range(rounds):
        if number >= FEWEST and sum(map(sum, times.values())) > 1e3 * enough:
            if tick is not None:
                for _ in range((rounds - number) * len(candidates)):
                    tick()
            break
        for name, run in candidates.items():
            start = time.perf_counter()
            jax.block_until_ready(run())
            times[name].append(1e3 * (time.perf_counter() - start))
            if tick is not None:
                tick()
    return {name: statistics.median(values) for name, values in times.items()}
