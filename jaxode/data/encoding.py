"""Many texts to token ids, in memory that is bounded however long one of them is."""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterator, Sequence

from jaxode.data.tokenizers import Tokenizer

LONG = 2_000_000
"""Characters of a text above which it is encoded in parts; a tokenizer takes some 50 bytes of memory a character."""

_TRIES = 100
_SEEN = 60
_BETWEEN_WORDS = re.compile(r"(?<=[^\W\d_])(?= [^\W\d_])")


def encode_texts(tokenizer: Tokenizer, texts: Sequence[str]) -> list[Sequence[int]]:
    """Token ids of several plain texts, in parallel where there are cores; those of a long one four bytes each.

    Raises:
        UserError: as `Tokenizer.encode_batch`.
    """
    if all(len(text) <= LONG for text in texts):
        return list(tokenizer.encode_batch(texts))
    return [_in_parts(tokenizer, text) if len(text) > LONG else tokenizer.encode_batch([text])[0] for text in texts]


def _in_parts(tokenizer: Tokenizer, text: str) -> Sequence[int]:
    ids = array("i")
    for part in _parts(tokenizer, text):
        ids.extend(tokenizer.encode_batch([part])[0])
    return ids


def _parts(tokenizer: Tokenizer, text: str) -> Iterator[str]:
    start = 0
    while len(text) - start > LONG:
        end = _cut(tokenizer, text, start + LONG // 2)
        if end is None:
            break
        yield text[start:end]
        start = end
    yield text[start:]


def _cut(tokenizer: Tokenizer, text: str, place: int) -> int | None:
    """A place between two words, from `place` on, on whose two sides the ids are the same as if it were not cut there;
    None where `_TRIES` places are none.
    """
    for _, match in zip(range(_TRIES), _BETWEEN_WORDS.finditer(text, place), strict=False):
        at = match.start()
        before, after = text[max(0, at - _SEEN) : at], text[at : at + _SEEN]
        whole, left, right = tokenizer.encode_batch([before + after, before, after])
        if whole == left + right:
            return at
    return None
