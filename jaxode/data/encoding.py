"""Many texts to token ids, in memory that is bounded however long one of them is."""

from __future__ import annotations

import re
from array import array
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from tqdm import tqdm

from jaxode.config import UserError
from jaxode.data.batches import BatchSpec
from jaxode.data.identity import IdentityCounter
from jaxode.data.packing import Answered
from jaxode.data.stats import SplitStats
from jaxode.data.tokenizers import Tokenizer

LONG = 2_000_000
"""Characters of a text above which it is encoded in parts: what a tokenizer makes of a text is many times its size."""

_CHUNK_CHARACTERS = 1_000_000
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


class Counter:
    """Grows while documents stream through `encoded`; of whole texts, cuts and frames them."""

    def __init__(
        self,
        identity: IdentityCounter | None = None,
        around: tuple[tuple[int, ...], tuple[int, ...]] | None = None,
        length: int = 0,
    ) -> None:
        self.documents = self.tokens = self.bytes = self.cut = self.unknown = 0
        self.identity, self.around, self.length = identity, around, length

    def add(self, text: str, ids: Sequence[int], given: int = 0) -> Answered:
        raw = text.encode()
        self.documents += 1
        self.bytes += len(raw)
        if self.identity is not None:
            self.identity.add(raw)
        if self.around is None:
            self.tokens += len(ids) + 1
            return Answered(ids, 0)
        before, after = self.around
        room = self.length - len(before) - len(after)
        self.cut += len(ids) > room
        framed = [*before, *ids[:room], *after]
        self.tokens += len(framed)
        return Answered(framed, len(before) + given if given else 0)

    def stats(self) -> SplitStats:
        return SplitStats(self.documents, self.tokens, self.bytes, self.cut, self.unknown)


def encoded(
    texts: Sequence[str],
    spec: BatchSpec,
    count: Counter,
    name: str,
    progress: bool,
    source: Callable[[int], str],
) -> Iterator[Answered]:
    """The ids of every text in order, encoded some megabytes at a time so that all cores work."""
    unknown = spec.tokenizer.count_unknown
    after = 0 if count.around is None else len(count.around[1])  # what closes a text is no answer
    with tqdm(
        total=len(texts), desc=f"packing {name}", unit="doc", disable=None if progress else True, leave=False
    ) as bar:
        for first, chunk in _chunks(texts):
            for place, (text, ids, given) in enumerate(_divided(chunk, spec)):
                answered = count.add(text, ids, given)
                # to look for the unknown token itself in a long text would take many times its memory
                short = len(text) <= LONG
                count.unknown += unknown([text], [ids]) if short else spec.tokenizer.unknown_ids(ids)
                if spec.answer_after and answered.given >= len(answered.ids) - after:
                    raise UserError(
                        f"{source(first + place)}: nothing of it is left to predict behind data.answer_after = "
                        f'"{spec.answer_after}" within model.length = {count.length}: remove it, change the mark, or '
                        "raise the length"
                    )
                yield answered
            bar.update(len(chunk))


def _chunks(texts: Sequence[str]) -> Iterator[tuple[int, Sequence[str]]]:
    """Number of the first, and texts of about `_CHUNK_CHARACTERS` together."""
    first, several = 0, 1
    while first < len(texts):
        chunk = texts[first : first + several]
        yield first, chunk
        first += len(chunk)
        # by the size of those before, and at most twice as many: a long text is seldom followed by hundreds
        fitting = len(chunk) * _CHUNK_CHARACTERS // max(1, sum(map(len, chunk)))
        several = max(1, min(2 * several, fitting, 1000))


def _divided(texts: Sequence[str], spec: BatchSpec) -> Iterator[tuple[str, Sequence[int], int]]:
    """Each text, its ids, and how many of them are only read."""
    encode, mark = partial(encode_texts, spec.tokenizer), spec.answer_after
    if not mark:
        yield from ((text, ids, 0) for text, ids in zip(texts, encode(texts), strict=True))
        return
    parts = [text.partition(mark) for text in texts]
    # by themselves: no token holds the end of the question and the beginning of the answer
    questions, answers = encode([head + end for head, end, _ in parts]), encode([tail for *_, tail in parts])
    for text, question, answer in zip(texts, questions, answers, strict=True):
        yield text, [*question, *answer], len(question)
