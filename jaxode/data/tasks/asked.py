"""The questions that a task's answers are tested on, difficulty by difficulty."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from jaxode.config import DataConfig, require
from jaxode.config.task import TASKS_PREFIX
from jaxode.data.tasks.examples import MARK, Question, are_apart, majority, task_examples
from jaxode.data.tasks.tasks import find_task


@dataclass(frozen=True)
class Asked:
    """Questions of one difficulty, none of which is trained on unless there are too few."""

    difficulty: int
    texts: tuple[str, ...]
    """With their answers."""
    majority: float
    """Share of the most frequent answer: what is right without a look at the question."""
    chance: float
    """Share that is right where answers of the right form are drawn, each as often."""
    trained: bool
    """Whether questions of this difficulty are trained on."""
    distinct: int
    """How many different questions they are: of a low difficulty there are few."""
    held_out: bool
    """Whether none of them was trained on; where there are few questions, training and test share them."""


def asked(data: DataConfig) -> Iterator[Asked]:
    """Those that `data.task` asks for: of the trained difficulties, and beyond.

    Raises:
        UserError: a difficulty that the task has not.
    """
    task, told = find_task(data.corpus.removeprefix(TASKS_PREFIX), "data.corpus"), data.task
    trained = task.difficulties(told.difficulty, "data.task.difficulty")
    more = task.difficulties(told.beyond, "data.task.beyond") if told.beyond else ()
    require(
        not set(trained) & set(more),
        f'data.task.beyond = "{told.beyond}": {", ".join(map(str, sorted(set(trained) & set(more))))} is trained on',
    )
    for difficulty in (*trained, *more):
        # another seed than that of the validation split
        drawn = task_examples(task, difficulty, told.tested, told.seed + 1, data.valid_fraction, held_out=True)
        texts = tuple(map(_written, drawn))
        apart = difficulty not in trained or are_apart(task, difficulty, drawn, told.seed, data.valid_fraction)
        yield Asked(
            difficulty,
            texts,
            majority(drawn),
            1 / task.answers(difficulty),
            difficulty in trained,
            len(set(texts)),
            apart,
        )


def _written(question: Question) -> str:
    return f"{question.text}{MARK}{question.answer}"
