"""Medians of candidates that take turns, in as many rounds as a few seconds hold."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax

SECONDS = 3.0
"""What the rounds of one comparison may take, once there are `LEAST`."""
LEAST, MOST = 3, 30


def median_seconds(candidates: Mapping[str, Callable[[], Any]]) -> dict[str, float]:
    """Of each candidate; called twice before the rounds: compiled, then with what it leaves to a second call."""
    for run in candidates.values():
        for _ in range(2):
            jax.block_until_ready(run())
    times: dict[str, list[float]] = {name: [] for name in candidates}
    began = time.perf_counter()
    for turn in range(MOST):
        if turn >= LEAST and time.perf_counter() - began > SECONDS:
            break
        for name, run in candidates.items():
            start = time.perf_counter()
            jax.block_until_ready(run())
            times[name].append(time.perf_counter() - start)
    gc.collect()
    return {name: statistics.median(taken) for name, taken in times.items()}


def bytes_of(program: Any) -> int:
    """Memory that a compiled program needs at once, as XLA plans it: arguments, results and what lies between."""
    plan = program.memory_analysis()
    return plan.argument_size_in_bytes + plan.output_size_in_bytes + plan.temp_size_in_bytes - plan.alias_size_in_bytes
