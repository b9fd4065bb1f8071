"""The tasks themselves: how a question of a difficulty is drawn, and its answer."""

from __future__ import annotations

import difflib
import math
import string

import numpy as np

from jaxode.config import UserError
from jaxode.data.tasks.examples import Question, Task

NODES = string.ascii_lowercase[:24]
"""Of reachable."""
CIRCLE, STARTS = NODES[:16], 4
"""Nodes of p-hop, and how many of them a question asks about: one answer is too little to learn from."""
CELLS = 11
"""Width of the automaton, whose ends touch."""


def hops(rng: np.random.Generator, difficulty: int) -> Question:
    """Follow `difficulty` pointers from each of some nodes. All pointers are one circle, so none leads back early.

    abcabdca..|||cadb=: pairs say that a points to b and c to a; three pointers (a bar each, so that more of them than
    were trained on can be read) from c lead where, from a, d and b? Half of the circle at most: from there on the way
    back is shorter. After the induction of p hops that Sanford et al. 2024 (arXiv 2402.09268) show to need depth in
    log p.
    """
    circle = [CIRCLE[i] for i in rng.permutation(len(CIRCLE))]
    pairs = [circle[i] + circle[(i + 1) % len(circle)] for i in range(len(circle))]
    starts = rng.permutation(len(circle))[:STARTS]
    text = "".join(pairs[i] for i in rng.permutation(len(pairs)))
    asked, answers = ("".join(circle[(start + hop) % len(circle)] for start in starts) for hop in (0, difficulty))
    return Question(f"{text}{'|' * difficulty}{asked}", answers)


def swaps(objects: int) -> Task:
    """Where `objects` end after `difficulty` swaps of two places each; a letter is a swap.

    The word problem of the symmetric group: of S5 it is complete for NC1, so no fixed number of layers solves it for
    every length (Merrill, Petty & Sabharwal 2024, arXiv 2404.08819).
    """
    pairs = [(a, b) for a in range(objects) for b in range(a + 1, objects)]

    def draw(rng: np.random.Generator, difficulty: int) -> Question:
        chosen = rng.integers(len(pairs), size=difficulty)
        order = list(range(1, objects + 1))
        for index in chosen:
            a, b = pairs[index]
            order[a], order[b] = order[b], order[a]
        return Question("".join(string.ascii_lowercase[i] for i in chosen), "".join(map(str, order)))

    return Task(f"s{objects}", draw, lambda difficulty: math.factorial(objects), 1, 12)


def parity(rng: np.random.Generator, difficulty: int) -> Question:
    """Whether the ones among `difficulty` digits are odd: the simplest state that is tracked."""
    bits = rng.integers(2, size=difficulty)
    return Question("".join(map(str, bits)), str(int(bits.sum()) % 2))


def rule_30(rng: np.random.Generator, difficulty: int) -> Question:
    """The row after `difficulty` steps of Wolfram's rule 30, new = left xor (middle or right)."""
    row = rng.integers(2, size=CELLS)
    cells = row
    for _ in range(difficulty):
        cells = np.roll(cells, 1) ^ (cells | np.roll(cells, -1))
    return Question(f"{''.join(map(str, row))}|{difficulty}", "".join(map(str, cells)))


def addition(rng: np.random.Generator, difficulty: int) -> Question:
    """The sum of two numbers of `difficulty` digits, the first digit first: it needs every carry."""
    a, b = ("".join(map(str, rng.integers(10, size=difficulty))) for _ in range(2))
    return Question(f"{a}+{b}", str(int(a) + int(b)).zfill(difficulty + 1))


def reachable(rng: np.random.Generator, difficulty: int) -> Question:
    """Whether a path leads from one node to another: from the first of a chain of `difficulty` edges to its end, or to
    that of another chain.
    """
    nodes = [NODES[i] for i in rng.permutation(len(NODES))[: 2 * difficulty + 2]]
    chains = nodes[: difficulty + 1], nodes[difficulty + 1 :]
    edges = [chain[i] + chain[i + 1] for chain in chains for i in range(difficulty)]
    text = "".join(edges[i] for i in rng.permutation(len(edges)))
    there = bool(rng.integers(2))
    end = chains[0 if there else 1][-1]
    return Question(f"{text}|{chains[0][0]}{end}", "y" if there else "n")


TASKS = {
    task.name: task
    for task in (
        Task("p-hop", hops, lambda difficulty: math.perm(len(CIRCLE), STARTS), 1, 5, most=len(CIRCLE) // 2),
        swaps(3),
        swaps(5),
        Task("parity", parity, lambda difficulty: 2, 1, 16),
        Task("rule-30", rule_30, lambda difficulty: 2**CELLS, 1, 6),
        Task("addition", addition, lambda difficulty: 2 * 10**difficulty - 1, 1, 8),
        Task("reachable", reachable, lambda difficulty: 2, 1, 8, most=(len(NODES) - 2) // 2),
    )
}
"""By name."""


def find_task(name: str, field: str) -> Task:
    """The task of a name.

    Raises:
        UserError: there is none; the nearest is named.
    """
    if name in TASKS:
        return TASKS[name]
    near = difflib.get_close_matches(name, TASKS, n=1, cutoff=0.4)
    meant = f"; did you mean {near[0]!r}?" if near else ""
    raise UserError(f'{field} = "tasks/{name}": unknown; tasks are {", ".join(TASKS)}{meant}')
