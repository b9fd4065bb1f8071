"""Which text a corpus holds, told from the text itself: the same after a move or a touch, another after an edit."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

PARTS = 64
"""A split is hashed in up to this many runs of consecutive documents, so that a change can be placed."""


@dataclass(frozen=True)
class SplitIdentity:
    """The documents of one split, in their order."""

    documents: int
    digests: tuple[str, ...]
    """Of the parts."""
    sources: tuple[str, ...]
    """Of each part's first document; names do not count."""

    @classmethod
    def read(cls, raw: Mapping[str, Any]) -> SplitIdentity:
        """From the JSON of its fields."""
        return cls(raw["documents"], tuple(raw["digests"]), tuple(raw["sources"]))

    def state(self) -> dict[str, Any]:
        """What a saved data position holds of it, as plain JSON values."""
        return {"documents": self.documents, "digests": list(self.digests)}


Identity = Mapping[str, SplitIdentity]  # by split


class IdentityCounter:
    """Hashes the documents of a split as they stream by; their number is known before."""

    def __init__(self, documents: int, source: Callable[[int], str]):
        self._documents, self._source, self._seen = documents, source, 0
        self._hashes: list[Any] = []
        self._sources: list[str] = []

    def add(self, text: bytes) -> None:
        """Take the next document."""
        if self._seen * PARTS // self._documents >= len(self._hashes):
            self._hashes.append(hashlib.sha256())
            self._sources.append(self._source(self._seen))
        # with its length, so that moving the end of a document changes the hash
        self._hashes[-1].update(len(text).to_bytes(8, "big") + text)
        self._seen += 1

    def identity(self) -> SplitIdentity:
        """Of all documents so far."""
        digests = tuple(part.hexdigest()[:16] for part in self._hashes)
        return SplitIdentity(self._seen, digests, tuple(self._sources))


def change(identity: Identity, saved: Mapping[str, Any]) -> str:
    """What differs between a corpus and the `state` of its splits that was saved earlier; empty where nothing does."""
    for split, now in identity.items():
        name = _name(split)
        if split not in saved:
            return f"the {name} was no part of it"
        before = saved[split]
        if before["documents"] != now.documents:
            return f"the {name} has {now.documents} documents, it had {before['documents']}"
        if before["digests"] != list(now.digests):
            pairs = zip(before["digests"], now.digests, strict=True)
            place = next(i for i, (old, new) in enumerate(pairs) if old != new)
            # a part is one document where there are few
            where = "in" if now.documents <= PARTS else "in or soon after"
            return f"the text of the {name} differs {where} {now.sources[place]}"
    gone = [split for split in saved if split not in identity]
    return f"the {_name(gone[0])} was part of it and is no more" if gone else ""


def of_mixture(split: str, number: int) -> str:
    """What the split of corpus `number`, from 1, of several is called in the identity of all."""
    return f"{split}/{number}"


def _name(split: str) -> str:
    split, _, number = split.partition("/")
    return f"{split} split of corpus {number} of data.mixture" if number else f"{split} split"
