"""Texts as token ids that a model can read, or one clear error."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from jaxode.config import ModelConfig, UserError, require
from jaxode.data import Tokenizer
from jaxode.data.tokenizers import Frame
from jaxode.inference.texts.batching import RowBatch, padded, real_tokens


@dataclass(frozen=True)
class TokenRows:
    """Token ids of texts, each within its frame."""

    ids: tuple[tuple[int, ...], ...]
    before: int
    """Tokens of the frame before a text's own."""
    after: int
    """The same after them."""
    truncated: int
    """Texts that were cut to the model's length."""
    unknown: int
    """Tokens that stand for what the tokenizer does not know."""
    kinds: tuple[tuple[int, ...], ...] | None = None
    """Of pairs of texts, which token is of which: 0 of the first, 1 of the second."""

    @property
    def lengths(self) -> Int[np.ndarray, " texts"]:
        """Tokens of every row, those of the template included."""
        return np.asarray([len(row) for row in self.ids], np.int64)

    @property
    def own(self) -> Int[np.ndarray, " texts"]:
        """Tokens of every text itself."""
        return self.lengths - self.before - self.after

    def arrays(self, batch: RowBatch, pad_id: int) -> tuple[Int[np.ndarray, "B L"], ...]:
        """Tokens and segments of a batch, and of pairs the kinds."""
        rows = [self.ids[i] for i in batch.rows]
        arrays = padded(rows, batch, pad_id), real_tokens(rows, batch)
        return arrays if self.kinds is None else (*arrays, padded([self.kinds[i] for i in batch.rows], batch, 0))


def as_texts(texts: Iterable[str], names: Sequence[str] = ()) -> list[str]:
    """Several texts as a list. A string is a sequence of strings too, so it would be taken apart without a word.

    Args:
        texts: in an order: a list, a tuple, an iterator, an array or a column of a table.
        names: what errors call the texts; "text 1", "text 2", .. when empty.

    Raises:
        UserError: one string, something without an order, a table, or an item that is no text.
    """
    require(not isinstance(texts, str | bytes), "texts is one string: give a list")
    ordered = isinstance(texts, Iterable) and not isinstance(texts, Mapping | Set) and getattr(texts, "ndim", 1) == 1
    require(ordered, f"texts is of type {type(texts).__name__}: give a list of strings")
    items = list(texts)
    for number, item in enumerate(items):
        if not isinstance(item, str):
            name = names[number] if number < len(names) else f"text {number + 1}"
            raise UserError(f"{name} is of type {type(item).__name__}: give a string")
    return items


def token_rows(
    tokenizer: Tokenizer,
    texts: Iterable[str],
    length: int,
    *,
    frame: Frame = None,
    truncate: bool = False,
    names: Sequence[str] = (),
) -> TokenRows:
    """Token ids of texts that a model of `length` reads.

    Args:
        tokenizer: the model's own.
        texts: in an order; special tokens written out in them are plain text.
        length: tokens that a row may have, frame included.
        frame: what to put around each text.
        truncate: cut longer texts to their first tokens instead of refusing them.
        names: what errors call the texts; "text 1", "text 2", .. when empty.

    Raises:
        UserError: one string in place of several, no text, names that do not fit, or the first of those that are no
            text, hold no token or are too long.
    """
    texts = as_texts(texts, names)
    require(bool(texts), "no texts: give at least one")
    names = text_names(names, len(texts))
    before, after = tokenizer.around(frame)
    around = len(before) + len(after)
    own = tokenizer.encode_batch(texts)
    for name, ids in zip(names, own, strict=True):
        require(bool(ids), f"{name} holds no token that tokenizer {tokenizer.name} knows: remove it")
    of_frame = f", {around} of them around every text" if around else ""
    reads = f"{of_frame}, the model reads at most model.length = {length}"
    cut = count_long([len(ids) + around for ids in own], length, truncate, names, reads)
    rows = tuple((*before, *ids[: length - around], *after) for ids in own)
    return TokenRows(rows, len(before), len(after), cut, tokenizer.count_unknown(texts, own))


def pair_rows(
    tokenizer: Tokenizer,
    texts: Iterable[str],
    pairs: Iterable[str],
    length: int,
    *,
    frame: Frame = None,
    truncate: bool = False,
    names: Sequence[str] = (),
) -> TokenRows:
    """Token ids of pairs of texts, each in a row; arguments and refusals as of `token_rows`.

    Where a pair is cut, the longer text loses its end, until both are as long; then both do.

    Raises:
        UserError: also another number of second texts than of first ones, or a template without a place for one.
    """
    firsts, seconds = as_texts(texts, names), as_texts(pairs, names)
    require(bool(firsts), "no texts: give at least one")
    require(len(firsts) == len(seconds), f"pairs: {len(seconds)} of them for {len(firsts)} texts; give one each")
    names = text_names(names, len(firsts))
    template = tokenizer.pair_template(frame)
    require(template.size + 2 <= length, f"model.length = {length}: no room for a pair of texts")
    one, two = tokenizer.encode_batch(firsts), tokenizer.encode_batch(seconds)
    for name, first, second in zip(names, one, two, strict=True):
        require(bool(first and second), f"{name} holds no token that tokenizer {tokenizer.name} knows: remove it")
    sizes = [len(first) + len(second) + template.size for first, second in zip(one, two, strict=True)]
    reads = f", {template.size} of them around the pair, the model reads at most model.length = {length}"
    cut = count_long(sizes, length, truncate, names, reads, "pairs")
    rows = [template.row(first, second, length) for first, second in zip(one, two, strict=True)]
    ids, kinds = tuple(tuple(row) for row, _ in rows), tuple(tuple(row) for _, row in rows)
    unknown = tokenizer.count_unknown(firsts, one) + tokenizer.count_unknown(seconds, two)
    return TokenRows(ids, len(template.before), len(template.after), cut, unknown, kinds)


def text_names(names: Sequence[str], count: int) -> Sequence[str]:
    """What errors call so many texts: `names`, or "text 1", "text 2", .. where they are empty.

    Raises:
        UserError: another number of names.
    """
    require(not names or len(names) == count, f"names: {len(names)} of them for {count} texts; give one each")
    return names or [f"text {i}" for i in range(1, count + 1)]


def count_long(
    sizes: Sequence[int], limit: int, truncate: bool, names: Sequence[str], reads: str, unit: str = "texts"
) -> int:
    """How many of `sizes` are beyond `limit`, and so are cut.

    Raises:
        UserError: there are some, and no leave to cut them; the first is named, and `reads` tells the limit.
    """
    long = [i for i, size in enumerate(sizes) if size > limit]
    if long and not truncate:
        raise UserError(
            f"{names[long[0]]} has {sizes[long[0]]} tokens{reads}; {len(long)} of {len(sizes)} {unit} are too long: "
            "shorten them, or cut them with --truncate"
        )
    return len(long)


def check_vocabulary(model: ModelConfig, tokenizer: Tokenizer) -> None:
    """Refuse ids beyond a model's table: JAX would read its last row in their place.

    Raises:
        UserError: a tokenizer with more ids than the model.
    """
    require(
        tokenizer.vocab_size <= model.vocab_size,
        f"tokenizer {tokenizer.name} has {tokenizer.vocab_size} ids, the model model.vocab_size = {model.vocab_size}: "
        "give the model's own tokenizer",
    )
