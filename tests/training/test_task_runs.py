"""A run on a task: its answers are measured by difficulty and depth."""

import csv

import numpy as np
import pytest

from jaxode.config import (
    Config,
    DataConfig,
    DepthConfig,
    ModelConfig,
    OptimizerConfig,
    TaskConfig,
    TrainConfig,
    UserError,
)
from jaxode.data import text_batches
from jaxode.data.tasks import asked
from jaxode.evaluation.answers import evaluate_answers
from jaxode.inference import Greedy, generate, load
from jaxode.training import train
from jaxode.training.summary import sweep


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("task")
    task = TaskConfig(difficulty="1-2", beyond="4", examples=400, tested=20)
    config = Config(
        model=ModelConfig(width=32, heads=2, length=12, steps=4),
        data=DataConfig(corpus="tasks/parity", tokenizer="bytes", cache=str(folder / "cache"), task=task),
        optimizer=OptimizerConfig(name="adamw", learning_rate=1e-2, weight_decay=0.0),
        train=TrainConfig(updates=100, batch_size=8, validate_every=0),
        out=str(folder / "run"),
    )
    result = train(config)
    return result, sweep(result)


def test_answers_by_difficulty_and_steps(run):
    result, shown = run
    rows = list(csv.DictReader((result.run.path / "answers.csv").open()))
    assert (result.run.path / "answers.png").stat().st_size > 1000
    assert [row["steps"] for row in rows[::3]] == ["6", "4", "2", "1"]
    assert [row["difficulty"] for row in rows[:3]] == ["1", "2", "4"]
    assert [row["trained"] for row in rows[:3]] == ["True", "True", "False"]
    (one, *_) = asked(result.config.data)
    batches = text_batches(one.texts, result.data.spec, result.data.length, 3).batches
    found = evaluate_answers(result.architecture, result.params, batches, DepthConfig(steps=2, solver="euler"))
    assert next(float(row["exact"]) for row in rows if row["steps"] == "2") == found.exact
    assert shown.splitlines()[0].split() == ["steps", "solver", "d1", "d2", "d4"]
    assert all(float(row["chance"]) == 0.5 <= float(row["majority"]) <= 1 for row in rows)
    assert shown.splitlines()[-2].split() == ["chance", "0.5000", "0.5000", "0.5000"]
    # two questions of one digit, four of two
    assert shown.splitlines()[-1].startswith("of difficulty 1, 2 there are so few questions")


def test_an_exact_match_is_what_greedy_decoding_writes(run):
    result, _ = run
    loaded = load(result.run.path)
    questions = list(asked(result.config.data))
    right = []
    for one in questions:
        for text in one.texts:
            question, answer = text.split("=")
            right.append(generate(loaded, f"{question}=", max_new_tokens=1, sampling=Greedy()).text == answer)
    texts = [text for one in questions for text in one.texts]
    batches = text_batches(texts, result.data.spec, result.data.length, 4).batches
    found = evaluate_answers(loaded, batches, DepthConfig())
    assert found.answers == len(texts)
    assert found.exact == pytest.approx(np.mean(right))
    assert found.exact == found.tokens  # an answer is one token


def test_a_masked_model_is_refused_before_questions_are_made(tmp_path, monkeypatch):
    monkeypatch.setattr("jaxode.training.run.prepare", lambda *_, **__: pytest.fail("made"))
    config = Config(
        model=ModelConfig(kind="masked", width=16, heads=2, length=12, steps=2),
        data=DataConfig(corpus="tasks/parity", tokenizer="bytes", cache=str(tmp_path / "cache")),
        train=TrainConfig(batch_size=8),
        out=str(tmp_path / "run"),
    )
    with pytest.raises(UserError, match=r'data.corpus = "tasks/parity" with a model of kind masked: .*= "causal"$'):
        train(config)


def test_masked_models_do_not_answer():
    with pytest.raises(UserError, match="needs a causal model, this one is masked"):
        evaluate_answers(load("books-masked"), [], DepthConfig())
