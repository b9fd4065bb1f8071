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
CIRCLE, JUMPS = NODES[:17], 8
"""Nodes of p-hop, as many as no number of pointers divides, and how often that number is followed: one answer is too
little to learn from."""
CELLS = 11
"""Width of the automaton, whose ends touch."""


def hops(rng: np.random.Generator, difficulty: int) -> Question:
    """Follow `difficulty` pointers from the first node, as many from where they lead, and so on.

    epklhqjfbodangicm|||.....=fnopdeqg: a points to e, b to p, c to k; three pointers from a lead to f (by way of e and
    h), three from f to n. A bar each, in as many places as the most difficult question needs, so that everything stands
    at a place of its own. All pointers are one circle, so that none leads back early, and half of it at most are
    followed: from there on the way back is shorter.

    After the induction of p hops that Sanford et al. 2024 (arXiv 2402.09268) show to need depth in log p, without what
    gradients hardly find in it: a pointer stands at the place that its node names, so that one attention looks it up
    (of pairs in any order it takes one for what stood before and one for the match, and neither helps without the
    other), and each answer begins at the token that is read, so that nothing is fetched first.
    """
    order = rng.permutation(len(CIRCLE))
    after = np.empty_like(order)
    after[order] = np.roll(order, -1)
    node, walk = 0, []
    for _ in range(JUMPS):
        for _ in range(difficulty):
            node = after[node]
        walk.append(node)
    pointers, answers = ("".join(CIRCLE[node] for node in nodes) for nodes in (after, walk))
    return Question(pointers + ("|" * difficulty).ljust(len(CIRCLE) // 2, "."), answers)


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
        Task("p-hop", hops, lambda difficulty: math.perm(len(CIRCLE) - 1, JUMPS), 1, 5, most=len(CIRCLE) // 2),
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
