"""Texts as token ids that a model can read, or one clear error."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from jaxode.config import ModelConfig, UserError, require
from jaxode.data import Tokenizer
from jaxode.data.tokenizers import Frame


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
    require(not names or len(names) == len(texts), f"names: {len(names)} of them for {len(texts)} texts; give one each")
    names = names or [f"text {i}" for i in range(1, len(texts) + 1)]
    before, after = tokenizer.around(frame)
    around = len(before) + len(after)
    own = tokenizer.encode_batch(texts)
    for name, ids in zip(names, own, strict=True):
        require(bool(ids), f"{name} holds no token that tokenizer {tokenizer.name} knows: remove it")
    long = [i for i, ids in enumerate(own) if len(ids) + around > length]
    if long and not truncate:
        of_frame = f", {around} of them around every text" if around else ""
        raise UserError(
            f"{names[long[0]]} has {len(own[long[0]]) + around} tokens{of_frame}, the model reads at most model.length "
            f"= {length}; {len(long)} of {len(own)} texts are too long: shorten them, or cut them with --truncate"
        )
    rows = tuple((*before, *ids[: length - around], *after) for ids in own)
    return TokenRows(rows, len(before), len(after), len(long), tokenizer.count_unknown(texts, own))


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
    require(not names or len(names) == len(firsts), f"names: {len(names)} of them for {len(firsts)} texts")
    names = names or [f"text {i}" for i in range(1, len(firsts) + 1)]
    template = tokenizer.pair_template(frame)
    require(template.size + 2 <= length, f"model.length = {length}: no room for a pair of texts")
    one, two = tokenizer.encode_batch(firsts), tokenizer.encode_batch(seconds)
    for name, first, second in zip(names, one, two, strict=True):
        require(bool(first and second), f"{name} holds no token that tokenizer {tokenizer.name} knows: remove it")
    sizes = [len(first) + len(second) + template.size for first, second in zip(one, two, strict=True)]
    long = [i for i, size in enumerate(sizes) if size > length]
    if long and not truncate:
        raise UserError(
            f"{names[long[0]]} has {sizes[long[0]]} tokens, {template.size} of them around the pair, the model reads "
            f"at most model.length = {length}; {len(long)} of {len(sizes)} pairs are too long: shorten them, or cut "
            "them with --truncate"
        )
    rows = [template.row(first, second, length) for first, second in zip(one, two, strict=True)]
    ids, kinds = tuple(tuple(row) for row, _ in rows), tuple(tuple(row) for _, row in rows)
    unknown = tokenizer.count_unknown(firsts, one) + tokenizer.count_unknown(seconds, two)
    return TokenRows(ids, len(template.before), len(template.after), len(long), unknown, kinds)


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
