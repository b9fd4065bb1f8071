"""Continue texts with a causal model, a batch of them at once: every row as if it were alone."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

from jaxode.config import DepthConfig, ModelConfig, UserError, require
from jaxode.data import Tokenizer, segments
from jaxode.evaluation import diverged
from jaxode.inference.cache import Layout, Past, applications, bucket, cache_bytes, commit, empty_recent, forget
from jaxode.inference.decoding import NOT_FINITE, Decoder, Rows, decode, prefill
from jaxode.inference.memory import check_cache
from jaxode.inference.sampling import Sampling, Temperature
from jaxode.inference.speculation import DraftChoice, Speculation, speculate
from jaxode.inference.streaming import TextStream
from jaxode.model import block_evaluations, plan
from jaxode.model.parameters import Architecture, Parameters

RECENT = 32
"""R: tokens between two additions to a row's past."""
PATIENCE = 0.1
"""Seconds that a reader may wait for the next piece of text."""
Context = Literal["slide", "window", "refuse"]


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


def generate(
    architecture: Architecture,
    params: Parameters,
    tokenizer: Tokenizer,
    prompt: str,
    *,
    on_token: Callable[[str], None] | None = None,
    seed: int = 0,
    **settings: Any,
) -> Generation:
    """Continue one prompt: `generate_batch` with one row.

    `on_token` is called with each piece of finished text; the pieces join to the text.
    """
    on_text = None if on_token is None else (lambda row, piece: on_token(piece))
    return generate_batch(architecture, params, tokenizer, [prompt], seeds=[seed], on_text=on_text, **settings)[0]


def generate_batch(
    architecture: Architecture,
    params: Parameters,
    tokenizer: Tokenizer,
    prompts: Sequence[str | Sequence[int]],
    *,
    depth: DepthConfig | None = None,
    prefill_depth: DepthConfig | None = None,
    max_new_tokens: int = 128,
    sampling: Sampling | None = None,
    seeds: int | Sequence[int] = 0,
    document_mask: bool = False,
    context: str = "slide",
    cache_share: int = 1,
    speculation: Speculation | None = None,
    on_text: Callable[[int, str], None] | None = None,
) -> tuple[Generation, ...]:
    """Continue prompts, each until its end token or `max_new_tokens`.

    The token at place i of a row is drawn with the key fold_in(key(seed of the row), i), so it depends on the row's
    seed and its text alone, not on its neighbours. With speculation this holds where the sampling is greedy or the
    draft is fixed (one depth, one length); otherwise the draft depends on what the batch accepts.

    Args:
        architecture: a causal model without its numbers.
        params: its numbers.
        tokenizer: the model's own.
        prompts: texts, or their token ids; literals such as ``<|endoftext|>`` in a text are special tokens.
        depth: solver, steps and schedule of every new token; full depth when None.
        prefill_depth: those of the prompts; `depth` when None. Slots are filled from the applications nearest in
            depth-time.
        max_new_tokens: at most so many a row.
        sampling: `Temperature(1.0)` when None.
        seeds: one for all rows, or one a row.
        document_mask: keep attention within documents.
        context: a token reads the last L tokens at most, itself among them. slide: a text goes on beyond L, a prompt
            may not; window: a longer prompt is read that way as well; refuse: prompt and new tokens must fit into L.
        cache_share: neighbouring applications of a block that share a slot of the cache; 0: all of them.
        speculation: how to draft; None draws token by token.
        on_text: called with the row and each piece of its finished text.

    Raises:
        UserError: a masked model, a depth that does not fit its layout, an empty or too long prompt, or more rows than
            memory.
        Diverged: predictions that are not finite.
    """
    model: ModelConfig = architecture.bind(params).config
    require(
        model.kind == "causal",
        'model.kind = "masked": a masked model fills in [MASK] and does not generate; use task fill',
    )
    require(max_new_tokens >= 1, f"max_new_tokens = {max_new_tokens}: must be at least 1")
    depth = depth or DepthConfig()
    for one in (depth, prefill_depth, *(speculation.depths if speculation else ())):
        if one is not None:
            plan(model, one)
            applications(model, one)
    ids = [_ids(tokenizer, prompt, number) for number, prompt in enumerate(prompts)]
    _check_context(model, ids, max_new_tokens, context)
    given = [seeds] * len(ids) if isinstance(seeds, int) else list(seeds)
    require(len(given) == len(ids), f"seeds: {len(given)} of them for {len(ids)} prompts; give one, or one a prompt")
    decoder = Decoder(
        architecture,
        depth,
        Layout(depth, cache_share),
        sampling or Temperature(),
        tokenizer.vocab_size,
        tokenizer.end_id,
        model.length,
    )
    # what no token reads any more is forgotten once the slots hold twice the window
    prompt = max(map(len, ids))
    capacity = bucket(max(prompt, min(prompt + max_new_tokens, 2 * model.length)) + RECENT)
    check_cache(cache_bytes(model, decoder.layout, len(ids), capacity), len(ids))
    batch = _Batch(decoder, params, tokenizer, ids, on_text)
    batch.prefill(prefill_depth or depth, given, max_new_tokens, document_mask, capacity)
    batch.run(speculation)
    return batch.generations()


