"""Training throughput of a small causal model (D 256, H 4, F 1024, N 12, L 256, V 2048, B 8) against PyTorch.

    pip install -e ".[torch]" && python benchmarks/train_step_torch.py

The PyTorch network is the same computation written plainly: one shared pre-norm block applied 12 times, rotary
positions, tied head, `scaled_dot_product_attention`, AdamW (fused) with clipping; eager and under `torch.compile`.
Bar: at least as many tokens per second as either. Two of the adjoints recompute the block in the backward pass, the
PyTorch network stores everything, as adjoint "unroll" does.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from accelerators.torch_networks import update
from timing import report, rounds_argument

from jaxode import DepthConfig, ModelConfig, OptimizerConfig, make_model
from jaxode.data import Batch
from jaxode.evaluation.timing import median_times
from jaxode.model.parameters import split
from jaxode.training import init_state, make_optimizer, make_train_step

CONFIG = ModelConfig(vocab_size=2048, width=256, heads=4, length=256, steps=12)
BATCH = 8


def jax_step(adjoint: Any, rows: np.ndarray) -> Any:
    """One update of the project's own train step as a closure."""
    architecture, params = split(make_model(CONFIG))
    optimizer = make_optimizer(OptimizerConfig(name="adamw"), 1000)
    step = jax.jit(make_train_step(architecture, DepthConfig(adjoint=adjoint), optimizer), donate_argnums=0)
    ones = np.ones((BATCH, CONFIG.length))
    batch = Batch(rows[:, :-1], rows[:, 1:], ones.astype(np.float32), ones.astype(np.int32))
    state, key = init_state(jax.tree.map(jnp.copy, params), optimizer), jax.random.key(0)

    def run() -> Any:
        nonlocal state
        state, metrics = step(state, batch, key)
        return metrics.loss

    return run


def main(rounds: int) -> None:
    """Measure all side by side."""
    rows = np.random.default_rng(0).integers(0, CONFIG.vocab_size, (BATCH, CONFIG.length + 1)).astype(np.int32)
    torch_step = partial(update, CONFIG, rows[:, :-1], rows[:, 1:], "float32")
    times = median_times(
        {
            "torch eager": torch_step(compiled=False),
            "torch compile": torch_step(compiled=True),
            "jaxode recursive": jax_step("recursive", rows),
            "jaxode remat": jax_step("remat", rows),
            "jaxode unroll": jax_step("unroll", rows),
        },
        rounds,
    )
    tokens = BATCH * CONFIG.length
    fastest = min(times["torch eager"], times["torch compile"])
    report(
        "bench-train-step-torch",
        [
            {"step": name, "ms": ms, "tokens_per_second": 1e3 * tokens / ms, "speed_over_best_torch": fastest / ms}
            for name, ms in times.items()
        ],
    )


if __name__ == "__main__":
    main(rounds_argument())
