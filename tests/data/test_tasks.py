"""Questions made by the program: answers against solvers that know nothing of how they were drawn; what is held out."""

import dataclasses
import itertools
import re
from collections import deque

import numpy as np
import pytest

from jaxode.config import DataConfig, TaskConfig, UserError
from jaxode.data import prepare
from jaxode.data.batches import ValidationBatches
from jaxode.data.tasks import TASKS, asked, find_task, task_documents, task_examples


def follow(text, answer):
    """By powers of a permutation matrix."""
    pointers, bars, dots = re.fullmatch(r"([a-q]{17})(\|+)(\.*)", text).groups()
    assert len(bars + dots) == 8
    leads = np.eye(17, dtype=int)[[ord(node) - ord("a") for node in pointers]]
    powers = [np.linalg.matrix_power(leads, len(bars) * jump) for jump in range(1, len(answer) + 1)]
    return "".join(chr(ord("a") + (power @ np.arange(17))[0]) for power in powers)


def permute(objects):
    swaps = list(itertools.combinations(range(objects), 2))

    def solve(text, answer):
        """The product of permutation matrices."""
        product = np.eye(objects, dtype=int)
        for letter in text:
            matrix = np.eye(objects, dtype=int)
            a, b = swaps[ord(letter) - ord("a")]
            matrix[[a, b]] = matrix[[b, a]]
            product = matrix @ product
        return "".join(map(str, product @ np.arange(1, objects + 1)))

    return solve


def automaton(text, answer):
    """Rule 30 by its number, as Wolfram writes it."""
    row, steps = text.split("|")
    for _ in range(int(steps)):
        around = [row[i - 1] + row[i] + row[(i + 1) % len(row)] for i in range(len(row))]
        row = "".join(str(30 >> int(three, 2) & 1) for three in around)
    return row


def add(text, answer):
    a, b = map(int, text.split("+"))
    return f"{a + b:0{len(answer)}d}"


def search(text, answer):
    edges, query = text.split("|")
    seen, queue = set(), deque(query[0])
    while queue:
        here = queue.popleft()
        seen.add(here)
        queue += [edges[i + 1] for i in range(0, len(edges), 2) if edges[i] == here and edges[i + 1] not in seen]
    return "y" if query[1] in seen else "n"


SOLVERS = {
    "p-hop": follow,
    "s3": permute(3),
    "s5": permute(5),
    "parity": lambda text, answer: str(text.count("1") % 2),
    "rule-30": automaton,
    "addition": add,
    "reachable": search,
}


@pytest.mark.parametrize("name", TASKS)
def test_answers_are_those_of_an_independent_solver(name):
    task = find_task(name, "data.corpus")
    for difficulty in {task.least, 2, task.usual, min(task.most, task.usual + 3)}:
        drawn = task_examples(task, difficulty, 30, seed=1, share=0.1, held_out=False)
        for question in drawn:
            assert question.answer == SOLVERS[name](question.text, question.answer), question
            assert "=" not in question.text + question.answer
        assert len({question.answer for question in drawn}) > 1 or difficulty == 1


