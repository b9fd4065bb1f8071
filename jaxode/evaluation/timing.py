"""Side-by-side timing: candidates take turns in one run, so that a slow moment of the machine hits them all."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax

Name = TypeVar("Name")


def median_times(
    candidates: Mapping[Name, Callable[[], Any]], rounds: int = 11, tick: Callable[[], Any] | None = None
) -> dict[Name, float]:
    """Median milliseconds of each candidate; every result is waited for.

    Args:
        candidates: functions by name. Each is called once before the rounds, which compiles it and fills its caches.
        rounds: timings of each, one after the other in every round.
        tick: called after every timing.
    """
    for run in candidates.values():
        jax.block_until_ready(run())
    times: dict[Name, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, run in candidates.items():
            start = time.perf_counter()
            jax.block_until_ready(run())
            times[name].append(1e3 * (time.perf_counter() - start))
            if tick is not None:
                tick()
    return {name: statistics.median(values) for name, values in times.items()}
