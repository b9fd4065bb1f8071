"""Which documents of a corpus are held out for validation, decided in memory that does not grow with the corpus."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass

SAMPLE = 2**18
"""Different texts that `EqualTexts` holds hashes of."""


@dataclass(frozen=True)
class HeldOut:
    """The documents whose hash falls in the lowest `fraction`; at least one, and never all of several.

    A hash and not a shuffle: adding a document moves no other one between training and validation.
    """

    fraction: float
    documents: int
    below: int
    """Documents whose hash falls there."""
    lowest: str
    highest: str
    """Names of the documents at the ends."""

    @classmethod
    def of(cls, sources: Iterable[str], fraction: float) -> HeldOut:
        """From the names of all documents, which must differ."""
        documents = below = 0
        lowest, highest = (2.0, ""), (-1.0, "")
        for source in sources:
            place = score(source)
            documents += 1
            below += place < fraction
            lowest, highest = min(lowest, (place, source)), max(highest, (place, source))
        return cls(fraction, documents, below, lowest[1], highest[1])

    @property
    def by_hash(self) -> bool:
        """Whether hashes alone decide, without the exceptions that leave something on either side."""
        return 0 < self.below < self.documents

    def __contains__(self, source: str) -> bool:
        if self.by_hash:
            return score(source) < self.fraction
        return source == self.lowest if self.below == 0 else source != self.highest


def score(source: str) -> float:
    """The place of a name between 0 and 1 by its hash."""
    # the bytes, since a file's name need not be text
    return int(hashlib.sha256(os.fsencode(source)).hexdigest()[:16], 16) / 16**16


class EqualTexts:
    """Counts documents whose text an earlier one had: exactly up to `SAMPLE` different texts, and beyond from the
    share of all texts whose hashes are lowest.
    """

    def __init__(self) -> None:
        self._bound = 2**64
        self._known: dict[int, int] = {}  # by hash, 4 times the repetitions, plus 1 if in training, 2 in validation
        self.documents = 0

    def add(self, text: str, held_out: bool) -> None:
        """Take the next document."""
        self.documents += 1
        digest = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
        if digest >= self._bound:
            return
        side = 2 if held_out else 1
        known = self._known.get(digest)
        self._known[digest] = side if known is None else (known + 4) | side
        if len(self._known) > SAMPLE:
            self._bound //= 2
            self._known = {digest: known for digest, known in self._known.items() if digest < self._bound}

    def note(self) -> str | None:
        """What is told of repetitions; None where there is none."""
        repeated = sum(known // 4 for known in self._known.values())
        both = sum(known % 4 == 3 for known in self._known.values())
        if not repeated:
            return None
        scale = 2**64 // self._bound
        about = "about " if scale > 1 else ""
        return (
            f"{about}{repeated * scale} of {self.documents} documents hold the same text as an earlier one; "
            f"texts that stand in training and in validation: {about}{both * scale}"
        )