@pytest.mark.parametrize(
    ("name", "difficulty", "answers"),
    [("s3", 6, 6), ("parity", 3, 2), ("reachable", 2, 2), ("addition", 1, 19), ("s5", 9, 120)],
)
def test_chance_is_one_over_the_answers_that_there_are(name, difficulty, answers):
    task = find_task(name, "data.corpus")
    assert task.answers(difficulty) == answers
    drawn = {question.answer for question in task_examples(task, difficulty, 2000, 0, share=0.1, held_out=False)}
    # an even, or an odd, number of swaps leads to half of the orders
    assert len(drawn) == (answers // 2 if name in ("s3", "s5") else answers)


def test_chance_where_there_are_more_answers_than_are_drawn():
    # eight of the sixteen other nodes in some order, eleven cells
    assert TASKS["p-hop"].answers(3) == 16 * 15 * 14 * 13 * 12 * 11 * 10 * 9
    assert TASKS["rule-30"].answers(3) == 2048


@pytest.mark.parametrize("difficulty", [1, 8])
def test_pointers_are_one_circle_and_no_answer_comes_twice(difficulty):
    for question in task_examples(TASKS["p-hop"], difficulty, 20, seed=3, share=0.1, held_out=False):
        leads = dict(zip("abcdefghijklmnopq", question.text, strict=False))
        node, seen = "a", []
        while node not in seen:
            seen.append(node)
            node = leads[node]
        assert len(seen) == 17
        assert len(set(question.answer) - {"a"}) == 8


def test_every_task_has_a_solver():
    assert set(SOLVERS) == set(TASKS)


def test_what_is_tested_is_not_trained():
    task = find_task("s5", "data.corpus")
    parts = [
        {question.text for question in task_examples(task, 4, 3000, seed, share=0.1, held_out=held)}
        for held, seed in ((False, 0), (True, 0), (True, 5))
    ]
    assert not parts[0] & parts[1]
    assert not parts[0] & parts[2]
    # 10,000 questions in all
    assert 500 < len(parts[1] | parts[2]) <= 1200


def test_few_questions_are_shared():
    task = find_task("parity", "data.corpus")
    texts = {question.text for question in task_examples(task, 1, 200, 0, share=0.05, held_out=True)}
    assert texts <= {"0", "1"}
    assert texts


def test_draws_depend_on_the_seed_and_on_nothing_else():
    task = find_task("rule-30", "data.corpus")
    one, again, other = (list(task_documents(task, (1, 3), 21, seed, 0.1, False)) for seed in (0, 0, 1))
    assert one == again != other
    assert [document.source for document in one[:4]] == ["rule-30:1#0", "rule-30:3#0", "rule-30:1#1", "rule-30:3#1"]
    assert len(one) == 21


def test_questions_say_how_many_they_are_and_whether_they_were_trained_on():
    task = TaskConfig(difficulty="1-3", beyond="4", tested=50)
    found = list(asked(DataConfig(corpus="tasks/s5", tokenizer="bytes", task=task)))
    assert [one.distinct for one in found] == [len(set(one.texts)) for one in found]
    assert found[0].distinct == 10
    # of one swap there are ten questions, none of them held out; more difficult ones are never trained on
    assert [one.held_out for one in found] == [False, True, True, True]


def settings(folder, corpus="tasks/s3", **data):
    task = TaskConfig(**{"difficulty": "2-4", "examples": 60} | data.pop("task", {}))
    return DataConfig(corpus=corpus, tokenizer="bytes", cache=str(folder), task=task, valid_fraction=0.2, **data)


def test_a_task_is_a_corpus_whose_answers_are_predicted(tmp_path):
    data = prepare(settings(tmp_path), 16, "causal")
    assert data.stats["train"].documents == 60
    assert data.stats["validation"].documents == 12
    for batch in ValidationBatches(data.validation_rows, data.spec, 4):
        for tokens, targets, weights, segments in zip(
            batch.tokens, batch.targets, batch.weights, batch.segments, strict=True
        ):
            for text in range(1, segments.max() + 1):
                whole = data.tokenizer.decode(tokens[segments == text].tolist())
                answer = data.tokenizer.decode(targets[(segments == text) & (weights > 0)].tolist())
                assert whole.partition("=")[2] == answer
                assert answer == SOLVERS["s3"](whole.partition("=")[0], answer)
    again = prepare(settings(tmp_path), 16, "causal")
    assert again.identity == data.identity
    other = prepare(settings(tmp_path, task={"seed": 1}), 16, "causal")
    assert other.identity["train"] != data.identity["train"]


@pytest.mark.parametrize(
    ("corpus", "task", "message"),
    [
        ("tasks/rule30", {}, r'data.corpus = "tasks/rule30": unknown; tasks are .*did you mean \'rule-30\''),
        ("tasks/p-hop", {"difficulty": "1-30"}, r'data.task.difficulty = "1-30": p-hop has difficulties from 1 to 8'),
        ("tasks/p-hop", {"difficulty": "8-1"}, "the lower one first"),
        ("tasks/p-hop", {"difficulty": "easy"}, 'data.task.difficulty = "easy": must be a number or a range'),
        (
            "tasks/p-hop",
            {},
            r"data.task, difficulty 2: a question with its answer has 34 tokens, the model reads model.l",
        ),
        ("tasks/s3", {"beyond": "40"}, "difficulty 40: a question with its answer has 44 tokens"),
        ("tasks/s3", {"beyond": "4-5"}, r'data.task.beyond = "4-5": 4 is trained on'),
    ],
)
def test_tasks_that_do_not_fit(tmp_path, corpus, task, message):
    with pytest.raises(UserError, match=message):
        prepare(settings(tmp_path, corpus, task=task), 16, "causal")


def test_settings_that_contradict():
    with pytest.raises(UserError, match=r"a question is digits and letters one by one; set data\.tokenizer"):
        DataConfig(corpus="tasks/s3")
    with pytest.raises(UserError, match=r'data.answer_after = ":" with .* stands behind "=" there; leave it out'):
        DataConfig(corpus="tasks/s3", tokenizer="bytes", answer_after=":")
    with pytest.raises(UserError, match=r'data.task with data.corpus = "stdlib": it belongs to a corpus "tasks/NAME"'):
        DataConfig(task=TaskConfig(difficulty="3"))


def test_what_a_task_implies_does_not_outlive_it():
    asked = DataConfig(corpus="tasks/s3", tokenizer="bytes")
    assert (asked.whole_texts, asked.mark, asked.apart) == (True, "=", True)
    text = dataclasses.replace(asked, corpus="stdlib")
    assert text == DataConfig(tokenizer="bytes")
    assert (text.whole_texts, text.mark, text.apart) == (False, "", False)


def test_a_task_that_draws_other_questions_is_prepared_anew(tmp_path, monkeypatch):
    before = prepare(settings(tmp_path), 16, "causal")
    monkeypatch.setitem(TASKS, "s3", dataclasses.replace(TASKS["s3"], draw=TASKS["parity"].draw))
    after = prepare(settings(tmp_path), 16, "causal")
    assert after.identity["train"] != before.identity["train"]
