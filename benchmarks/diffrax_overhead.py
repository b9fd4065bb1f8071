"""What does Diffrax cost over loops written by hand, at ALBERT-base shape (D 768, H 12, F 3072, L 128, N 12)?

    python benchmarks/diffrax_overhead.py

forward: `integrate` against 12 block applications written out. gradient: `integrate` with either memory-saving adjoint
against `lax.scan` with JAX's default storing backward pass, in time and in temporary memory as XLA reports it.
Bars: forward <= 1.03, gradient <= 1.05 in time and <= 0.25 in memory.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from timing import report, rounds_argument

from jaxode import Block, ModelConfig, Schedule, integrate
from jaxode.evaluation.timing import median_times
from jaxode.model import Context, FieldArgs, block_field

CONFIG = ModelConfig(
    kind="masked", vocab_size=1, width=768, heads=12, ff_width=3072, length=128, steps=12, positions="learned"
)


def main(rounds: int) -> None:
    """Measure at batch 1 and 8."""
    block = Block(CONFIG, rngs=nnx.Rngs(0))
    graph, params = nnx.split(block)
    field, field_params = block_field((block,))
    schedule = Schedule.even(12.0, 12)

    def apply(p: Any, x: Any) -> Any:
        return x + nnx.merge(graph, p).increment(0.0, x, Context())

    def by_hand(p: Any, x: Any) -> Any:
        for _ in range(12):
            x = apply(p, x)
        return x

    def scanned(p: Any, x: Any) -> Any:
        return jax.lax.scan(lambda x, _: (apply(p, x), None), x, None, length=12)[0]

    def solved(p: Any, x: Any, adjoint: Any = "recursive") -> Any:
        return integrate(field, x, schedule, args=FieldArgs(p, Context()), adjoint=adjoint).state

    def gradient(run: Any) -> Any:
        return jax.jit(jax.grad(lambda p, x: jnp.mean(run(p, x) ** 2), argnums=(0, 1)))

    rows = []
    for batch in (1, 8):
        x = jax.random.normal(jax.random.key(1), (batch, 128, 768))
        forward = {
            "by hand": partial(jax.jit(by_hand), params, x),
            "diffrax": partial(jax.jit(solved), field_params, x),
        }
        times = median_times(forward, rounds)
        rows.append(_row("forward", batch, times["by hand"], times["diffrax"], None))
        adjoints = ("recursive", "remat")
        programs = {name: gradient(partial(solved, adjoint=name)).lower(field_params, x).compile() for name in adjoints}
        scan = gradient(scanned).lower(params, x).compile()
        ours = {name: partial(program, field_params, x) for name, program in programs.items()}
        times = median_times({"scan": partial(scan, params, x), **ours}, rounds)
        for name, program in programs.items():
            memory = [p.memory_analysis().temp_size_in_bytes for p in (program, scan)]
            rows.append(_row(f"gradient, {name}", batch, times["scan"], times[name], memory[0] / memory[1]))
    report("bench-diffrax-overhead", rows)


def _row(what: str, batch: int, reference: float, ours: float, memory: float | None) -> dict[str, Any]:
    return {
        "pass": what,
        "batch": batch,
        "reference_ms": reference,
        "diffrax_ms": ours,
        "time_ratio": ours / reference,
        "memory_ratio": memory,
    }


if __name__ == "__main__":
    main(rounds_argument())
