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
from jaxode.inference.cache import Layout, Past
from jaxode.inference.sampling import Sampling, draw
from jaxode.model.memory import Earlier, Memory, Slot, put
from jaxode.model.parameters import Architecture, Parameters
from jaxode.types import Key, Segments, State, Tokens

NOT_FINITE = -1


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
    """Where each row of a batch is since its `Past` was last added to; R tokens at most.

    Attributes:
        last: the newest token, which no block has read yet.
        count: tokens read, as many as were drawn.
        left: tokens that may still be drawn.
        active: rows that are not at their end.
        tokens: those drawn; the rest of the R is nothing.
        log_probabilities: of those, by the model itself, nats.
        recent: slots of the tokens read.
        seen: tokens of the text so far, for methods of sampling that remember.
        keys: a PRNG key of each row's own.
    """

    last: Int[Array, " B"]
    count: Int[Array, " B"]
    left: Int[Array, " B"]
    active: Bool[Array, " B"]
    tokens: Int[Array, "B R"]
    log_probabilities: Float[Array, "B R"]
    recent: tuple[Slot, ...]
    seen: Bool[Array, "B V"] | None
    keys: Key


@no_type_check
@struct.dataclass
class First:
    """What a prefill gives: the token that follows each prompt, and the slots of the prompts.

    Attributes:
        token: drawn; `NOT_FINITE` where the logits are not finite.
        log_probability: of it, by the model itself, nats.
        slots: of the prompt's L tokens, with room for more.
    """

    token: Int[Array, " B"]
    log_probability: Float[Array, " B"]
    slots: tuple[Slot, ...]


@partial(jax.jit, static_argnames=("decoder", "depth", "capacity"))
def prefill(
    params: Parameters,
    tokens: Tokens,
    lengths: Int[Array, " B"],
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

    The slots have room for `capacity` tokens.

    Attention is causal, so what pads a prompt is never looked at. The token at place i of its text, counted from 0, is
    drawn with the key fold_in(key of the row, i): `places` says where the drawn ones are.
    """
    model = decoder.architecture.bind(params)
    memory = Memory()
    x0, context = model.start(tokens, segments=segments)
    mask, length = context.mask, tokens.shape[1]
    if length > decoder.window:
        index = jnp.arange(length)
        near = (index[:, None] - index[None, :] < decoder.window)[None, None]
        mask = near if mask is None else mask & near
    context = dataclasses.replace(context, memory=memory, mask=mask)
    state = model.stack(x0, depth, context, coefficients=model.coefficients(depth)).state
    last = jnp.take_along_axis(state, lengths[:, None, None] - 1, axis=1)
    logits = decoder.logits(model, last)[:, 0]
    token, log_probability = choose(decoder.sampling, logits, seen, keys, places)
    slots = tuple(memory.slots[i] for i in decoder.layout.sources(model.config, depth))
    room = [(0, 0), (0, 0), (0, capacity - length), (0, 0)]
    return First(token, log_probability, jax.tree.map(lambda table: jnp.pad(table, room), slots))


@partial(jax.jit, static_argnames="decoder", donate_argnames="rows")
def decode(params: Parameters, past: Past, rows: Rows, limit: Int[Array, ""], *, decoder: Decoder) -> Rows:
    """Draw up to `limit` tokens a row, one solve a token, until every row is at its end.

    A row that is at its end stays as it is. `limit` is not static, and at most R.
    """
    model = decoder.architecture.bind(params)
    order = decoder.layout.order_of(model.config, decoder.depth)

    def body(carry: tuple[Any, Rows]) -> tuple[Any, Rows]:
        turn, rows = carry
        # rows that go on have drawn a token in every turn; what is put into others is not read
        before = dataclasses.replace(earlier(past, rows, 1, decoder.window), count=turn)
        memory = Memory(before, order)
        places = (past.dropped + past.length + rows.count)[:, None]
        state = decoder.hidden(model, rows.last[:, None], places, memory, decoder.depth)
        logits = decoder.logits(model, state)[:, 0]
        token, log_probability = choose(decoder.sampling, logits, rows.seen, rows.keys, places[:, 0] + 1)
        rows = dataclasses.replace(rows, recent=tuple(memory.slots))
        return turn + 1, take(rows, token[:, None], log_probability[:, None], jnp.ones_like(rows.count), decoder.end_id)

    def go_on(carry: tuple[Any, Rows]) -> Any:
        turn, rows = carry
        return (turn < limit) & jnp.any(rows.active)

    return jax.lax.while_loop(go_on, body, (jnp.zeros((), jnp.int32), rows))[1]


def earlier(past: Past, rows: Rows, length: int, window: int) -> Earlier:
    """What the next `length` tokens of each row may read: no later token, none of another document or too far back."""
    own = (past.length + rows.count)[:, None] + jnp.arange(length)

    def near(index: Int[Array, "B keys"]) -> Bool[Array, "B 1 L keys"]:
        index, start = index[:, None, :], past.start[:, None, None]
        return ((index <= own[..., None]) & (index > own[..., None] - window) & (index >= start))[:, None]

    old = jnp.broadcast_to(jnp.arange(past.capacity), (len(own), past.capacity))
    there = (old < past.length[:, None])[:, None, None]
    recent = past.length[:, None] + jnp.arange(rows.tokens.shape[1])
    return Earlier(past.slots, rows.recent, rows.count, near(old) & there, near(recent))


def choose(
    sampling: Sampling,
    logits: Float[Array, "B V"],
    seen: Bool[Array, "B V"] | None,
    keys: Key,
    places: Int[Array, " B"],
) -> tuple[Int[Array, " B"], Float[Array, " B"]]:
    """A token a row and its log-probability; `NOT_FINITE` where the logits are not finite."""
    token = draw(sampling, logits, jax.vmap(jax.random.fold_in)(keys, places), seen)
    log_probability = jnp.take_along_axis(jax.nn.log_softmax(logits, axis=-1), token[:, None], axis=-1)[:, 0]
    return jnp.where(jnp.isfinite(logits).all(axis=-1), token, NOT_FINITE), log_probability


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
    kept = put(rows.tokens[:, None, :, None], tokens[:, None, :, None], rows.count)[:, 0, :, 0]
    nats = put(rows.log_probabilities[:, None, :, None], log_probabilities[:, None, :, None], rows.count)[:, 0, :, 0]
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
