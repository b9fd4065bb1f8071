"""Does a solve of n steps cost n/N of the full depth? Looped part alone, ALBERT-base shape, B 1 and 8.

    python benchmarks/latency_by_steps.py

Bar: time(n) / time(12) <= 1.05 * n/12 for n = 8, 6, 4, 3.
"""

from __future__ import annotations

from functools import partial

import jax
from flax import nnx
from timing import report, rounds_argument

from jaxode import Block, ModelConfig, Schedule, integrate
from jaxode.evaluation.timing import median_times
from jaxode.model import Context, FieldArgs, block_field

CONFIG = ModelConfig(
    kind="masked", vocab_size=1, width=768, heads=12, ff_width=3072, length=128, steps=12, positions="learned"
)


def main(rounds: int) -> None:
    """Measure every n side by side."""
    field, params = block_field((Block(CONFIG, rngs=nnx.Rngs(0)),))
    rows = []
    for batch in (1, 8):
        x = jax.random.normal(jax.random.key(1), (batch, 128, 768))
        programs = {
            n: jax.jit(
                lambda p, x, n=n: integrate(field, x, Schedule.even(12.0, n), args=FieldArgs(p, Context())).state
            )
            for n in (12, 8, 6, 4, 3)
        }
        times = median_times({str(n): partial(run, params, x) for n, run in programs.items()}, rounds)
        rows += [
            {
                "batch": batch,
                "steps": n,
                "ms": times[str(n)],
                "time_ratio": times[str(n)] / times["12"],
                "ratio_over_n_by_12": times[str(n)] / times["12"] / (n / 12),
            }
            for n in programs
        ]
    report("bench-latency-by-steps", rows)


if __name__ == "__main__":
    main(rounds_argument())
