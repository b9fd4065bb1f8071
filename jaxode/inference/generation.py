"""Continue a text with a causal model: one compiled function from a window of tokens to the next one."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from jaxode.config import DepthConfig, ModelConfig, require
from jaxode.data import Tokenizer, segments
from jaxode.evaluation import diverged
from jaxode.inference.sampling import Sampling, Temperature
from jaxode.inference.streaming import TextStream
from jaxode.model import plan
from jaxode.model.parameters import Architecture, Parameters
from jaxode.types import Key, Segments, Tokens

NOT_FINITE = -1


@dataclass(frozen=True)
class Generation:
    """A continuation and what it cost."""

    text: str
    """The new text, without the prompt."""
    ids: tuple[int, ...]
    """The new tokens; the last one is the end token where the model ended the text."""
    prompt_tokens: int
    """Tokens before them: 1, the end token, for an empty prompt."""
    new_tokens: int
    block_evaluations_per_token: int | float
    """Applications of a block, each over the whole window; the mean for an adaptive solver."""
    seconds_first: float
    """Until the first token, compilation included."""
    seconds_per_token: float | None
    """Median of the later tokens; None if there was only one."""


# One cache for the process: generating again with the same depth and sampling compiles nothing.
@partial(jax.jit, static_argnames=("architecture", "depth", "sampling", "vocab"))
def next_token(
    params: Parameters,
    window: Tokens,
    count: Int[Array, ""],
    key: Key,
    index: Int[Array, ""],
    segments: Segments | None = None,
    *,
    architecture: Architecture,
    depth: DepthConfig,
    sampling: Sampling,
    vocab: int,
) -> tuple[Int[Array, ""], Any]:
    """The token after the first `count` of a window [1 L], and the block evaluations made.

    Attention is causal, so what pads the window beyond `count` is never looked at. Only position count - 1 goes through
    the head. `index`, the token's place in the whole sequence, picks its random numbers. Where the logits are not
    finite, the token is `NOT_FINITE`.
    """
    model = architecture.bind(params)
    out = model.hidden(window, depth, segments=segments)
    last = jax.lax.dynamic_slice_in_dim(out.state, count - 1, 1, axis=1)
    # a vocabulary rounded up has logits that no token stands for
    logits = model.head(last, model.embedding)[:, 0, :vocab]
    drawn = sampling(logits, jax.random.fold_in(key, index))[0]
    return jnp.where(jnp.isfinite(logits).all(), drawn, NOT_FINITE), out.block_evaluations


def generate(
    architecture: Architecture,
    params: Parameters,
    tokenizer: Tokenizer,
    prompt: str,
    *,
    depth: DepthConfig | None = None,
    max_new_tokens: int = 128,
    sampling: Sampling | None = None,
    seed: int = 0,
    document_mask: bool = False,
    on_token: Callable[[str], None] | None = None,
) -> Generation:
    """Continue `prompt` until the end token or `max_new_tokens`.

    The token at place i of the sequence is drawn with the key fold_in(seed, i), so it depends on the seed and the text
    before it alone. The model sees the last L tokens; an empty prompt starts after the end of a document.

    Args:
        architecture: a causal model without its numbers.
        params: its numbers.
        tokenizer: the model's own.
        prompt: text; literals such as ``<|endoftext|>`` are special tokens.
        depth: solver, steps and schedule; full depth when None.
        max_new_tokens: at most so many.
        sampling: `Temperature(1.0)` when None.
        seed: of all draws.
        document_mask: keep attention within documents.
        on_token: called with each piece of finished text; the pieces join to the text.

    Raises:
        UserError: a masked model, or a depth that does not fit its layout.
        Diverged: predictions that are not finite.
    """
    model: ModelConfig = architecture.bind(params).config
    require(
        model.kind == "causal",
        'model.kind = "masked": a masked model fills in [MASK] and does not generate; use task fill',
    )
    require(max_new_tokens >= 1, f"max_new_tokens = {max_new_tokens}: must be at least 1")
    depth = depth or DepthConfig()
    plan(model, depth)
    ids = tokenizer.encode(prompt, allow_special=True) or [tokenizer.end_id]
    prompt_tokens = len(ids)
    stream = TextStream(tokenizer, ids)
    static: dict[str, Any] = {
        "architecture": architecture,
        "depth": depth,
        "sampling": sampling or Temperature(),
        "vocab": tokenizer.vocab_size,
    }
    key = jax.random.key(seed)
    pieces: list[str] = []
    seconds: list[float] = []
    evaluations: list[float] = []

    def give(piece: str) -> None:
        if piece:
            pieces.append(piece)
            if on_token is not None:
                on_token(piece)

    while len(ids) - prompt_tokens < max_new_tokens:
        start = time.perf_counter()
        window, count = _window(ids, model.length, tokenizer.pad_id)
        documents = segments(window, tokenizer.end_id, np.array([count])) if document_mask else None
        out = next_token(params, window, np.int32(count), key, np.int32(len(ids)), documents, **static)
        token, used = jax.device_get(out)
        if token == NOT_FINITE:
            raise diverged("a prediction", architecture, params, window, documents, depth)
        ids.append(int(token))
        seconds.append(time.perf_counter() - start)
        evaluations.append(float(used))
        if token == tokenizer.end_id:
            break
        give(stream.push(int(token)))
    give(stream.finish())
    blocks = statistics.fmean(evaluations)
    return Generation(
        text="".join(pieces),
        ids=tuple(ids[prompt_tokens:]),
        prompt_tokens=prompt_tokens,
        new_tokens=len(ids) - prompt_tokens,
        block_evaluations_per_token=round(blocks) if blocks == round(blocks) else blocks,
        seconds_first=seconds[0],
        seconds_per_token=statistics.median(seconds[1:]) if seconds[1:] else None,
    )


def _window(ids: Sequence[int], length: int, pad_id: int) -> tuple[Int[np.ndarray, "1 L"], int]:
    """The last L tokens, padded at the end, and how many are real."""
    seen = ids[-length:]
    window = np.full((1, length), pad_id, np.int32)
    window[0, : len(seen)] = seen
    return window, len(seen)
