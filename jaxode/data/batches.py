"""Rows become batches: what the model reads, what it must predict and where the loss counts.

Batch number `step` is a pure function of (seed, step), so a run can resume anywhere and on any number of devices.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, Literal

import jax
import numpy as np
from jaxtyping import Array, Float, Int

from jaxode.config import DataConfig, check_seed, require
from jaxode.config.checks import parse_frame
from jaxode.data.identity import Identity, change
from jaxode.data.mixture import Mixture
from jaxode.data.notices import notice
from jaxode.data.packing import places, segments
from jaxode.data.tokenizers import Tokenizer

Kind = Literal["causal", "masked", "encoder", "classifier", "token_classifier"]
"""What a batch is for: to predict the next token, masked ones, none (states are matched, of the text as it is), or the
labels of a text."""

_LABELLED = ("classifier", "token_classifier")

Rows = Mapping[str, np.ndarray]  # tokens [B L+1], count [B], of whole texts segments [B L+1] and given [B L+1]
"""Of labelled texts tokens [B L], count [B], wanted [B K], weight [B], of pairs kinds [B L]."""

LENGTHS = 4
"""Lengths that batches of labelled texts are padded to, in even steps up to L: each is compiled for."""

# separate streams of random numbers for the same (seed, step)
_TRAINING, _VALIDATION = 0, 1


@dataclass(frozen=True)
class Batch:
    """One batch as arrays of the host: a pytree, so it goes through `jax.device_put` and `jit` as it is."""

    tokens: Int[np.ndarray | Array, "B L"]
    """The input."""
    targets: Int[np.ndarray | Array, "B L"]
    """What to predict at each position."""
    weights: Float[np.ndarray | Array, "B L"]
    """1 where the loss counts, else 0."""
    segments: Int[np.ndarray | Array, "B L"]
    """Document number within the row, from 1; 0 is padding."""
    places: Int[np.ndarray | Array, "B L"] | None = None
    """Place of each token in its text, where rows hold whole texts; None: in its row."""
    kinds: Int[np.ndarray | Array, "B L"] | None = None
    """Of pairs, which token is of which text: 0 of the first, 1 of the second."""
    wanted: Float[np.ndarray | Array, "B K"] | None = None
    """Of labelled texts: the number of the label, or 0 or 1 for each of several, or the numbers of a regression. A text
    counts by its weight at place 0."""


def _flatten(batch: Batch) -> tuple[list[tuple[Any, Any]], None]:
    return [(jax.tree_util.GetAttrKey(f.name), getattr(batch, f.name)) for f in fields(Batch)], None


def _unflatten(_: None, children: Iterable[Any]) -> Batch:
    # past __init__, since transformations fill pytrees with shardings and shapes, which are no [B L] arrays
    batch = object.__new__(Batch)
    for f, child in zip(fields(Batch), children, strict=True):
        object.__setattr__(batch, f.name, child)
    return batch


jax.tree_util.register_pytree_with_keys(Batch, _flatten, _unflatten)


@dataclass(frozen=True)
class BatchSpec:
    """How rows become batches; `mask_fraction` counts for masked models only."""

    tokenizer: Tokenizer
    kind: Kind = "causal"
    document_mask: bool = False
    mask_fraction: float = 0.15
    around: tuple[tuple[int, ...], tuple[int, ...]] | None = None
    """Of rows that hold whole texts, the ids before and after each; None: rows are cut out of one stream."""
    answer_after: str = ""
    """Of whole texts, what ends the part that is read and not predicted; empty: all of it is predicted."""

    @classmethod
    def of(cls, data: DataConfig, tokenizer: Tokenizer, kind: Kind, length: int) -> BatchSpec:
        """What the settings say for rows of `length` tokens.

        Raises:
            UserError: a frame that the vocabulary has not or that leaves no room, or a kind that needs another
                tokenizer or other rows.
        """
        whole = data.whole_texts
        require(
            whole or kind != "encoder",
            f'data.rows = "{data.rows}": an encoder reads each text by itself; set data.rows = "texts"',
        )
        require(
            not data.mark or kind in ("causal", "masked"),
            f'data.answer_after = "{data.mark}": an encoder predicts nothing of a text; leave it out',
        )
        around = tokenizer.around(parse_frame("data.frame", data.frame)) if whole else None
        size = 0 if around is None else len(around[0]) + len(around[1])
        require(
            size < length, f"model.length = {length}: {size} tokens stand around every text; nothing else would fit"
        )
        return cls(tokenizer, kind, data.apart, data.mask_fraction, around, data.mark)

    def __post_init__(self) -> None:
        require(
            self.kind != "masked" or self.tokenizer.mask_id is not None,
            f'model.kind = "masked", but the tokenizer {self.tokenizer.name} has no mask token: '
            'use data.tokenizer = "bpe" or "bytes", or a pretrained one that has a mask token',
        )


def make_batch(spec: BatchSpec, rows: Rows, rng: np.random.Generator, part: tuple[int, int] = (0, 1)) -> Batch:
    """Turn packed rows [B L+1] into a batch of B sequences of L tokens; `rng` decides the masking.

    Rows that are a `part` (i, n) of a batch, its rows i, i + n, .., are masked as they are in the whole.
    """
    if spec.kind in _LABELLED:
        return _labelled(rows)
    tokens, count = np.asarray(rows["tokens"], np.int32), np.asarray(rows["count"])
    whole = "segments" in rows
    number = np.asarray(rows["segments"]) if whole else segments(tokens, spec.tokenizer.end_id, count)
    place = places(number[:, :-1]) if whole else None
    if spec.kind == "encoder":
        real = (number[:, :-1] > 0).astype(np.float32)
        return Batch(tokens[:, :-1], tokens[:, :-1], real, number[:, :-1], place)
    given = np.asarray(rows["given"]) > 0 if "given" in rows else np.zeros(tokens.shape, bool)
    if spec.kind == "masked":
        return _masked(spec, tokens[:, :-1], number[:, :-1], place, given[:, :-1], rng, part)
    weights = (number[:, 1:] > 0) & ~given[:, 1:]
    if spec.document_mask:
        # the first token of a document cannot be foreseen from another one
        weights &= number[:, 1:] == number[:, :-1]
    return Batch(tokens[:, :-1], tokens[:, 1:], weights.astype(np.float32), number[:, :-1], place)


def _labelled(rows: Rows) -> Batch:
    """As long as its longest text needs; of labelled words, rows hold what to predict at each place, and its weight."""
    tokens, count = np.asarray(rows["tokens"], np.int32), np.asarray(rows["count"])
    step = -(-tokens.shape[1] // LENGTHS)
    length = min(tokens.shape[1], -(-max(1, int(count.max())) // step) * step)
    real = np.arange(length) < count[:, None]
    tokens = tokens[:, :length]
    if "targets" in rows:
        targets, weights = (np.asarray(rows[name])[:, :length] for name in ("targets", "weights"))
        return Batch(tokens, targets.astype(np.int32), weights.astype(np.float32), real.astype(np.int32))
    weights = np.zeros((len(tokens), length), np.float32)
    weights[:, 0] = np.where(count > 0, rows["weight"], 0)
    kinds = np.asarray(rows["kinds"], np.int32)[:, :length] if "kinds" in rows else None
    wanted = np.asarray(rows["wanted"], np.float32)
    return Batch(tokens, tokens, weights, real.astype(np.int32), None, kinds, wanted)


def _masked(
    spec: BatchSpec,
    tokens: np.ndarray,
    number: np.ndarray,
    place: np.ndarray | None,
    given: np.ndarray,
    rng: np.random.Generator,
    part: tuple[int, int],
) -> Batch:
    """Devlin et al. 2019, section 3.1: of the chosen tokens 80% become [MASK], 10% a random token, 10% stay."""
    mask_id = spec.tokenizer.mask_id
    assert mask_id is not None  # BatchSpec refuses it
    special = np.isin(tokens, list(spec.tokenizer.special_ids))
    eligible = (number > 0) & ~special & ~given
    available = eligible.sum(axis=1)
    wanted = np.minimum(np.maximum(np.rint(spec.mask_fraction * available), 1), available)
    first, parts = part
    shape = (len(tokens) * parts, tokens.shape[1])
    # the `wanted` smallest of the eligible scores: an exact share of every row
    score = np.where(eligible, rng.random(shape)[first::parts], 2.0)
    rank = np.argsort(np.argsort(score, axis=1), axis=1)
    chosen = rank < wanted[:, None]
    action = rng.random(shape)[first::parts]
    ordinary = np.asarray(spec.tokenizer.ordinary_ids, np.int32)
    replacement = np.where(action < 0.8, mask_id, rng.choice(ordinary, shape)[first::parts])
    seen = np.where(chosen & (action < 0.9), replacement, tokens).astype(np.int32)
    return Batch(seen, tokens, chosen.astype(np.float32), number, place)


def _numbered(spec: BatchSpec, seed: int, stream: int, step: int, rows: Rows, part: tuple[int, int] = (0, 1)) -> Batch:
    return make_batch(spec, rows, np.random.default_rng((seed, step, stream)), part)


def _dealt(spec: BatchSpec, seed: int, step: int, rows: Rows, part: tuple[int, int]) -> Batch:
    """The `part` of a batch out of the rows of the whole."""
    first, parts = part
    whole = _numbered(spec, seed, _TRAINING, step, rows)
    return jax.tree.map(lambda values: values[first::parts], whole)


_ENDLESS = 2**45
"""Rows until an endless reading ends; grain's own number for it does not survive a batch of one row."""


