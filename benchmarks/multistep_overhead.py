"""What do memory, gains, correction and adapters add to a step? Looped part, ALBERT-base shape, n = 4, B 1, 8 and 32.

    python benchmarks/multistep_overhead.py

Bars: a multistep step over an Euler step <= 1.02; with step adapters of rank 8 <= 1.05. Gains, and gains with a
correction of rank 32, have their own rows.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from latency_by_steps import CONFIG
from timing import report, rounds_argument

from jaxode import Block, Schedule, integrate
from jaxode.depth import Coefficients
from jaxode.evaluation.timing import median_times
from jaxode.model import Context, FieldArgs, block_field
from jaxode.model.gains import Gains
from jaxode.model.steps import StepsOverDepth

STEPS, MEMORY, RANK, ADAPTERS = 4, 2, 32, 8


def main(rounds: int) -> None:
    """Measure them side by side."""
    field, params = block_field((Block(CONFIG, rngs=nnx.Rngs(0)),))
    weights = jnp.ones((STEPS, MEMORY))
    down = jnp.full((STEPS, MEMORY, CONFIG.width, RANK), 1e-3)
    up = jnp.full((STEPS, RANK, CONFIG.width), 1e-3)
    gains = Gains.neutral(CONFIG, STEPS)
    candidates = {
        "euler": None,
        "memory of 1": Coefficients(weights),
        "memory of 1, gains": Coefficients(weights, gains=gains),
        "memory of 1, gains, rank 32": Coefficients(weights, down, up, gains),
        "gains, adapters of rank 8": Coefficients(weights[:, :1], gains=Gains.neutral(CONFIG, STEPS, ADAPTERS)),
    }
    rows = []
    for batch in (1, 8, 32):
        x = jax.random.normal(jax.random.key(1), (batch, 128, CONFIG.width))

        @partial(jax.jit, static_argnames="solver")
        def solve(params, x, coefficients, solver):
            schedule = Schedule.even(12.0, STEPS)
            told = coefficients is not None and coefficients.gains is not None
            steps = StepsOverDepth.over(schedule, coefficients) if told else None
            args = FieldArgs(params, Context(), steps)
            return integrate(field, x, schedule, solver, args=args, coefficients=coefficients).state

        times = median_times(
            {
                name: partial(solve, params, x, coefficients, "euler" if coefficients is None else "calibrated")
                for name, coefficients in candidates.items()
            },
            rounds,
        )
        rows += [
            {"batch": batch, "step": name, "ms": ms, "over_euler": ms / times["euler"]} for name, ms in times.items()
        ]
    report("bench-multistep-overhead", rows)


if __name__ == "__main__":
    main(rounds_argument())
