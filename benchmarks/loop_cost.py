"""What one more loop costs: the forward pass of a looped model at 1, 2, .. loops against a straight line.

    python benchmarks/loop_cost.py

A model of Ouro's form (D 512, 4 layers, 4 loops, L 128, V 8192), one row and 8. The line is fitted to the times of 1 to
4 loops by least squares: what is fixed (embedding, head) and what a loop takes; more loops than trained stand beside.
Bar: no time more than 5% off the line.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from timing import report, rounds_argument

from jaxode import DepthConfig, ModelConfig, make_model
from jaxode.config import LoopConfig
from jaxode.evaluation.timing import median_times
from jaxode.model.parameters import split

LOOPS = (1, 2, 3, 4, 6, 8)
CONFIG = ModelConfig(
    vocab_size=8192,
    width=512,
    heads=8,
    length=128,
    steps=4,
    inner_blocks=4,
    norm="rms",
    norm_position="sandwich",
    bias="none",
    feed_forward="swiglu",
    tied=False,
    loop=LoopConfig(boundary="norm", schedule="unit"),
)


def main(rounds: int) -> None:
    """Measure all numbers of loops side by side."""
    architecture, params = split(make_model(CONFIG))

    @partial(jax.jit, static_argnames="loops")
    def run(params: Any, tokens: Any, loops: int) -> Any:
        return architecture.bind(params)(tokens, DepthConfig(steps=loops)).logits

    rows = []
    for batch in (1, 8):
        tokens = jax.random.randint(jax.random.key(0), (batch, CONFIG.length), 0, CONFIG.vocab_size, jnp.int32)
        times = median_times({loops: partial(run, params, tokens, loops) for loops in LOOPS}, rounds)
        trained = [n for n in LOOPS if n <= CONFIG.steps]
        loop, fixed = np.polyfit(trained, [times[n] for n in trained], 1)
        rows += [
            {"rows": batch, "loops": n, "ms": ms, "fixed_ms": fixed, "over_line": ms / (fixed + n * loop)}
            for n, ms in times.items()
        ]
    report("bench-loop-cost", rows)


if __name__ == "__main__":
    main(rounds_argument())
