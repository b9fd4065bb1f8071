"""Lossless self-speculation: the model at few steps drafts tokens, the same model in full checks them all at once.

The draft reads the slots that the full solve has left, and puts its own beside them; the check puts the full solve's in
their place, so there is one cache. Source: Leviathan et al. 2023 (arXiv 2211.17192), algorithm 1.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial
from typing import Any, no_type_check

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int

from jaxode.config import DepthConfig, ModelConfig, require
from jaxode.inference.generation.cache import Past
from jaxode.inference.generation.decoding import NOT_FINITE, TURN, Decoder, Rows, earlier, log_probability, take
from jaxode.inference.generation.sampling import Sampling, is_greedy, log_probabilities
from jaxode.model import block_evaluations, flops_per_token
from jaxode.model.memory import Memory
from jaxode.model.parameters import Parameters
from jaxode.model.rounding import round_weights
from jaxode.types import Key

PARALLEL = {"cpu": 0.8}
"""What one more token in a check costs, as a share of the first, by JAX's backend: near 1 where computing takes the
time (on a CPU at D 128 whole rounds tell 0.6 to 0.8), near 0 (any other) where reading the weights does."""


@no_type_check  # JAX rebuilds pytrees with leaves of any kind
@struct.dataclass
class Counts:
    """What rounds of drafting and checking came to, over all rows that were active.

    Attributes:
        rounds: drafts that were checked.
        drafted: tokens of these drafts.
        accepted: of them, tokens that stayed.
        refused: drafts of which not all stayed.
    """

    rounds: Int[Array, ""]
    drafted: Int[Array, ""]
    accepted: Int[Array, ""]
    refused: Int[Array, ""]


@partial(jax.jit, static_argnames=("decoder", "depth", "length"), donate_argnames=("past", "rows"))
def speculate(
    params: Parameters,
    past: Past,
    rows: Rows,
    limit: Int[Array, ""],
    *,
    decoder: Decoder,
    depth: DepthConfig,
    length: int,
) -> tuple[Past, Rows, Counts]:
    """Rounds of `length` drafted tokens by a solve at `depth`, checked by one at the decoder's own.

    Each round gives every row between 1 and length + 1 tokens, drawn exactly as `decode` would: the same tokens where
    the sampling is greedy, tokens of the same distribution elsewhere. It ends when a row's R tokens might not hold
    another round, when every row is at its end, or after `limit` rounds. The slots need room for R more tokens; each
    row ends at a place of its own there.
    """
    model = round_weights(decoder.architecture.bind(params))
    order = decoder.layout.order_of(model.config, decoder.depth)
    draft_order = decoder.layout.order_of(model.config, depth)
    sampling, room, greedy = decoder.sampling, rows.tokens.shape[1], is_greedy(decoder.sampling)

    def draft(past: Past, rows: Rows) -> tuple[Past, Any, Any]:
        """The tokens [B, length] and the distributions they are from, [B, length, V]; of greedy ones nothing."""

        def body(turn: Any, carry: Any) -> Any:
            past, token, seen, tokens, drawn_from = carry
            end = past.end + turn
            memory = Memory(earlier(past, end[0] if len(end) == 1 else end, 1, decoder.window), draft_order)
            places = (past.first + end)[:, None]
            state = decoder.hidden(model, token[:, None], places, memory, depth)
            own = _scores(sampling, decoder.logits(model, state)[:, 0], seen)
            token = _draw(sampling, own, rows.keys, places[:, 0] + 1, 1)
            if seen is not None:
                seen = seen | jax.nn.one_hot(token, seen.shape[1], dtype=bool)
            if not greedy:
                drawn_from = drawn_from.at[:, turn].set(own)
            past = dataclasses.replace(past, slots=tuple(memory.slots))
            return past, token, seen, tokens.at[:, turn].set(token), drawn_from

        tokens = jnp.zeros((len(rows.last), length), rows.last.dtype)
        drawn_from = None if greedy else jnp.zeros((*tokens.shape, decoder.vocab))
        carry = (past, rows.last, rows.seen, tokens, drawn_from)
        past, _, _, tokens, drawn_from = jax.lax.fori_loop(0, length, body, carry)
        return past, tokens, drawn_from

    def check(past: Past, rows: Rows, drafted: Any, drawn_from: Any) -> tuple[Past, Rows, Any]:
        end = past.end[0] if len(past.end) == 1 else past.end
        memory = Memory(earlier(past, end, length + 1, decoder.window), order)
        places = (past.first + past.end)[:, None] + jnp.arange(length + 1)
        tokens = jnp.concatenate([rows.last[:, None], drafted], axis=1)
        logits = decoder.logits(model, decoder.hidden(model, tokens, places, memory, decoder.depth))
        wanted = _scores(sampling, logits, _seen_along(rows.seen, drafted))
        accepted = _accepted(sampling, wanted, drawn_from, drafted, rows.keys, places[:, 1:])
        follower = _follower(sampling, wanted, drawn_from, accepted, rows.keys, places[:, 0] + accepted + 1)
        tokens = jnp.where(
            jnp.arange(length + 1) < accepted[:, None], jnp.pad(drafted, [(0, 0), (0, 1)]), follower[:, None]
        )
        finite = jnp.isfinite(logits).all(axis=-1)
        nats = log_probability(logits, tokens)
        before = rows.count
        rows = take(rows, jnp.where(finite, tokens, NOT_FINITE), nats, accepted + 1, decoder.end_id)
        past = dataclasses.replace(past, slots=tuple(memory.slots), end=past.end + rows.count - before)
        return past, rows, accepted

    def body(carry: tuple[Any, Past, Rows, Counts]) -> tuple[Any, Past, Rows, Counts]:
        turn, past, rows, counts = carry
        active = rows.active.astype(jnp.int32)
        past, drafted, drawn_from = draft(past, rows)
        past, rows, accepted = check(past, rows, drafted, drawn_from)
        counts = Counts(
            counts.rounds + jnp.sum(active),
            counts.drafted + length * jnp.sum(active),
            counts.accepted + jnp.sum(accepted * active),
            counts.refused + jnp.sum((accepted < length) * active),
        )
        return turn + 1, past, rows, counts

    def go_on(carry: tuple[Any, Past, Rows, Counts]) -> Any:
        turn, _, rows, _ = carry
        fits = jnp.max(jnp.where(rows.active, rows.count, 0)) + length + 1 <= room
        return (turn < limit) & jnp.any(rows.active) & fits

    zero = jnp.zeros((), jnp.int32)
    _, past, rows, counts = jax.lax.while_loop(go_on, body, (zero, past, rows, Counts(zero, zero, zero, zero)))
    return past, rows, counts


def _scores(sampling: Sampling, logits: Float[Array, "*B V"], seen: Any) -> Float[Array, "*B V"]:
    """Log-probabilities, or where the largest is taken what has the largest at the same place."""
    return sampling(logits, seen) if is_greedy(sampling) else log_probabilities(sampling, logits, seen)


def _accepted(
    sampling: Sampling,
    wanted: Float[Array, "B L_plus_1 V"],
    drawn_from: Float[Array, "B L V"] | None,
    drafted: Int[Array, "B L"],
    keys: Key,
    places: Int[Array, "B L"],
) -> Int[Array, " B"]:
    """How many drafted tokens stay: each with probability min(1, p / q), until the first that does not."""
    wanted = wanted[:, :-1]
    if drawn_from is None:
        stays = jnp.argmax(wanted, axis=-1) == drafted
    else:
        p, q = (jnp.take_along_axis(table, drafted[..., None], axis=-1)[..., 0] for table in (wanted, drawn_from))
        uniform = jax.vmap(jax.vmap(jax.random.uniform))(_keys(keys, places, 2))
        stays = jnp.log(uniform) < p - q
    return jnp.sum(jnp.cumprod(stays.astype(jnp.int32), axis=1), axis=1)


def _follower(
    sampling: Sampling,
    wanted: Float[Array, "B L_plus_1 V"],
    drawn_from: Float[Array, "B L V"] | None,
    accepted: Int[Array, " B"],
    keys: Key,
    places: Int[Array, " B"],
) -> Int[Array, " B"]:
    """The token after those that stay: from max(p - q, 0) where a draft was refused, from p after the last one."""
    at = accepted[:, None, None]
    p = jnp.take_along_axis(wanted, at, axis=1)[:, 0]
    if drawn_from is None:
        return jnp.argmax(p, axis=-1)
    # nothing was drafted behind the last one: q = 0
    q = jnp.pad(drawn_from, [(0, 0), (0, 1), (0, 0)], constant_values=-jnp.inf)
    left = jnp.maximum(jnp.exp(p) - jnp.exp(jnp.take_along_axis(q, at, axis=1)[:, 0]), 0.0)
    # equal but for rounding: nothing would be left, and nothing is refused
    left = jnp.where(jnp.sum(left, axis=-1, keepdims=True) > 0, left, jnp.exp(p))
    return _draw(sampling, jnp.log(left), keys, places, 3)


def _seen_along(seen: Any, drafted: Int[Array, "B L"]) -> Any:
    """The tokens of the text before each drafted one and before the follower, [B, L + 1, V]."""
    if seen is None:
        return None
    marks = jax.nn.one_hot(drafted, seen.shape[-1], dtype=jnp.int32)
    along = jnp.cumsum(jnp.pad(marks, [(0, 0), (1, 0), (0, 0)]), axis=1) > 0
    return along | seen[:, None]


def _draw(sampling: Sampling, logs: Float[Array, "B V"], keys: Key, places: Int[Array, " B"], use: int) -> Any:
    if is_greedy(sampling):
        return jnp.argmax(logs, axis=-1)
    return jax.vmap(jax.random.categorical)(_keys(keys[:, None], places[:, None], use)[:, 0], logs)


def _keys(keys: Key, places: Any, use: int) -> Key:
    """A key for each row, place and use."""
    keys = jnp.broadcast_to(keys if keys.ndim == places.ndim else keys[:, None], places.shape)
    fold = jax.vmap(jax.vmap(jax.random.fold_in))
    return fold(fold(keys, places), jnp.full(places.shape, use))


@dataclass(frozen=True)
class Speculation:
    """Which drafts are tried: the number of steps and the length adapt to what is accepted, unless one each is given.

    Raises:
        UserError: what is no tuple of depths and one of lengths, no depth or length, or a length below 1 or above
            R - 1.
    """

    depths: tuple[DepthConfig, ...]
    """Solves that may draft, each of fewer block evaluations than the one that checks."""
    lengths: tuple[int, ...] = (2, 4, 7)
    """Numbers of tokens that a draft may have."""

    def __post_init__(self) -> None:
        for name, kind, example in (("depths", DepthConfig, "(DepthConfig(steps=4),)"), ("lengths", int, "(2, 4)")):
            values = getattr(self, name)
            fits = isinstance(values, tuple) and all(isinstance(v, kind) and not isinstance(v, bool) for v in values)
            require(fits, f"speculation: {name} = {values!r}: must be a tuple of {kind.__name__}, such as {example}")
        require(len(self.depths) > 0, "speculation: no depth to draft at; give one at least")
        require(
            len(self.lengths) > 0 and min(self.lengths) >= 1,
            f"speculation: lengths = {list(self.lengths)}: must be numbers of at least 1",
        )
        require(
            max(self.lengths) < TURN,
            f"speculation: lengths = {list(self.lengths)}: must be below {TURN}, the tokens of one compiled call",
        )


class DraftChoice:
    """Chooses the next draft: each depth that can pay once for a start, then the one that promises the most tokens for
    its cost, or none where plain decoding promises more.

    A draft of k tokens, each accepted with probability a, gives (1 - a^(k+1)) / (1 - a) of them (Leviathan et al.
    2023, equation 1). The cost is counted in block evaluations, not measured, so that a seed gives the same text again.
    """

    def __init__(self, model: ModelConfig, depth: DepthConfig, speculation: Speculation):
        """For drafts of a solve at `depth`.

        Raises:
            UserError: a draft that costs as much as what it is a draft of.
        """
        flops = flops_per_token(model)
        self._head = flops.head / flops.block
        self._parallel = PARALLEL.get(jax.default_backend(), 0.05)
        self._full = block_evaluations(model, depth)
        self._speculation = speculation
        self._costs = {one: block_evaluations(model, one) for one in speculation.depths}
        for one, cost in self._costs.items():
            require(
                cost < self._full,
                f"speculation: a draft of {one.steps} steps costs {cost} block evaluations, what it is a draft of "
                f"{self._full}: draft in fewer steps",
            )
        self._drafted = dict.fromkeys(speculation.depths, 0)
        self._accepted = dict.fromkeys(speculation.depths, 0)
        self._refused = dict.fromkeys(speculation.depths, 0)

    @property
    def _ways(self) -> list[tuple[DepthConfig, int]]:
        return [(depth, length) for depth in self._speculation.depths for length in self._speculation.lengths]

    @property
    def _plain(self) -> float:
        """Tokens for a block evaluation without drafts."""
        return 1 / (self._full + self._head)

    def possible(self) -> list[tuple[DepthConfig, int] | None]:
        """Everything that `next` may come to, whatever it learns."""
        ways = self._ways
        if len(ways) == 1:
            return [*ways]
        return [None, *(way for way in ways if self._promise(*way, 1.0) > self._plain)]

    def next(self) -> tuple[DepthConfig, int] | None:
        """Depth and length of the draft to make; None to decode plainly."""
        lengths, depths = self._speculation.lengths, self._speculation.depths
        ways, plain = self._ways, self._plain
        if len(ways) == 1:
            # what was asked for
            return ways[0]
        untried = [one for one in depths if not self._drafted[one]]
        for depth in untried:
            # whether it would pay if all of it stayed
            if max(self._promise(depth, length, 1.0) for length in lengths) > plain:
                return depth, lengths[len(lengths) // 2]
        promises = {way: self._promise(*way, self._rate(way[0])) for way in ways if way[0] not in untried}
        best = max(promises, key=lambda way: promises[way], default=None)
        return best if best is not None and promises[best] > plain else None

    def learn(self, depth: DepthConfig, counts: Counts) -> None:
        """What drafts at this depth came to."""
        self._drafted[depth] += int(counts.drafted)
        self._accepted[depth] += int(counts.accepted)
        self._refused[depth] += int(counts.refused)

    def _rate(self, depth: DepthConfig) -> float:
        """Share of its tokens that stayed, as long as all before them did."""
        accepted, refused = self._accepted[depth], self._refused[depth]
        return (accepted + 1) / (accepted + refused + 2)

    def _promise(self, depth: DepthConfig, length: int, rate: float) -> float:
        """Tokens for a block evaluation."""
        tokens = sum(rate**i for i in range(length + 1))
        draft = length * (self._costs[depth] + self._head)
        check = (self._full + self._head) * (1 + self._parallel * length)
        return tokens / (draft + check)