def _ids(tokenizer: Tokenizer, prompt: str | Sequence[int], number: int) -> list[int]:
    ids = tokenizer.encode(prompt, allow_special=True) if isinstance(prompt, str) else [int(one) for one in prompt]
    require(
        len(ids) > 0,
        f"prompt {number} is empty: there is nothing to continue; the prompt <|endoftext|> begins a new document",
    )
    strange = next((one for one in ids if not 0 <= one < tokenizer.vocab_size), None)
    require(
        strange is None,
        f"prompt {number} has the token {strange}: ids of tokenizer {tokenizer.name} are 0 to "
        f"{tokenizer.vocab_size - 1}",
    )
    return ids


def _check_context(model: ModelConfig, ids: Sequence[Sequence[int]], new: int, context: str) -> None:
    require(context in get_args(Context), f'context = "{context}": allowed are {", ".join(get_args(Context))}')
    tokens = max(map(len, ids))
    require(
        context == "window" or tokens <= model.length,
        f"the prompt has {tokens} tokens, more than the {model.length} that the model reads at once: shorten it, or "
        'set context to "window"',
    )
    require(
        context != "refuse" or tokens + new <= model.length,
        f"{tokens} tokens of the prompt and max_new_tokens = {new} exceed the {model.length} that the model reads at "
        'once: ask for fewer, or set context to "slide"',
    )
    require(
        model.positions != "learned" or tokens + new <= model.length,
        f"{tokens} tokens of the prompt and max_new_tokens = {new} exceed the {model.length} positions that this "
        "model has learned: shorten the prompt, or ask for fewer",
    )


