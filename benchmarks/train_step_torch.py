"""Training throughput of a small causal model (D 256, H 4, F 1024, N 12, L 256, V 2048, B 8) against PyTorch.

    pip install -e ".[torch]" && python benchmarks/train_step_torch.py

The PyTorch network is the same computation written plainly: one shared pre-norm block applied 12 times, rotary
positions, tied head, `scaled_dot_product_attention`, AdamW (fused) with clipping; eager and under `torch.compile`.
Bar: at least as many tokens per second as either. Two of the adjoints recompute the block in the backward pass, the
PyTorch network stores everything, as adjoint "unroll" does.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from timing import report, rounds_argument
from torch import nn
from torch.nn import functional

from jaxode import DepthConfig, ModelConfig, OptimizerConfig, make_model
from jaxode.data import Batch
from jaxode.evaluation.timing import median_times
from jaxode.model.parameters import split
from jaxode.training import init_state, make_optimizer, make_train_step

CONFIG = ModelConfig(vocab_size=2048, width=256, heads=4, length=256, steps=12)
BATCH = 8


class TorchModel(nn.Module):
    """The same network, as one would write it."""

    def __init__(self) -> None:
        super().__init__()
        width = CONFIG.width
        self.embedding = nn.Embedding(CONFIG.vocab_size, width)
        nn.init.normal_(self.embedding.weight, std=0.02)
        self.norm1, self.norm2, self.norm = nn.LayerNorm(width), nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.output = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.inner, self.outer = nn.Linear(width, CONFIG.hidden_width), nn.Linear(CONFIG.hidden_width, width)
        half = CONFIG.head_width // 2
        frequency = 10_000.0 ** (-torch.arange(half) / half)
        angle = torch.arange(CONFIG.length)[:, None] * frequency
        self.register_buffer("cos", angle.cos())
        self.register_buffer("sin", angle.sin())

    def rotate(self, x: torch.Tensor) -> torch.Tensor:
        """Rotary positions on [B, H, L, K]."""
        first, second = x.chunk(2, dim=-1)
        return torch.cat([first * self.cos - second * self.sin, second * self.cos + first * self.sin], dim=-1)

    def block(self, x: torch.Tensor) -> torch.Tensor:
        """One application."""
        batch, length, width = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(batch, length, 3, CONFIG.heads, CONFIG.head_width).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(self.rotate(q), self.rotate(k), v, is_causal=True)
        x = x + self.output(mixed.transpose(1, 2).reshape(batch, length, width))
        return x + self.outer(functional.gelu(self.inner(self.norm2(x)), approximate="tanh"))

    def forward(self, tokens: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Mean cross-entropy."""
        x = self.embedding(tokens)
        for _ in range(CONFIG.steps):
            x = self.block(x)
        logits = self.norm(x) @ self.embedding.weight.T
        return functional.cross_entropy(logits.flatten(0, 1), targets.flatten())


def torch_step(compiled: bool, rows: np.ndarray) -> Any:
    """One update of the PyTorch network as a closure."""
    torch.manual_seed(0)
    model = TorchModel()
    forward = torch.compile(model) if compiled else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    tokens, targets = torch.from_numpy(rows[:, :-1]).long(), torch.from_numpy(rows[:, 1:]).long()

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        loss = forward(tokens, targets)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss.item()

    return step


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
    times = median_times(
        {
            "torch eager": torch_step(False, rows),
            "torch compile": torch_step(True, rows),
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
