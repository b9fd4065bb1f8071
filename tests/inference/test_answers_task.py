"""Task sweep of infer.py, of a model that was trained on a task made by the program."""

from typing import get_args

import pytest
from tiny_runs import model_config, write_run

from jaxode.config import DepthConfig, TaskConfig
from jaxode.data import text_batches
from jaxode.data.batches import BatchSpec
from jaxode.data.tasks import asked
from jaxode.evaluation import evaluate
from jaxode.evaluation.answers import evaluate_answers
from jaxode.evaluation.controls import Control
from jaxode.evaluation.figures import read_csv
from jaxode.inference import load


def test_a_sweep_asks_every_difficulty(infer, tmp_path):
    task = TaskConfig(difficulty="2", beyond="3", tested=12)
    run = write_run(tmp_path / "run", model_config("causal", steps=2), steps=(3,), corpus="tasks/parity", task=task)
    out = tmp_path / "out"
    ran = infer("--checkpoint", run, "--task", "sweep", "--at", "2,1", "--controls", "--out", out)
    assert ran.code == 0, ran.err
    rows = read_csv(out / "answers.csv")
    assert [(row["steps"], row["difficulty"], row["trained"], row["chance"]) for row in rows] == [
        (2, 2, True, 0.5), (2, 3, False, 0.5), (1, 2, True, 0.5), (1, 3, False, 0.5),
    ]  # fmt: skip
    assert [word for word in ran.out.split() if word in ("majority", "chance")] == ["majority", "chance"]
    loaded = load(run)
    spec = BatchSpec.of(loaded.config.data, loaded.own_tokenizer, "causal", loaded.config.model.length)
    (questions, _) = asked(loaded.config.data)
    batches = text_batches(questions.texts, spec, loaded.config.model.length, 2).batches
    batches = list(batches)
    assert evaluate_answers(loaded, batches, DepthConfig(steps=1)).exact == rows[2]["exact"]
    whole = evaluate(loaded, batches, DepthConfig())
    assert (rows[0]["nats_per_token"], rows[0]["predicted"]) == (pytest.approx(whole.nats_per_token), whole.tokens)
    assert ran.err.splitlines()[-2].startswith("2 difficulties of tasks/parity, exact matches; written: ")
    # of the questions that were trained on
    full, *_ = controls = read_csv(out / "controls.csv")
    assert full["nats_per_token"] == pytest.approx(whole.nats_per_token, rel=1e-5)
    assert {(row["control"], row["k"]) for row in controls[1:]} == {(name, 1) for name in get_args(Control)[1:]}
    assert ran.err.splitlines()[-1].startswith("controls: read-out refitted on the training text; written: ")
