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

from jaxode.config import DepthConfig, ModelConfig, UserError
from jaxode.data import Tokenizer, segments
from jaxode.evaluation import diverged
from jaxode.inference.batching import bucket
from jaxode.inference.cache import cache_bytes, move
from jaxode.inference.decoding import NOT_FINITE, TURN, Decoder, Rows, decode, prefill
from jaxode.inference.memory import check_cache
from jaxode.inference.speculation import DraftChoice, Speculation, speculate
from jaxode.inference.streaming import TextStream
from jaxode.model import block_evaluations
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
    seconds_first: float
    """Until the batch's first tokens, compilation included."""
    seconds_per_token: float | None
    """For each further token of a row: the median over the calls of a compiled function; None if there was none."""
    acceptance: float | None
    """Share of the drafted tokens that stayed, over the batch; None without speculation."""


class Running:
    """The rows of one call, and what of them is known outside of the compiled functions."""

    def __init__(self, decoder: Decoder, params: Parameters, tokenizer: Tokenizer, ids: Any, new: int, on_text: Any):
        """For prompts `ids`, of which each gets `new` tokens at most.

        Raises:
            UserError: slots that do not fit into memory.
        """
        self.decoder, self.params, self.tokenizer, self.ids, self.new = decoder, params, tokenizer, ids, new
        self.on_text = on_text
        self.model: ModelConfig = decoder.architecture.bind(params).config
        # what no token reads any more is forgotten once the slots hold twice the window
        self.longest = max(map(len, ids))
        self.most = bucket(min(self.longest + new, 2 * self.model.length) + TURN)
        self.bytes = cache_bytes(self.model, decoder.layout, len(ids), self.most)
        # moved slots live beside those that they come from
        check_cache(2 * self.bytes, len(ids))
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
        # learned positions end at the model's length
        width = max(self.longest, min(bucket(self.longest), self.model.length))
        tokens = np.full((len(self.ids), width), self.tokenizer.pad_id, np.int32)
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
            capacity=self._capacity(min(self.longest, self.decoder.window - 1)),
        )
        first = jax.device_get(found.token)
        if (first == NOT_FINITE).any():
            raise diverged("a prediction", self.decoder.architecture, self.params, tokens, documents, depth)
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
        """Until every row is at its end."""
        choice = None if speculation is None else DraftChoice(self.model, self.decoder.depth, speculation)
        seconds = None
        while self.active.any():
            turns = TURN
            if self.on_text is not None:
                # little for a start, then as much as a reader has patience for
                turns = 4 if seconds is None else max(1, min(TURN, int(PATIENCE / seconds)))
            began, before = time.perf_counter(), list(map(len, self.tokens))
            self._advance(turns, choice)
            made = max(len(row) - had for row, had in zip(self.tokens, before, strict=True))
            seconds = (time.perf_counter() - began) / max(made, 1)
            self.paces.append(seconds)

    def _advance(self, turns: int, choice: DraftChoice | None) -> None:
        """One call of a compiled function, and its tokens handed out."""
        limit = np.int32(turns)
        evaluations = block_evaluations(self.model, self.decoder.depth)
        draft = None if choice is None else choice.next()
        self._make_room(even=draft is None)
        if choice is None or draft is None:
            self.past, self.rows = decode(self.params, self.past, self.rows, limit, decoder=self.decoder)
        else:
            depth, length = draft
            rounds = np.int32(max(1, turns // (length + 1)))
            self.past, self.rows, counts = speculate(
                self.params, self.past, self.rows, rounds, decoder=self.decoder, depth=depth, length=length
            )
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
            capacity = max(capacity, self._capacity(end))
            assert end + TURN <= capacity
        self.past = move(self.past, np.int32(end), capacity=capacity)

    def _capacity(self, tokens: int) -> int:
        """Of slots for so many tokens and a turn more."""
        return self.most if self.bytes <= GROWING else min(self.most, 1 << (tokens + TURN - 1).bit_length())

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
        return diverged("a prediction", self.decoder.architecture, self.params, window, None, self.decoder.depth)

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
                seconds_first=self.first - self.started,
                seconds_per_token=statistics.median(self.paces) if self.paces else None,
                acceptance=self.accepted / self.drafted if self.drafted else None,
            )
            for row in range(len(self.ids))
        )


def _document(ids: Sequence[int], end_id: int) -> int:
    """Where the document begins that the next token belongs to."""
    return max((place + 1 for place, token in enumerate(ids) if token == end_id), default=0)
