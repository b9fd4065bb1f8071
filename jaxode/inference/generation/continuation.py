"""A batch while it is continued: compiled calls one after the other, and what comes of them."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxode.config import DepthConfig, UserError
from jaxode.data import Tokenizer, segments
from jaxode.evaluation import diverged
from jaxode.inference.generation.cache import cache_bytes, move
from jaxode.inference.generation.decoding import NOT_FINITE, TURN, Decoder, Rows, decode, prefill
from jaxode.inference.generation.speculation import Counts, DraftChoice, Speculation, speculate
from jaxode.inference.generation.streaming import TextStream
from jaxode.inference.memory import check_cache
from jaxode.inference.mesh import deal_rows
from jaxode.inference.texts.batching import bucket
from jaxode.model import Transformer, block_evaluations
from jaxode.model.parameters import Parameters

PATIENCE = 0.1
"""Seconds that a reader may wait for the next piece of text."""
GROWING = 8 << 20
"""Bytes. Slots that would take more begin small and double when they are full: each size is compiled anew, but all of
the slots are read for every token, and beyond a processor's cache that takes the most of its time."""


@dataclass(frozen=True)
class Generation:
    """A continuation and what it cost."""

    text: str
    """The new text, without the prompt."""
    ids: tuple[int, ...]
    """The new tokens; the last one is the end token where the model ended the text."""
    log_probabilities: tuple[float, ...]
    """Of the new tokens by the model itself, before any method of sampling; nats."""
    prompt_tokens: int
    """Tokens before them."""
    new_tokens: int
    block_evaluations_per_token: float
    """Applications of a block to a token's state, of drafts and refused tokens among them; the batch's mean."""
    solver: str
    """The one that ran, of every token that was kept."""
    seconds_first: float
    """Until the batch's first tokens, compilation included."""
    seconds_per_token: float | None
    """For each further token of a row: the median over the calls of a compiled function; None if there was none."""
    acceptance: float | None
    """Share of the drafted tokens that stayed, over the batch; None without speculation."""


@dataclass(frozen=True)
class Shapes:
    """Sizes of a call's arrays: every width of prompts and every capacity of slots is compiled on its own."""

    width: int
    """Tokens that prompts are padded to."""
    longest: int
    """Tokens of the longest prompt."""
    last: int
    """Tokens that a row has read at most when a call begins."""
    window: int
    """Of them, those that are read again."""
    most: int
    """Capacity that is always enough."""
    bytes: int
    """Of slots of that capacity."""

    @classmethod
    def of(cls, decoder: Decoder, bound: Transformer, rows: int, longest: int, new: int) -> Shapes:
        """For prompts of at most `longest` tokens, of which each gets `new` tokens at most."""
        model = bound.config
        # learned positions end at the model's length; a prompt that is read through the window may be longer
        width = min(bucket(longest), model.length) if longest <= model.length else bucket(longest)
        # what no token reads any more is forgotten once the slots hold twice the window
        most = bucket(min(longest + new, 2 * model.length) + TURN)
        # the last token is drawn and not read
        last, window = max(longest, longest + new - 2), decoder.window - 1
        size = cache_bytes(model, decoder.layout, rows, most, bound.matmul_type.itemsize)
        return cls(width, longest, last, window, most, size)

    def capacity(self, tokens: int) -> int:
        """Of slots for so many tokens and a turn more."""
        return self.most if self.bytes <= GROWING else min(self.most, 1 << (tokens + TURN - 1).bit_length())

    @property
    def sizes(self) -> tuple[int, ...]:
        """Capacities that the slots come to have, one after the other."""
        sizes = [self.capacity(min(self.longest, self.window))]
        largest = self.capacity(min(self.last, self.window))
        while sizes[-1] < largest:
            sizes.append(min(2 * sizes[-1], largest))
        return tuple(sizes)