class Batches(Iterator[Batch]):
    """Endless training batches, reshuffled every epoch, read ahead by a background thread.

    `at(step)` gives any batch; iteration runs from the position that `set_state` can move. A position holds the
    `identity` of the text, and is refused over another one unless that may be `edited`. Of a mixture every stretch of
    rows, and so nearly every batch, holds each corpus in its share; a corpus that ends begins again, in another order,
    and one line says so at the first time.
    """

    def __init__(
        self,
        rows: Sequence[Mapping[str, Any]],
        spec: BatchSpec,
        batch_size: int,
        seed: int,
        identity: Identity | None = None,
        edited: bool = False,
        part: tuple[int, int] = (0, 1),
    ):
        """Of every batch the rows number i, i + n, .. for `part` = (i, n): what one of n processes reads."""
        seed = check_seed(seed)
        self.batch_size, self.seed, self.rows = batch_size, seed, len(rows)
        self._identity, self._edited = identity or {}, edited
        self.weights = rows.weights if isinstance(rows, Mixture) else None
        # what begins again within which batch; one process of several says so
        mixture = rows if isinstance(rows, Mixture) and part[0] == 0 else None
        self._ends = dict(zip(mixture.shares, mixture.ends(batch_size), strict=True)) if mixture else {}
        self.steps_per_epoch = len(rows) / batch_size
        """Batches in one pass over as many rows as there are."""
        import grain  # takes as long as jax, and whoever only names a Batch reads none

        first, parts = part
        several = rows.parts if isinstance(rows, Mixture) else (rows,)
        sources = [
            grain.MapDataset.source(rows).seed(seed).shuffle().repeat(_ENDLESS // max(1, len(rows)) + 1)  # pyright: ignore
            for rows in several
        ]
        mixed = sources[0] if len(sources) == 1 else grain.MapDataset.mix(sources, self.weights)
        if spec.kind in _LABELLED:
            # a batch is as long as its longest text, which any process may hold
            self._batches = mixed.batch(batch_size).map_with_index(partial(_dealt, spec, seed, part=part))
        else:
            numbered = partial(_numbered, spec, seed, _TRAINING, part=part)
            self._batches = mixed[first::parts].batch(batch_size // parts).map_with_index(numbered)
        self._step = 0
        self._reader: Any = None

    def at(self, step: int) -> Batch:
        """Batch number `step`, from 0."""
        batch = self._batches[step]
        assert batch is not None
        return batch

    def __next__(self) -> Batch:
        if self._reader is None:
            # slicing keeps the global step that masking depends on
            self._reader = _reader(self._batches[self._step :])
        batch = next(self._reader)
        for share in [share for share, end in self._ends.items() if end == self._step]:
            notice(f'data.mixture: all of "{share.corpus}" has been read at update {self._step}; it begins again')
        self._step += 1
        return batch

    def get_state(self) -> dict[str, Any]:
        """The position as plain JSON values: read-ahead batches do not count."""
        text = {split: part.state() for split, part in self._identity.items()}
        state = {"step": self._step, "seed": self.seed, "batch_size": self.batch_size, "rows": self.rows}
        state |= {} if self.weights is None else {"weights": self.weights}
        return {**state, "text": text} if text else state

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Continue from `get_state`'s position; one of an older version, which names no text, is taken as it is.

        Raises:
            UserError: the state belongs to another order of the data, or to another text.
        """
        if not self._edited:
            changed = change(self._identity, state["text"]) if "text" in state else ""
            require(
                not changed,
                f"the corpus is not the one that the run was saved with: {changed}; bring the old text back, or go on "
                "with this one by data.edited = true (--data.edited)",
            )
        for name in ("seed", "batch_size", "weights", *(() if self._edited else ("rows",))):
            saved, own = state.get(name), getattr(self, name)
            require(
                saved == own,
                f"the saved data position has {name} = {saved}, this run has {own}, so the order would differ; "
                "resume with the saved settings and an unchanged corpus",
            )
        self.close()
        self._step = int(state["step"])

    def close(self) -> None:
        """Stop the background thread."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None


class ValidationBatches:
    """One pass over all rows, in order, as often as it is iterated; the same batches each time.

    The last batch is filled up with rows of weight 0, so that all have one shape.
    """

    def __init__(
        self,
        rows: Sequence[Mapping[str, Any]],
        spec: BatchSpec,
        batch_size: int,
        limit: int | None = None,
        seed: int = 0,
    ):
        seed = check_seed(seed)
        total = math.ceil(len(rows) / batch_size)
        self._length = total if limit is None else min(limit, total)
        fill: Callable[[Sequence[Mapping[str, Any]]], Rows] = partial(_stack, batch_size, spec.tokenizer.pad_id)
        import grain

        source = grain.MapDataset.source(rows)  # pyright: ignore
        batches = source.batch(batch_size, batch_fn=fill)
        self._batches = batches.map_with_index(partial(_numbered, spec, seed, _VALIDATION))[: self._length]

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Batch]:
        reader = _reader(self._batches)
        try:
            yield from reader
        finally:
            reader.close()


def _reader(batches: Any) -> Any:
    import grain

    return iter(batches.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=4)))


def _stack(batch_size: int, pad_id: int, rows: Sequence[Mapping[str, Any]]) -> Rows:
    missing = batch_size - len(rows)
    filled = {}
    for name in rows[0]:
        values = np.stack([row[name] for row in rows])
        edges = ((0, missing), *((0, 0),) * (values.ndim - 1))
        filled[name] = np.pad(values, edges, constant_values=pad_id if name == "tokens" else 0)
    return filled
