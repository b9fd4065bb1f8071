"""How fast is an ALBERT-base encoder (D 768, H 12, F 3072, N 12, E 128, V 30000) on texts of L 128, beside PyTorch?

    pip install -e ".[torch]" && python benchmarks/encoder_throughput.py

Against transformers' AlbertModel with the same weights, eager and under `torch.compile`; both must give the same states
and pooled vectors. It gets PyTorch's own fused kernels for attention and for the tanh-approximated GELU. Fewer steps of
the same weights are measured at B 32. Bars: full depth >= 1.2x the faster PyTorch at B 1, 8 and 32; n = 4, a third of
the steps, >= 2.7x full depth at B 32.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import torch  # pyright: ignore[reportMissingImports]
from flax import nnx
from timing import report, rounds_argument
from transformers import AlbertModel

from jaxode import Config, DepthConfig, Encoder, ModelConfig, Pretrained, save_pretrained
from jaxode.evaluation.timing import median_times
from jaxode.model.parameters import split

CONFIG = ModelConfig(
    kind="masked",
    vocab_size=30000,
    width=768,
    heads=12,
    ff_width=3072,
    embedding_width=128,
    length=128,
    steps=12,
    norm_position="post",
    norm_epsilon=1e-12,
    positions="learned",
    token_types=2,
    embedding_norm=True,
    feed_forward="gelu_tanh",
    head_activation="gelu_tanh",
)
BATCHES = {1: (), 8: (), 32: (6, 4)}
"""Fewer steps to measure beside the full depth, by batch."""


def encoder() -> Pretrained:
    """An encoder with a pooler, as a model read from Hugging Face would be; noise on all that is 0 or 1 at first."""
    model = Encoder(CONFIG, rngs=nnx.Rngs(0))
    architecture, params = split(model)
    rng = np.random.default_rng(0)
    params = {name: value + rng.normal(0, 0.02, value.shape).astype(np.float32) for name, value in params.items()}
    return Pretrained(
        model=architecture.bind(params),
        architecture=architecture,
        params=params,
        config=Config(model=CONFIG),
        tokenizer=None,
        task="encoder",
        source={"hidden_act": "gelu_pytorch_tanh", "classifier_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
        folder=Path(),
    )


def torch_forward(model: Any, tokens: np.ndarray) -> Callable[[], tuple[np.ndarray, np.ndarray]]:
    """A forward pass as a closure."""
    ids = torch.from_numpy(tokens).long()

    @torch.inference_mode()
    def run() -> tuple[np.ndarray, np.ndarray]:
        out = model(input_ids=ids)
        return out.last_hidden_state.numpy(), out.pooler_output.numpy()

    return run


@partial(jax.jit, static_argnames=("architecture", "depth"))
def forward(params: Any, tokens: Any, *, architecture: Any, depth: DepthConfig) -> tuple[jax.Array, jax.Array]:
    """State and pooled vector."""
    out = architecture.bind(params)(tokens, depth)
    return out.state, out.pooled


def measure(ours: Pretrained, theirs: Any, batch: int, short: tuple[int, ...], rounds: int) -> list[dict[str, Any]]:
    """One batch size, all candidates in turn."""
    tokens = np.random.default_rng(batch).integers(0, CONFIG.vocab_size, (batch, CONFIG.length)).astype(np.int32)
    run = partial(forward, jax.device_put(ours.params), tokens, architecture=ours.architecture)
    full = f"jaxode, n = {CONFIG.steps}"
    candidates: dict[str, Callable[[], Any]] = {
        "torch eager": torch_forward(theirs, tokens),
        # one program a shape: a program for every batch size would be slower
        "torch compile": torch_forward(torch.compile(theirs, dynamic=False), tokens),
        full: partial(run, depth=DepthConfig(solver="euler")),
        **{f"jaxode, n = {n}": partial(run, depth=DepthConfig(steps=n, solver="euler")) for n in short},
    }
    for name in ("torch eager", "torch compile"):
        for have, want in zip(candidates[full](), candidates[name](), strict=True):
            np.testing.assert_allclose(have, want, rtol=0, atol=2e-4, err_msg=f"{full} against {name}")
    times = median_times(candidates, rounds)
    fastest = min(times["torch eager"], times["torch compile"])
    return [
        {
            "batch": batch,
            "program": name,
            "ms": ms,
            "texts_per_second": 1e3 * batch / ms,
            "speed_over_best_torch": fastest / ms,
            "speed_over_full_depth": times[full] / ms,
        }
        for name, ms in times.items()
    ]


def main(rounds: int) -> None:
    """Measure every batch size."""
    ours = encoder()
    with tempfile.TemporaryDirectory() as folder:
        theirs = AlbertModel.from_pretrained(save_pretrained(ours, Path(folder) / "albert")).eval()
    rows = [row for batch, short in BATCHES.items() for row in measure(ours, theirs, batch, short, rounds)]
    report("bench-encoder-throughput", rows)


if __name__ == "__main__":
    main(rounds_argument(7))
