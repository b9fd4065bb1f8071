"""Tokens a second with the cache over depth, over what the bandwidth allows, beside GPT-2 of the same shape."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from accelerators.chip import BANDWIDTH
from accelerators.rivals import rival
from accelerators.scale import Scale
from accelerators.timing import median_seconds
from jaxode.config import DepthConfig, ModelConfig
from jaxode.inference.generation.cache import Layout, Past
from jaxode.inference.generation.decoding import TURN, Decoder, Rows, decode
from jaxode.inference.generation.sampling import Greedy
from jaxode.model import block_evaluations, make_model
from jaxode.model.memory import Slot
from jaxode.model.parameters import Parameters, split

NO_END = -2
"""A token that is never drawn: no row ends."""


@dataclasses.dataclass
class Texts:
    """Rows in the middle of being continued; after every call they are where they were before."""

    decoder: Decoder
    params: Parameters
    past: Past
    rows: Rows
    turns: int

    def __call__(self) -> jax.Array:
        """So many tokens a row, one solve a token."""
        before = jnp.copy(self.past.end)
        self.past, self.rows = decode(self.params, self.past, self.rows, np.int32(self.turns), decoder=self.decoder)
        self.rewind(before)
        return self.rows.last

    def rewind(self, end: jax.Array) -> None:
        """What was drawn is overwritten by the next call."""
        self.past = dataclasses.replace(self.past, end=end)
        fresh = {"count": jnp.zeros_like(self.rows.count), "left": jnp.full_like(self.rows.left, 1 << 20)}
        self.rows = dataclasses.replace(self.rows, **fresh)


def texts(scale: Scale, model: ModelConfig, rows: int, depth: DepthConfig) -> Texts:
    """`rows` texts of `scale.context` tokens, whose keys and values are random: what they hold takes no time."""
    architecture, params = split(make_model(model, dtype=scale.type))
    params = jax.tree.map(lambda value: value.astype(scale.type), params)
    layout = Layout(depth)
    shape = (rows * model.num_kv_heads, scale.context + TURN, model.head_width)
    keys = jax.random.split(jax.random.key(0), len(set(layout.order(model))))
    slots = tuple(Slot(*(jax.random.normal(half, shape, scale.type) for half in jax.random.split(key))) for key in keys)
    zeros = jnp.zeros(rows, jnp.int32)
    # every array its own: they are donated
    past = Past(slots, jnp.full(rows, scale.context, jnp.int32), jnp.copy(zeros), jnp.copy(zeros))
    state = Rows(
        last=jnp.arange(rows, dtype=jnp.int32) % model.vocab_size,
        count=zeros,
        left=jnp.full(rows, 1 << 20, jnp.int32),
        active=jnp.ones(rows, bool),
        tokens=jnp.zeros((rows, TURN), jnp.int32),
        log_probabilities=jnp.zeros((rows, TURN)),
        seen=None,
        keys=jax.random.split(jax.random.key(1), rows),
    )
    window = scale.context + 2 * TURN
    decoder = Decoder(architecture, depth, layout, Greedy(), model.vocab_size, NO_END, window)
    return Texts(decoder, params, past, state, scale.turns)


def decoding(scale: Scale, known: Mapping[str, float], width: int) -> tuple[dict[str, float], dict[str, str]]:
    """At one width: full depth and a third of it, at every number of rows."""
    model, found, skipped = scale.causal(width), {}, {}
    third = max(1, scale.steps // 3)
    for rows in scale.decoded_rows:
        depths = {n: DepthConfig(steps=n, solver="euler") for n in (scale.steps, third)}
        candidates: dict[str, Any] = {f"n = {n}": texts(scale, model, rows, depth) for n, depth in depths.items()}
        theirs = rival("gpt2", skipped, model, rows, scale.context, scale.turns, scale.dtype)
        if theirs is not None:
            candidates |= theirs
        seconds = median_seconds(candidates)
        for n, depth in depths.items():
            key = f"D {width}, {rows} rows, n = {n} of {scale.steps}"
            taken = seconds[f"n = {n}"] / scale.turns
            read = bytes_read(model, depth, rows, scale.context + TURN, scale.type.itemsize)
            found[f"{key}: tokens a second"] = rows / taken
            found[f"{key}: share of the bandwidth"] = read / taken / (1e9 * known[BANDWIDTH])
        if theirs is not None:
            gpt2 = (seconds["GPT-2, more tokens"] - seconds["GPT-2, one token"]) / scale.turns
            ours = seconds[f"n = {scale.steps}"] / scale.turns
            found[f"D {width}, {rows} rows, n = {scale.steps} of {scale.steps}: speed over GPT-2 (eager)"] = gpt2 / ours
    return found, skipped


def bytes_read(model: ModelConfig, depth: DepthConfig, rows: int, tokens: int, itemsize: int) -> int:
    """For one token of every row: the block at each of its applications, the cache, and the head once."""
    width = model.width
    fused = (model.heads + 2 * model.num_kv_heads) * model.head_width
    block = width * fused + width * width + 2 * width * model.hidden_width
    cache = 2 * rows * tokens * model.num_kv_heads * model.head_width
    return itemsize * (block_evaluations(model, depth) * (block + cache) + width * model.vocab_size)