class _Batch:
    """The rows of one call, and what of them is known outside of the compiled functions."""

    def __init__(self, decoder: Decoder, params: Parameters, tokenizer: Tokenizer, ids: Any, on_text: Any):
        self.decoder, self.params, self.tokenizer, self.ids = decoder, params, tokenizer, ids
        self.on_text = on_text
        self.model: ModelConfig = decoder.architecture.bind(params).config
        self.streams = [TextStream(tokenizer, row) for row in ids]
        self.tokens: list[list[int]] = [[] for _ in ids]
        self.nats: list[list[float]] = [[] for _ in ids]
        self.pieces: list[list[str]] = [[] for _ in ids]
        self.started = time.perf_counter()
        self.first = self.started
        self.paces: list[float] = []
        self.evaluations = self.drawn = self.drafted = self.accepted = 0

    def prefill(self, depth: DepthConfig, seeds: Sequence[int], new: int, document_mask: bool, capacity: int) -> None:
        """Read the prompts and draw the first token of each row."""
        lengths = np.asarray([len(row) for row in self.ids], np.int32)
        tokens = np.full((len(self.ids), bucket(int(lengths.max()))), self.tokenizer.pad_id, np.int32)
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
        keys = jax.vmap(jax.random.key)(jnp.asarray(seeds))
        found = prefill(
            self.params,
            tokens,
            lengths,
            documents,
            seen,
            keys,
            lengths,
            decoder=self.decoder,
            depth=depth,
            capacity=capacity,
        )
        first = jax.device_get(found.token)
        if (first == NOT_FINITE).any():
            raise diverged("a prediction", self.decoder.architecture, self.params, tokens, documents, depth)
        self.past = Past(found.slots, jnp.asarray(lengths), jnp.zeros_like(jnp.asarray(lengths)), jnp.asarray(starts))
        if seen is not None:
            seen = seen.at[jnp.arange(len(first)), first].set(True)
        active = (first != self.tokenizer.end_id) & (new > 1)
        size = (len(first), RECENT)
        self.rows = Rows(
            last=jnp.asarray(first),
            count=jnp.zeros(len(first), jnp.int32),
            left=jnp.full(len(first), new - 1, jnp.int32),
            active=jnp.asarray(active),
            tokens=jnp.zeros(size, jnp.int32),
            log_probabilities=jnp.zeros(size),
            recent=empty_recent(self.past, RECENT),
            seen=seen,
            keys=keys,
        )
        self.active = np.asarray(active)
        self.length = lengths.copy()
        self._give([[int(one)] for one in first], [[float(one)] for one in jax.device_get(found.log_probability)])
        self.first = time.perf_counter()

    def run(self, speculation: Speculation | None) -> None:
        """Until every row is at its end."""
        choice = None if speculation is None else DraftChoice(self.model, self.decoder.depth, speculation)
        seconds = None
        while self.active.any():
            self._make_room()
            turns = RECENT
            if self.on_text is not None:
                # little for a start, then as much as a reader has patience for
                turns = 4 if seconds is None else max(1, min(RECENT, int(PATIENCE / seconds)))
            began, before = time.perf_counter(), sum(map(len, self.tokens))
            self._advance(turns, choice)
            made = sum(map(len, self.tokens)) - before
            seconds = (time.perf_counter() - began) * len(self.ids) / max(made, 1)
            self.paces.append(seconds)

    def _advance(self, turns: int, choice: DraftChoice | None) -> None:
        """One call of a compiled function, and its tokens handed out."""
        limit = np.int32(turns)
        evaluations = block_evaluations(self.model, self.decoder.depth)
        draft = None if choice is None else choice.next()
        if choice is None or draft is None:
            self.rows = decode(self.params, self.past, self.rows, limit, decoder=self.decoder)
        else:
            depth, length = draft
            rounds = np.int32(max(1, turns // (length + 1)))
            self.rows, counts = speculate(
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
        self.past = commit(self.past, self.rows.recent, self.rows.count)
        self.length += count
        self.rows = dataclasses.replace(self.rows, count=jnp.zeros_like(self.rows.count))
        self.drawn += int(count.sum())
        self._give(
            [list(map(int, row[:n])) for row, n in zip(tokens, count, strict=True)],
            [list(map(float, row[:n])) for row, n in zip(nats, count, strict=True)],
        )

    def _make_room(self) -> None:
        """For RECENT more tokens."""
        if int(self.length.max()) + RECENT > self.past.capacity:
            unread = np.maximum(self.length - (self.decoder.window - 1), 0).astype(np.int32)
            self.past = forget(self.past, unread)
            self.length -= unread

    def _give(self, tokens: Sequence[Sequence[int]], nats: Sequence[Sequence[float]]) -> None:
        """New tokens of each row: keep them, and hand out their text."""
        for row, (new, own) in enumerate(zip(tokens, nats, strict=True)):
            if NOT_FINITE in new:
                raise self._diverged(row, new)
            self.tokens[row] += new
            self.nats[row] += own
            for token in new:
                if token != self.tokenizer.end_id:
                    self._hand_out(row, self.streams[row].push(token))
            if new and not self.active[row]:
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
