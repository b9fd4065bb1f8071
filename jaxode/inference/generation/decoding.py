"""Prefill and decode: two compiled functions from tokens to the next ones, with a cache over depth between them."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any, no_type_check

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from jaxode.config import DepthConfig
from jaxode.inference.generation.cache import Layout, Past, move
from jaxode.inference.generation.sampling import Sampling, draw
from jaxode.model.memory import Earlier, Memory, put
from jaxode.model.parameters import Architecture, Parameters
from jaxode.model.rounding import round_weights
from jaxode.types import Key, Segments, State, Tokens

NOT_FINITE = -1
TURN = 32
"""R: tokens that one call of a compiled function gives a row, at most."""


@dataclasses.dataclass(frozen=True)
class Decoder:
    """What is static in decoding: one compilation a value."""

    architecture: Architecture
    depth: DepthConfig
    layout: Layout
    sampling: Sampling
    vocab: int
    """Tokens that there are; a vocabulary rounded up has logits that no token stands for."""
    end_id: int
    """The token that ends a row."""
    window: int
    """Tokens that a token reads, itself among them."""
    prefix: bool = False
    """Tokens of a prompt read each other both ways."""

    def hidden(
        self, model: Any, tokens: Tokens, places: Int[Array, "B L"], memory: Memory, depth: DepthConfig
    ) -> State:
        """x(N) of tokens that come after what `memory` holds."""
        x0, context = model.start(tokens, places=places)
        context = dataclasses.replace(context, memory=memory)
        return model.stack(x0, depth, context, coefficients=model.coefficients(depth)).state

    def logits(self, model: Any, state: State) -> Float[Array, "B L V"]:
        """Of the tokens that there are."""
        return model.read_out(state)[..., : self.vocab]


@no_type_check  # JAX rebuilds pytrees with leaves of any kind
@struct.dataclass
class Rows:
    """What one call of a compiled function has done to each row of a batch; R tokens at most.

    Attributes:
        last: the newest token, which no block has read yet.
        count: tokens read, as many as were drawn.
        left: tokens that may still be drawn.
        active: rows that are not at their end.
        tokens: those drawn; the rest of the R is nothing.
        log_probabilities: of those, by the model itself, nats.
        seen: tokens of the text so far, for methods of sampling that remember.
        keys: a PRNG key of each row's own.
    """

    last: Int[Array, " B"]
    count: Int[Array, " B"]
    left: Int[Array, " B"]
    active: Bool[Array, " B"]
    tokens: Int[Array, "B R"]
    log_probabilities: Float[Array, "B R"]
    seen: Bool[Array, "B V"] | None
    keys: Key


@no_type_check
@struct.dataclass
class First:
    """What a prefill gives: the token that follows each prompt, and the prompts read.

    Attributes:
        token: drawn; `NOT_FINITE` where the logits are not finite.
        log_probability: of it, by the model itself, nats.
        past: the prompts, all of which end at one place of the slots.
    """

    token: Int[Array, " B"]
    log_probability: Float[Array, " B"]
    past: Past


@partial(jax.jit, static_argnames=("decoder", "depth", "capacity"))
def prefill(
    params: Parameters,
    tokens: Tokens,
    lengths: Int[Array, " B"],
    starts: Int[Array, " B"],
    segments: Segments | None,
    seen: Bool[Array, "B V"] | None,
    keys: Key,
    places: Int[Array, " B"],
    *,
    decoder: Decoder,
    depth: DepthConfig,
    capacity: int,
) -> First:
    """Read prompts of `lengths` tokens, padded at their ends, by a solve at `depth`; draw what follows.

    The slots have room for `capacity` tokens, and of a prompt longer than the window hold the end. What is drawn later
    reads a prompt from its token `starts` on.

    Attention is causal, or within a prompt goes both ways, so what pads it is never looked at. The token at place i of
    its text, counted from 0, is drawn with the key fold_in(key of the row, i): `places` says where the drawn ones are.
    """
    model = decoder.architecture.bind(params)
    memory = Memory()
    length = tokens.shape[1]
    index = jnp.arange(length)
    types = (index < lengths[:, None]).astype(jnp.int32) if decoder.prefix else None
    x0, context = model.start(tokens, segments=segments, token_types=types)
    mask = context.mask
    if length > decoder.window:
        near = (index[:, None] - index[None, :] < decoder.window)[None, None]
        mask = near if mask is None else mask & near
    context = dataclasses.replace(context, memory=memory, mask=mask)
    state = model.stack(x0, depth, context, coefficients=model.coefficients(depth)).state
    last = jnp.take_along_axis(state, lengths[:, None, None] - 1, axis=1)
    logits = decoder.logits(model, last)[:, 0]
    token, nats = choose(decoder.sampling, logits, seen, keys, places)
    slots = tuple(memory.slots[i] for i in decoder.layout.sources(model.config, depth))
    past = Past(slots, lengths, starts, jnp.zeros_like(lengths))
    # a token reads so many before it
    end = jnp.minimum(jnp.max(lengths), decoder.window - 1)
    return First(token, nats, move(past, end, capacity=capacity))


@partial(jax.jit, static_argnames="decoder", donate_argnames=("past", "rows"))
def decode(params: Parameters, past: Past, rows: Rows, limit: Int[Array, ""], *, decoder: Decoder) -> tuple[Past, Rows]:
    """Draw up to `limit` tokens a row, one solve a token, until every row is at its end.

    A row that is at its end stays as it is. `limit` is not static, and at most R; the slots need room for as many. All
    rows must end at one place of the slots, and do so again.
    """
    model = round_weights(decoder.architecture.bind(params))
    order = decoder.layout.order_of(model.config, decoder.depth)

    def body(carry: tuple[Any, Past, Rows]) -> tuple[Any, Past, Rows]:
        turn, past, rows = carry
        memory = Memory(earlier(past, past.end[0], 1, decoder.window), order, first=decoder.layout.first)
        places = (past.first + past.end)[:, None]
        state = decoder.hidden(model, rows.last[:, None], places, memory, decoder.depth)
        logits = decoder.logits(model, state)[:, 0]
        token, nats = choose(decoder.sampling, logits, rows.seen, rows.keys, places[:, 0] + 1)
        rows = take(rows, token[:, None], nats[:, None], jnp.ones_like(rows.count), decoder.end_id)
        return turn + 1, dataclasses.replace(past, slots=tuple(memory.slots), end=past.end + 1), rows

    def go_on(carry: tuple[Any, Past, Rows]) -> Any:
        turn, _, rows = carry
        return (turn < limit) & jnp.any(rows.active)

    _, past, rows = jax.lax.while_loop(go_on, body, (jnp.zeros((), jnp.int32), past, rows))
    return past, rows


def earlier(past: Past, end: Int[Array, "*B"], length: int, window: int) -> Earlier:
    """What the next `length` tokens of each row may read: no later token, none of another document or too far back.

    They go to the slots' places end, end + 1, .., by row or in all.
    """
    own = (jnp.reshape(end, (-1, 1)) + jnp.arange(length))[..., None]
    index = jnp.arange(past.capacity)
    sees = (index <= own) & (index > own - window) & (index >= past.start[:, None, None])
    return Earlier(past.slots, end, sees[:, None])


def choose(
    sampling: Sampling,
    logits: Float[Array, "B V"],
    seen: Bool[Array, "B V"] | None,
    keys: Key,
    places: Int[Array, " B"],
) -> tuple[Int[Array, " B"], Float[Array, " B"]]:
    """A token a row and its log-probability; `NOT_FINITE` where the logits are not finite."""
    token = draw(sampling, logits, jax.vmap(jax.random.fold_in)(keys, places), seen)
    return jnp.where(jnp.isfinite(logits).all(axis=-1), token, NOT_FINITE), log_probability(logits, token)


def log_probability(logits: Float[Array, "*B V"], token: Int[Array, "*B"]) -> Float[Array, "*B"]:
    """Of a token each, nats."""
    chosen = jnp.take_along_axis(logits, token[..., None], axis=-1)[..., 0]
    return chosen - jax.nn.logsumexp(logits, axis=-1)


def take(
    rows: Rows,
    tokens: Int[Array, "B L"],
    log_probabilities: Float[Array, "B L"],
    valid: Int[Array, " B"],
    end_id: int,
) -> Rows:
    """The rows with the first `valid` of these tokens each; those after an end, or beyond what is left, are dropped."""
    index = jnp.arange(tokens.shape[1])
    ends = (tokens == end_id) | (tokens == NOT_FINITE)
    until = jnp.min(jnp.where(ends, index + 1, tokens.shape[1]), axis=1)
    taken = jnp.where(rows.active, jnp.minimum(jnp.minimum(valid, until), rows.left), 0)
    last = jnp.take_along_axis(tokens, jnp.maximum(taken - 1, 0)[:, None], axis=1)[:, 0]
    ended = jnp.any(ends & (index < taken[:, None]), axis=1)
    # what is put behind the taken ones is overwritten by the next
    kept = put(rows.tokens[..., None], tokens[..., None], rows.count)[..., 0]
    nats = put(rows.log_probabilities[..., None], log_probabilities[..., None], rows.count)[..., 0]
    seen = rows.seen
    if seen is not None:
        marks = jax.nn.one_hot(tokens, seen.shape[1], dtype=bool) & (index < taken[:, None])[..., None]
        seen = seen | jnp.any(marks, axis=1)
    return dataclasses.replace(
        rows,
        last=jnp.where(taken > 0, last, rows.last),
        count=rows.count + taken,
        left=rows.left - taken,
        active=rows.active & ~ended & (rows.left > taken),
        tokens=jnp.where(rows.active[:, None], kept, rows.tokens),
        log_probabilities=jnp.where(rows.active[:, None], nats, rows.log_probabilities),
        seen=seen,
    )
