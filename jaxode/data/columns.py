"""Where in a labelled file the texts and the labels stand, and what columns are commonly called. Imports no jax."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

TEXTS = ("text", "sentence", "text_a", "sentence1", "premise", "question", "question1", "review", "content")
PAIRS = ("text_b", "sentence2", "hypothesis", "question2")
LABELS = ("label", "labels", "class", "category", "target", "score", "gold")
"""Names of columns that are found without being named, in this order."""

Switch = Literal["auto", "yes", "no"]


@dataclass(frozen=True)
class Columns:
    """Where in a table the texts and the labels stand, by name or by number from 1; empty: found by common names."""

    text: str = ""
    pair: str = ""
    """Of the second text, of pairs."""
    label: str = ""
    header: Switch = "auto"
    """Whether the first line names the columns. auto: where it holds a name that was asked for, or a common one."""
    quotes: Switch = "auto"
    """Whether a cell may stand in quotation marks, and hold what divides cells. auto: in .csv."""

    @property
    def are_numbers(self) -> bool:
        """Whether columns are named, all of them by number."""
        named = [name for name in (self.text, self.pair, self.label) if name]
        return bool(named) and all(name.isdecimal() for name in named)
