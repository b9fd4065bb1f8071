"""Networks in PyTorch as one would write them: the rivals of `benchmarks/accelerator.py` and `train_step_torch.py`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
from torch import nn  # pyright: ignore[reportMissingImports]
from torch.nn import functional  # pyright: ignore[reportMissingImports]
from transformers import AlbertConfig, AlbertModel, GPT2Config, GPT2LMHeadModel

from jaxode.config import ModelConfig


class SharedBlock(nn.Module):
    """A pre-norm block with rotary positions and `scaled_dot_product_attention`."""

    def __init__(self, model: ModelConfig) -> None:
        super().__init__()
        self.model, width = model, model.width
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.output = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.inner, self.outer = nn.Linear(width, model.hidden_width), nn.Linear(model.hidden_width, width)
        half = model.head_width // 2
        angle = torch.arange(model.length)[:, None] * 10_000.0 ** (-torch.arange(half) / half)
        self.register_buffer("cos", angle.cos())
        self.register_buffer("sin", angle.sin())

    def rotate(self, x: torch.Tensor) -> torch.Tensor:
        """Rotary positions on [B, H, L, K]."""
        first, second = x.chunk(2, dim=-1)
        cos, sin = self.cos.to(x.dtype), self.sin.to(x.dtype)
        return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """One application."""
        batch, length, width = x.shape
        heads, head_width = self.model.heads, self.model.head_width
        q, k, v = self.qkv(self.norm1(x)).view(batch, length, 3, heads, head_width).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(self.rotate(q), self.rotate(k), v, is_causal=True)
        x = x + self.output(mixed.transpose(1, 2).reshape(batch, length, width))
        return x + self.outer(functional.gelu(self.inner(self.norm2(x)), approximate="tanh"))


class SharedModel(nn.Module):
    """The block applied N times between an embedding and a tied head."""

    def __init__(self, model: ModelConfig) -> None:
        super().__init__()
        self.steps = model.steps
        self.embedding = nn.Embedding(model.vocab_size, model.width)
        nn.init.normal_(self.embedding.weight, std=0.02)
        self.block, self.norm = SharedBlock(model), nn.LayerNorm(model.width)

    def forward(self, tokens: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Mean cross-entropy."""
        x = self.embedding(tokens)
        for _ in range(self.steps):
            x = self.block(x)
        logits = self.norm(x) @ self.embedding.weight.T
        return functional.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())


def update(
    model: ModelConfig, tokens: np.ndarray, targets: np.ndarray, dtype: str, *, compiled: bool = True
) -> Callable[[], float]:
    """One update with AdamW (fused) and clipping, under autocast where the type is not float32."""
    torch.manual_seed(0)
    place = device()
    network = SharedModel(model).to(place)
    # float32 products are float32 on both sides
    forward = torch.compile(network) if compiled else network
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, fused=True)
    inputs, outputs = (torch.from_numpy(np.array(part)).long().to(place) for part in (tokens, targets))
    cast = torch.autocast(place, getattr(torch, dtype), enabled=dtype != "float32")

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        with cast:
            loss = forward(inputs, outputs)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        return loss.item()

    return step


def causal_update(model: ModelConfig, tokens: Any, targets: Any, dtype: str) -> Callable[[], float]:
    """`update`, compiled."""
    return update(model, tokens, targets, dtype)


def gpt2(model: ModelConfig, rows: int, context: int, turns: int, dtype: str) -> dict[str, Callable[[], Any]]:
    """`generate` of GPT-2 with N blocks of its own: one token after the prompt, and `turns` more."""
    torch.manual_seed(0)
    shape = GPT2Config(
        vocab_size=model.vocab_size,
        n_embd=model.width,
        n_head=model.heads,
        n_layer=model.steps,
        n_positions=context + turns + 1,
        bos_token_id=0,
        eos_token_id=None,
        pad_token_id=0,
    )
    network = GPT2LMHeadModel(shape).eval().to(device(), getattr(torch, dtype))
    prompt = np.random.default_rng(0).integers(0, model.vocab_size, (rows, context))
    ids = torch.from_numpy(prompt).to(device())
    mask = torch.ones_like(ids)

    def tokens(count: int) -> Callable[[], Any]:
        @torch.inference_mode()
        def run() -> list[int]:
            settings: dict[str, Any] = {"max_new_tokens": count, "min_new_tokens": count, "do_sample": False}
            return network.generate(ids, attention_mask=mask, **settings)[:, -1].tolist()

        return run

    return {"GPT-2, one token": tokens(1), "GPT-2, more tokens": tokens(1 + turns)}


def albert(model: ModelConfig, tokens: np.ndarray, dtype: str) -> Callable[[], Any]:
    """Transformers' AlbertModel, compiled for this shape."""
    torch.manual_seed(0)
    shape = AlbertConfig(
        vocab_size=model.vocab_size,
        embedding_size=model.embedding_width,
        hidden_size=model.width,
        num_hidden_layers=model.steps,
        num_attention_heads=model.heads,
        intermediate_size=model.hidden_width,
        hidden_act="gelu_pytorch_tanh",
        max_position_embeddings=model.length,
    )
    network = torch.compile(AlbertModel(shape).eval().to(device(), getattr(torch, dtype)), dynamic=False)
    ids = torch.from_numpy(np.array(tokens)).long().to(device())

    @torch.inference_mode()
    def run() -> float:
        # a number on the host: what runs on a device is waited for
        return network(input_ids=ids).pooler_output.float().sum().item()

    return run


def device() -> str:
    """Where JAX is as well."""
    import jax

    if jax.default_backend() == "cpu":
        return "cpu"
    if not torch.cuda.is_available():
        raise RuntimeError("this PyTorch sees no GPU")
    return "cuda"
