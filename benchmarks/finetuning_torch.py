"""Fine-tuning an ALBERT: examples a second, against transformers' own in a plain PyTorch loop. Same shape, same batch.

    pip install -e ".[torch]" && python benchmarks/finetuning_torch.py

ALBERT-base's shape (D 768, H 12, F 3072, E 128, V 30,000, N 12) with random weights and two labels, B 32, L 64, AdamW
and clipping at 1, no dropout: AlbertForSequenceClassification, eager and under `torch.compile`, and this project's
update of the same folder, read by `jaxode.load`, with each way through the backward pass. The losses of the first
update agree. Bar: 1.2 times the plain (eager) loop.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch  # pyright: ignore[reportMissingImports]
import transformers
from timing import report, rounds_argument

import jaxode
from jaxode import DepthConfig, OptimizerConfig
from jaxode.data import Batch
from jaxode.evaluation.timing import median_times
from jaxode.model.parameters import split
from jaxode.training import init_state, make_optimizer, make_train_step

BATCH, LENGTH, RATE = 32, 64, 1e-5


def batch() -> tuple[np.ndarray, np.ndarray]:
    """Tokens and labels."""
    rng = np.random.default_rng(0)
    return rng.integers(5, 30_000, (BATCH, LENGTH)).astype(np.int32), rng.integers(0, 2, BATCH)


def torch_step(model: Any, tokens: np.ndarray, labels: np.ndarray, compiled: bool) -> Callable[[], float]:
    """A plain loop's update."""
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, fused=True)
    run: Any = torch.compile(model) if compiled else model
    told = {"input_ids": torch.tensor(tokens).long(), "labels": torch.tensor(labels)}

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        loss = run(**told).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return float(loss.detach())

    return step


def jax_step(folder: str, tokens: np.ndarray, labels: np.ndarray, adjoint: Any) -> Callable[[], Any]:
    """The project's own update of the same model."""
    architecture, params = split(jaxode.load(folder).model)
    optimizer = make_optimizer(
        OptimizerConfig(name="adamw", learning_rate=RATE, weight_decay=0.01, warmup_fraction=0.0), 1000
    )
    step = jax.jit(make_train_step(architecture, DepthConfig(adjoint=adjoint), optimizer), donate_argnums=0)
    weights = np.zeros((BATCH, LENGTH), np.float32)
    weights[:, 0] = 1.0
    rows = Batch(tokens, tokens, weights, np.ones((BATCH, LENGTH), np.int32), wanted=labels[:, None].astype(np.float32))
    state, key = init_state(jax.tree.map(jnp.copy, params), optimizer), jax.random.key(0)

    def run() -> Any:
        nonlocal state
        state, metrics = step(state, rows, key)
        return metrics.loss

    return run


def main(rounds: int) -> None:
    """Measure all side by side."""
    tokens, labels = batch()
    config = transformers.AlbertConfig(
        hidden_size=768,
        num_attention_heads=12,
        intermediate_size=3072,
        classifier_dropout_prob=0.0,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        num_labels=2,  # pyright: ignore[reportCallIssue]
    )
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        made = transformers.AlbertForSequenceClassification(config)
        made.save_pretrained(folder)
        own: dict[str, Any] = {
            f"jaxode, {adjoint}": jax_step(folder, tokens, labels, adjoint) for adjoint in ("unroll", "remat")
        }
        again = transformers.AlbertForSequenceClassification.from_pretrained(folder)
        steps = {
            "transformers, eager": torch_step(made, tokens, labels, False),
            "transformers, compiled": torch_step(again, tokens, labels, True),
            **own,
        }
        first = {name: float(step()) for name, step in steps.items()}
        assert max(first.values()) - min(first.values()) < 1e-3, first
        times = median_times(steps, rounds)
    report(
        "bench-finetuning-torch",
        [
            {
                "update": name,
                "ms": ms,
                "examples_per_second": 1e3 * BATCH / ms,
                "speed_over_eager": times["transformers, eager"] / ms,
                "speed_over_compiled": times["transformers, compiled"] / ms,
            }
            for name, ms in times.items()
        ],
    )


if __name__ == "__main__":
    main(rounds_argument(5))
