"""The bare matrix products of a model: what no implementation of it can do without."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from jaxode import ModelConfig


def matrix_products(model: ModelConfig, tokens: int, times: int) -> Callable[[], None]:
    """The matrix products of one solve of so many tokens, each needing the result of the one before, `times` over."""
    width, hidden = model.width, model.hidden_width
    shapes = {"qkv": (width, 3 * width), "out": (width, width), "up": (width, hidden), "down": (hidden, width)}
    keys = jax.random.split(jax.random.key(0), len(shapes) + 2)
    weights = {
        name: 0.01 * jax.random.normal(key, shape) for key, (name, shape) in zip(keys, shapes.items(), strict=False)
    }
    head, x = jax.random.normal(keys[-1], (width, model.vocab_size)), jax.random.normal(keys[-2], (tokens, width))

    @jax.jit
    def solve(weights: Any, head: Any, x: Any) -> Any:
        for _ in range(model.steps):
            x = x + (x @ weights["qkv"])[:, :width] @ weights["out"]
            x = x + (x @ weights["up"]) @ weights["down"]
        return x @ head

    def run() -> None:
        out = x
        for _ in range(times):
            out = solve(weights, head, x)
        jax.block_until_ready(out)

    return run
