"""What a check of several tokens costs over one, and what lossless speculation gains with drafts that are accepted."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from accelerators.decoding import Texts, texts
from accelerators.scale import Scale
from accelerators.timing import median_seconds
from jaxode.config import DepthConfig
from jaxode.inference.generation.cache import Past
from jaxode.inference.generation.decoding import TURN, Decoder, earlier
from jaxode.inference.generation.speculation import speculate
from jaxode.model.memory import Memory
from jaxode.model.parameters import Parameters

CHECKS = (1, 3, 5, 9)
"""Tokens of a check: those of a draft and one more."""
ACCEPTANCES = (0.6, 0.8, 0.9)
REPEATS = 4


def speculating(scale: Scale, known: Mapping[str, float]) -> tuple[dict[str, float], dict[str, str]]:
    """One row, at the largest width."""
    del known
    model = scale.causal(scale.widths[0])
    full = DepthConfig(solver="euler")
    drafts = {n: DepthConfig(steps=n, solver="euler") for n in sorted({scale.steps // 3, scale.steps // 6} - {0})}
    candidates: dict[str, Any] = {"plain": texts(scale, model, 1, full)}
    for tokens in CHECKS:
        candidates[f"check {tokens}"] = Check(texts(scale, model, 1, full), tokens)
        for n, depth in drafts.items():
            if tokens > 1:
                candidates[f"round {n} {tokens}"] = Round(texts(scale, model, 1, full), depth, tokens - 1)
    seconds = median_seconds(candidates)
    found = {f"a check of {k} tokens over one": seconds[f"check {k}"] / seconds["check 1"] for k in CHECKS[1:]}
    more = [(found[f"a check of {k} tokens over one"] - 1) / (k - 1) for k in CHECKS[1:]]
    found["one more token in a check over the first"] = float(np.median(more))
    plain = seconds["plain"] / scale.turns
    for rate in ACCEPTANCES:
        gains = {
            # the tokens of a round, Leviathan et al. 2023, equation 1
            (n, k): sum(rate**i for i in range(k)) * plain / (seconds[f"round {n} {k}"] / rounds(k - 1))
            for n in drafts
            for k in CHECKS[1:]
        }
        found[f"speculation, {rate:.0%} of the drafts accepted: speed over plain"] = max(gains.values())
    return found, {}


def rounds(length: int) -> int:
    """As many as surely fit into one call."""
    return max(1, TURN // (length + 1) - 1)


class Round:
    """Drafts of so many tokens and their checks, by the project's own function: what is accepted takes no time."""

    def __init__(self, texts: Texts, depth: DepthConfig, length: int):
        """Of drafts at `depth`."""
        self.texts, self.depth, self.length = texts, depth, length

    def __call__(self) -> jax.Array:
        """`rounds` of them."""
        own = self.texts
        before = jnp.copy(own.past.end)
        own.past, own.rows, counts = speculate(
            own.params,
            own.past,
            own.rows,
            np.int32(rounds(self.length)),
            decoder=own.decoder,
            depth=self.depth,
            length=self.length,
        )
        own.rewind(before)
        return counts.rounds


class Check:
    """One solve of so many new tokens at full depth, a few times over."""

    def __init__(self, texts: Texts, tokens: int):
        """Of `tokens` tokens."""
        self.texts, self.tokens = texts, tokens

    def __call__(self) -> jax.Array:
        """`REPEATS` of them."""
        own = self.texts
        own.past, last = check(own.params, own.past, own.rows.last, decoder=own.decoder, tokens=self.tokens)
        return last


@partial(jax.jit, static_argnames=("decoder", "tokens"), donate_argnames="past")
def check(params: Parameters, past: Past, last: Any, *, decoder: Decoder, tokens: int) -> tuple[Past, Any]:
    """The likeliest followers of the same place's tokens, each call reading what the one before has drawn."""
    model = decoder.architecture.bind(params)
    order = decoder.layout.order_of(model.config, decoder.depth)

    def body(_: Any, carry: Any) -> Any:
        slots, last = carry
        memory = Memory(
            earlier(Past(slots, past.end, past.start, past.first), past.end[0], tokens, decoder.window), order
        )
        places = (past.first + past.end)[:, None] + jnp.arange(tokens)
        state = decoder.hidden(model, jnp.repeat(last[:, None], tokens, axis=1), places, memory, decoder.depth)
        return tuple(memory.slots), jnp.argmax(decoder.logits(model, state), axis=-1)[:, -1].astype(last.dtype)

    slots, last = jax.lax.fori_loop(0, REPEATS, body, (past.slots, last))
    return Past(slots, past.end, past.start, past.first), last