class Running:
    """The rows of one call, and what of them is known outside of the compiled functions."""

    def __init__(self, decoder: Decoder, params: Parameters, tokenizer: Tokenizer, ids: Any, new: int, on_text: Any):
        """For prompts `ids`, of which each gets `new` tokens at most.

        Raises:
            UserError: slots that do not fit into memory.
        """
        self.decoder, self.params, self.tokenizer, self.ids, self.new = decoder, params, tokenizer, ids, new
        self.on_text = on_text
        bound: Transformer = decoder.architecture.bind(params)
        self.model = bound.config
        self.shapes = Shapes.of(decoder, bound, len(ids), max(map(len, ids)), new)
        # moved slots live beside those that they come from
        check_cache(2 * self.shapes.bytes, len(ids))
        self.streams = [TextStream(tokenizer, row) for row in ids]
        self.tokens: list[list[int]] = [[] for _ in ids]
        self.nats: list[list[float]] = [[] for _ in ids]
        self.pieces: list[list[str]] = [[] for _ in ids]
        self.started = time.perf_counter()
        self.first = self.started
        self.paces: list[float] = []
        self.evaluations = self.drawn = self.drafted = self.accepted = 0

    def prefill(self, depth: DepthConfig, seeds: Sequence[int], document_mask: bool) -> None:
        """Read the prompts and draw the first token of each row."""
        lengths = np.asarray([len(row) for row in self.ids], np.int32)
        tokens = np.full((len(self.ids), self.shapes.width), self.tokenizer.pad_id, np.int32)
        for row, ids in zip(tokens, self.ids, strict=True):
            row[: len(ids)] = ids
        starts = np.zeros_like(lengths)
        documents = None
        if document_mask:
            documents = segments(tokens, self.tokenizer.end_id, lengths)
            starts = np.asarray([_document(row, self.tokenizer.end_id) for row in self.ids], np.int32)
        seen = None
        if self.decoder.sampling.remembers:
            marks = np.zeros((len(self.ids), self.decoder.vocab), bool)
            for row, ids in zip(marks, self.ids, strict=True):
                row[ids] = True
            seen = jnp.asarray(marks)
        keys = jax.vmap(jax.random.key)(jnp.asarray(np.asarray(seeds, np.uint32)))
        tokens, lengths, starts, documents = deal_rows(self.params, (tokens, lengths, starts, documents))
        found = prefill(
            self.params,
            tokens,
            lengths,
            starts,
            documents,
            seen,
            keys,
            lengths,
            decoder=self.decoder,
            depth=depth,
            capacity=self.shapes.sizes[0],
        )
        first = jax.device_get(found.token)
        if (first == NOT_FINITE).any():
            raise diverged(
                "a prediction", self.decoder.architecture, self.params, tokens, {"segments": documents}, depth
            )
        self.past = found.past
        if seen is not None:
            seen = seen.at[jnp.arange(len(first)), first].set(True)
        active = (first != self.tokenizer.end_id) & (self.new > 1)
        size = (len(first), TURN)
        self.rows = Rows(
            last=jnp.asarray(first),
            count=jnp.zeros(len(first), jnp.int32),
            left=jnp.full(len(first), self.new - 1, jnp.int32),
            active=jnp.asarray(active),
            tokens=jnp.zeros(size, jnp.int32),
            log_probabilities=jnp.zeros(size),
            seen=seen,
            keys=keys,
        )
        self.active = np.asarray(active)
        self._give([[int(one)] for one in first], [[float(one)] for one in jax.device_get(found.log_probability)])
        self.first = time.perf_counter()

    def run(self, speculation: Speculation | None) -> None:
        """Until every row is at its end.

        Drafts are chosen and room is made once a stretch of R tokens: how fast the machine is decides in how many calls
        a stretch is handed out, and nothing about its tokens.
        """
        choice = None if speculation is None else DraftChoice(self.model, self.decoder.depth, speculation)
        seconds = None
        while self.active.any():
            began = time.perf_counter()
            draft = None if choice is None else choice.next()
            self._make_room(even=draft is None)
            # tokens that a round of drafting and checking gives at most
            size = 1 if draft is None else draft[1] + 1
            left = TURN // size * size
            while left and self.active.any():
                turns = TURN
                if self.on_text is not None:
                    # little for a start, then as much as a reader has patience for
                    turns = 4 if seconds is None else int(min(TURN, PATIENCE / max(seconds, 1e-9)))
                turns = min(left, max(1, turns // size) * size)
                left -= turns
                before = list(map(len, self.tokens))
                self._advance(turns, choice, draft)
                made = max(len(row) - had for row, had in zip(self.tokens, before, strict=True))
                now = time.perf_counter()
                seconds, began = (now - began) / max(made, 1), now
                self.paces.append(seconds)

    def rehearse(self, speculation: Speculation | None) -> None:
        """Compile what `run` may call, from the prompts on, and draw nothing."""
        if self.new == 1:
            return
        choice = None if speculation is None else DraftChoice(self.model, self.decoder.depth, speculation)
        drafts = [None] if choice is None else choice.possible()
        for size in self.shapes.sizes:
            # first into slots that grow, then within slots that forget
            for _ in range(2):
                self.past = move(self.past, np.int32(0), capacity=size)
            for draft in drafts:
                self._call(0, draft)
        jax.block_until_ready(self.rows)

    def _advance(self, turns: int, choice: DraftChoice | None, draft: tuple[DepthConfig, int] | None) -> None:
        """One call of a compiled function, and its tokens handed out."""
        evaluations = block_evaluations(self.model, self.decoder.depth)
        counts = self._call(turns, draft)
        if choice is not None and draft is not None:
            depth, _ = draft
            counts = jax.device_get(counts)
            choice.learn(depth, counts)
            drafted, checked = int(counts.drafted), int(counts.drafted + counts.rounds)
            self.drafted += drafted
            self.accepted += int(counts.accepted)
            self.evaluations += drafted * block_evaluations(self.model, depth) + checked * evaluations
        count, tokens, nats, now = jax.device_get(
            (self.rows.count, self.rows.tokens, self.rows.log_probabilities, self.rows.active)
        )
        self.active = np.asarray(now)
        if draft is None:
            self.evaluations += int(count.sum()) * evaluations
        self.rows = dataclasses.replace(self.rows, count=jnp.zeros_like(self.rows.count))
        self.drawn += int(count.sum())
        self._give(
            [list(map(int, row[:n])) for row, n in zip(tokens, count, strict=True)],
            [list(map(float, row[:n])) for row, n in zip(nats, count, strict=True)],
        )

    def _call(self, turns: int, draft: tuple[DepthConfig, int] | None) -> Counts | None:
        """Up to `turns` tokens a row, by drafts of a depth and a length or one by one."""
        if draft is None:
            self.past, self.rows = decode(self.params, self.past, self.rows, np.int32(turns), decoder=self.decoder)
            return None
        depth, length = draft
        rounds = np.int32(turns and max(1, turns // (length + 1)))
        self.past, self.rows, counts = speculate(
            self.params, self.past, self.rows, rounds, decoder=self.decoder, depth=depth, length=length
        )
        return counts

    def _make_room(self, even: bool) -> None:
        """For another turn; if `even`, with all rows ending at one place of the slots."""
        ends, starts = jax.device_get((self.past.end, self.past.start))
        end, capacity = int(ends.max()), self.past.capacity
        fits = end + TURN <= capacity
        if fits and not (even and ends.min() < end):
            return
        if not fits:
            # rows that are at their end may hold more, and need nothing of it
            end = min(int((ends - starts)[self.active].max()), self.decoder.window - 1)
            capacity = max(capacity, self.shapes.capacity(end))
            assert end + TURN <= capacity
        self.past = move(self.past, np.int32(end), capacity=capacity)

    def _give(self, tokens: Sequence[Sequence[int]], nats: Sequence[Sequence[float]]) -> None:
        """New tokens of each row: keep them, and hand out their text."""
        for row, (new, own) in enumerate(zip(tokens, nats, strict=True)):
            if NOT_FINITE in new:
                raise self._diverged(row, new)
            self.tokens[row] += new
            self.nats[row] += own
            if not new:
                continue
            shown = [one for one in new if one != self.tokenizer.end_id]
            # where nobody listens, all at once
            for some in [shown] if self.on_text is None else [[one] for one in shown]:
                self._hand_out(row, self.streams[row].push(*some))
            if not self.active[row]:
                self._hand_out(row, self.streams[row].finish())

    def _hand_out(self, row: int, piece: str) -> None:
        if piece:
            self.pieces[row].append(piece)
            if self.on_text is not None:
                self.on_text(row, piece)

    def _diverged(self, row: int, new: Sequence[int]) -> UserError:
        text = [*self.ids[row], *self.tokens[row], *(one for one in new if one != NOT_FINITE)][-self.model.length :]
        window = np.asarray([text], np.int32)
        return diverged("a prediction", self.decoder.architecture, self.params, window, {}, self.decoder.depth)

    def generations(self) -> tuple[Generation, ...]:
        """What came of every row."""
        per_token = (
            self.evaluations / self.drawn if self.drawn else float(block_evaluations(self.model, self.decoder.depth))
        )
        return tuple(
            Generation(
                text="".join(self.pieces[row]),
                ids=tuple(self.tokens[row]),
                log_probabilities=tuple(self.nats[row]),
                prompt_tokens=len(self.ids[row]),
                new_tokens=len(self.tokens[row]),
                block_evaluations_per_token=per_token,
                solver=self.decoder.depth.solver,
                seconds_first=self.first - self.started,
                seconds_per_token=statistics.median(self.paces) if self.paces else None,
                acceptance=self.accepted / self.drafted if self.drafted else None,
            )
            for row in range(len(self.ids))
        )


def _document(ids: Sequence[int], end_id: int) -> int:
    """Where the document begins that the next token belongs to."""
    return max((place + 1 for place, token in enumerate(ids) if token == end_id), default=0)
