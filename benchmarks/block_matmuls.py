"""How far is the block from its bare matmuls, at ALBERT-base shape (D 768, H 12, F 3072, L 128, N 12)?

    python benchmarks/block_matmuls.py

The reference runs the same six matmuls (fused q/k/v, scores, mix, output, two feed-forward) 12 times in one loop with
nothing between them. Bar: <= 1.25 at batch 1 and 8.
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


def bare(block: Block, x: jax.Array) -> jax.Array:
    """The block's matmuls and nothing else."""
    batch, length, width = x.shape
    heads, head_width = CONFIG.heads, CONFIG.head_width
    fused = x.reshape(-1, width) @ block.attention.qkv.kernel[...]
    q, k, v = jnp.split(fused.reshape(batch, length, 3 * heads, head_width), 3, axis=2)
    scores = jnp.einsum("blhk,bmhk->bhlm", q, k)
    mixed = jnp.einsum("bhlm,bmhk->blhk", scores, v).reshape(-1, width)
    out = mixed @ block.attention.output.kernel[...]
    out = out @ block.feed_forward.inner.kernel[...] @ block.feed_forward.output.kernel[...]
    return out.reshape(x.shape)


def main(rounds: int) -> None:
    """Measure at batch 1 and 8."""
    block = Block(CONFIG, rngs=nnx.Rngs(0))
    graph, params = nnx.split(block)
    field, field_params = block_field((block,))
    schedule = Schedule.even(12.0, 12)

    @jax.jit
    def matmuls(p: Any, x: jax.Array) -> jax.Array:
        return jax.lax.fori_loop(0, 12, lambda _, x: bare(nnx.merge(graph, p), x), x)

    @jax.jit
    def solve(p: Any, x: jax.Array) -> jax.Array:
        return integrate(field, x, schedule, args=FieldArgs(p, Context())).state

    rows = []
    for batch in (1, 8):
        x = 1e-3 * jax.random.normal(jax.random.key(1), (batch, 128, 768))
        times = median_times({"matmuls": partial(matmuls, params, x), "block": partial(solve, field_params, x)}, rounds)
        rows.append(
            {
                "batch": batch,
                "matmuls_ms": times["matmuls"],
                "block_ms": times["block"],
                "ratio": times["block"] / times["matmuls"],
            }
        )
    report("bench-block-matmuls", rows)


if __name__ == "__main__":
    main(rounds_argument())
