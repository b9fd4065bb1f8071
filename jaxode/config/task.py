"""Which questions of a task made by the program are drawn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from jaxode.config.checks import at_least
from jaxode.config.fields import Most, Seed, check_fields

TASKS_PREFIX = "tasks/"
"""Of a corpus that is a task."""


@dataclass(frozen=True)
class TaskConfig:
    """Of `data.corpus = "tasks/NAME"` alone."""

    difficulty: str = ""
    """Of the questions, "1-8" or "5"; empty: the task's usual ones."""
    beyond: str = ""
    """More difficult ones, which are only tested at the end; empty: none."""
    examples: Annotated[int, Most(10_000_000)] = 50_000
    """Questions to train on, as many of each difficulty."""
    tested: Annotated[int, Most(1_000_000)] = 500
    """Questions of each difficulty that the answers are tested on at the end."""
    seed: Seed = 0
    """Of the draws."""

    def __post_init__(self) -> None:
        check_fields(self, "data.task")
        for name in ("examples", "tested"):
            at_least(f"data.task.{name}", getattr(self, name), 1)
        at_least("data.task.seed", self.seed, 0)
