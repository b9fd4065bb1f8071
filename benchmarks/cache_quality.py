"""What it costs to share slots of the cache, and to read prompts at another depth than the new tokens.

    JAXODE_DATA=DATA python benchmarks/cache_quality.py

The books' validation text in rows of 128 tokens: the first 32 are the prompt, the others are given one by one and
predicted. Perplexity over that of the same solve with every slot and one depth for all.
"""

from __future__ import annotations

import dataclasses
import math
import os
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from timing import report

import jaxode
from jaxode import DepthConfig
from jaxode.inference import Greedy
from jaxode.inference.generation.cache import Layout, Past
from jaxode.inference.generation.decoding import Decoder, earlier, prefill
from jaxode.model.memory import Memory

PROMPT, LENGTH, COUNT = 32, 128, 64


def calibrated(steps: int) -> DepthConfig:
    """Of the shipped models."""
    return DepthConfig(steps=steps, solver="calibrated")


FULL = DepthConfig(solver="euler")
CASES = [
    *((f"{share or 12} steps a slot", FULL, FULL, share) for share in (1, 2, 3, 4, 6, 0)),
    ("prompt 12, tokens 6", FULL, calibrated(6), 1),
    ("prompt 6, tokens 6", calibrated(6), calibrated(6), 1),
    ("prompt 6, tokens 12", calibrated(6), FULL, 1),
    ("prompt 12, tokens 3", FULL, calibrated(3), 1),
    ("prompt 3, tokens 3", calibrated(3), calibrated(3), 1),
    ("prompt 3, tokens 12", calibrated(3), FULL, 1),
]


@partial(jax.jit, static_argnames=("decoder", "depth"))
def nats_per_token(params: Any, tokens: Any, *, decoder: Decoder, depth: DepthConfig) -> Any:
    """Mean over the tokens behind the prompt."""
    model, rows, later = decoder.architecture.bind(params), len(tokens), LENGTH - PROMPT
    lengths, zeros = jnp.full(rows, PROMPT), jnp.zeros(rows, jnp.int32)
    keys = jax.random.split(jax.random.key(0), rows)
    prompts = tokens[:, :PROMPT]
    first = prefill(
        params, prompts, lengths, zeros, None, None, keys, lengths, decoder=decoder, depth=depth, capacity=LENGTH
    )
    order = decoder.layout.order_of(model.config, decoder.depth)

    def body(past: Past, turn: Any) -> Any:
        memory = Memory(earlier(past, past.end[0], 1, LENGTH), order)
        token = jax.lax.dynamic_slice_in_dim(tokens, PROMPT + turn, 1, axis=1)
        places = jnp.full((rows, 1), PROMPT + turn)
        logits = decoder.logits(model, decoder.hidden(model, token, places, memory, decoder.depth))
        target = jax.lax.dynamic_slice_in_dim(tokens, PROMPT + turn + 1, 1, axis=1)
        nats = -jnp.take_along_axis(jax.nn.log_softmax(logits), target[..., None], axis=-1)
        return dataclasses.replace(past, slots=tuple(memory.slots), end=past.end + 1), jnp.mean(nats)

    return jnp.mean(jax.lax.scan(body, first.past, jnp.arange(later - 1))[1])


def main() -> None:
    """Every case of both models."""
    text = (Path(os.environ["JAXODE_DATA"]) / "books" / "valid.txt").read_text(encoding="utf-8")
    found = []
    for name in ("books-causal", "books-causal-elastic"):
        trained = jaxode.load(name)
        tokenizer = trained.own_tokenizer
        stride = len(text) // (COUNT + 1)
        rows = [tokenizer.encode(text[i * stride : i * stride + 1200])[:LENGTH] for i in range(1, COUNT + 1)]
        tokens = jnp.asarray(np.asarray(rows, np.int32))
        losses: dict[str, float] = {}
        for case, prompt_depth, depth, share in CASES:
            decoder = Decoder(
                trained.architecture, depth, Layout(depth, share), Greedy(), tokenizer.vocab_size, -1, LENGTH
            )
            losses[case] = float(nats_per_token(trained.params, tokens, decoder=decoder, depth=prompt_depth))
            base = {6: "prompt 6, tokens 6", 3: "prompt 3, tokens 3"}.get(depth.steps or 12, "1 steps a slot")
            found.append({"model": name, "case": case, "nats_per_token": losses[case], "beside": base})
        for row in found:
            if row["model"] == name:
                row["perplexity_rise"] = 100 * math.expm1(row["nats_per_token"] - losses[row["beside"]])
    report("bench-cache-quality", found)


if __name__ == "__main__":
    main()
