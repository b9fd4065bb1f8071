"""Examples of a task: which are drawn, which are held out, and how they are written."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from jaxode.config import require
from jaxode.data.documents import Document

MARK = "="
"""Between a question and its answer."""
TRIES = 20
"""Draws for an example, over the share of the part that it is looked for in, before that part is taken to be empty."""


@dataclass(frozen=True)
class Question:
    """With its answer, both without MARK."""

    text: str
    answer: str


@dataclass(frozen=True)
class Task:
    """One kind of question."""

    name: str
    draw: Callable[[np.random.Generator, int], Question]
    """A question of a difficulty."""
    answers: Callable[[int], int]
    """How many answers a question of a difficulty could have, by its form alone."""
    least: int
    usual: int
    """The most difficult of those that are trained where nothing is said."""
    most: int = 99
    """The most difficult that there is."""

    def difficulties(self, text: str, field: str) -> tuple[int, ...]:
        """From "1-8", "3" or "" (the usual ones), in order.

        Raises:
            UserError: no such range, or one that the task has not.
        """
        if not text:
            return tuple(range(self.least, self.usual + 1))
        parts = text.split("-")
        whole = all(part.strip().isdecimal() for part in parts) and len(parts) in (1, 2)
        require(whole, f'{field} = "{text}": must be a number or a range such as "1-8"')
        first, last = int(parts[0]), int(parts[-1])
        require(
            self.least <= first <= last <= self.most,
            f'{field} = "{text}": {self.name} has difficulties from {self.least} to {self.most}, the lower one first',
        )
        return tuple(range(first, last + 1))


def task_examples(task: Task, difficulty: int, count: int, seed: int, share: float, held_out: bool) -> list[Question]:
    """Questions of one difficulty, drawn independently, from the part of all questions that is held out, or from the
    rest: a question is in one of them by its own hash, so that none is trained and tested. Where there are so few that
    one part has none, both share all.

    Args:
        task: whose.
        difficulty: of all of them.
        count: how many; where there are few, some come several times.
        seed: another one, other draws.
        share: of all questions, held out.
        held_out: which part.
    """
    rng = np.random.default_rng([seed, difficulty, int(held_out)])
    found: list[Question] = []
    shared = False
    while len(found) < count:
        tries = 1 if shared else round(TRIES / share)
        for _ in range(tries):
            question = task.draw(rng, difficulty)
            if shared or (_place(question.text) < share) == held_out:
                found.append(question)
                break
        else:
            shared = True
    return found


def are_apart(task: Task, difficulty: int, held_out: Sequence[Question], seed: int, share: float) -> bool:
    """Whether questions of the part that is held out are in it, and those that are trained on are not: neither part is
    so small that both share all.
    """
    (trained,) = task_examples(task, difficulty, 1, seed, share, held_out=False)
    return _place(trained.text) >= share and all(_place(question.text) < share for question in held_out)


def _place(text: str) -> float:
    """Of a question between 0 and 1."""
    return int(hashlib.sha256(text.encode()).hexdigest()[:12], 16) / 16**12


def task_documents(
    task: Task, difficulties: Sequence[int], count: int, seed: int, share: float, held_out: bool
) -> Iterator[Document]:
    """`count` examples in all, as many of each difficulty, in turns; a source names task, difficulty and number."""
    each = [-(-(count - place) // len(difficulties)) for place in range(len(difficulties))]
    drawn = [
        task_examples(task, difficulty, size, seed, share, held_out)
        for difficulty, size in zip(difficulties, each, strict=True)
    ]
    for number in range(max(each)):
        for difficulty, questions in zip(difficulties, drawn, strict=True):
            if number < len(questions):
                question = questions[number]
                name = f"{task.name}:{difficulty}#{number}"
                yield Document(f"{question.text}{MARK}{question.answer}", name)


def majority(questions: Sequence[Question]) -> float:
    """Share of the most frequent answer: what is right without a look at the question."""
    return Counter(question.answer for question in questions).most_common(1)[0][1] / len(questions)
