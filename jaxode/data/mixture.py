"""Rows of several corpora: to train on in the shares of their weights, to validate on all of them, each once.

Weights are of rows. Rows of a stream have L tokens each, so they are of tokens as well. Imports no jax.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from jaxode.config.mixture import Share

Rows = Sequence[Mapping[str, Any]]


class Together(Sequence[Mapping[str, Any]]):
    """All rows of several corpora, each once, spread so evenly that any beginning holds them in proportion."""

    def __init__(self, parts: Sequence[Rows]):
        self.parts = tuple(parts)
        self._starts = np.cumsum([0, *map(len, parts)])

    @cached_property
    def _order(self) -> np.ndarray:
        places = np.concatenate([(np.arange(len(rows)) + 0.5) / len(rows) for rows in self.parts])
        return np.argsort(places, kind="stable")

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, i: Any) -> Any:
        if isinstance(i, slice):
            return [self[j] for j in range(*i.indices(len(self)))]
        place = int(self._order[i])
        part = int(np.searchsorted(self._starts, place, side="right")) - 1
        return self.parts[part][place - int(self._starts[part])]


class Mixture(Together):
    """Rows to train on, of which batches draw each corpus in the share of its weight."""

    def __init__(self, shares: Sequence[Share], parts: Sequence[Rows]):
        super().__init__(parts)
        self.shares = tuple(shares)
        total = sum(share.weight for share in shares)
        self.weights = [share.weight / total for share in shares]

    def ends(self, batch_size: int) -> list[int]:
        """The batch, from 0, within which each corpus begins again."""
        return [int(len(rows) / (w * batch_size)) for rows, w in zip(self.parts, self.weights, strict=True)]
