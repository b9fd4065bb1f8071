"""Task sweep of infer.py, of a model that was trained on a task made by the program."""

from tiny_runs import model_config, write_run

from jaxode.config import DepthConfig, TaskConfig
from jaxode.data import text_batches
from jaxode.data.batches import BatchSpec
from jaxode.data.tasks import asked
from jaxode.evaluation.answers import evaluate_answers
from jaxode.evaluation.figures import read_csv
from jaxode.inference import load


def test_a_sweep_asks_every_difficulty(infer, tmp_path):
    task = TaskConfig(difficulty="2", beyond="3", tested=12)
    run = write_run(tmp_path / "run", model_config("causal", steps=2), steps=(3,), corpus="tasks/parity", task=task)
    out = tmp_path / "out"
    ran = infer("--checkpoint", run, "--task", "sweep", "--at", "2,1", "--out", out)
    assert ran.code == 0, ran.err
    rows = read_csv(out / "answers.csv")
    assert [(row["steps"], row["difficulty"], row["trained"], row["chance"]) for row in rows] == [
        (2, 2, True, 0.5), (2, 3, False, 0.5), (1, 2, True, 0.5), (1, 3, False, 0.5),
    ]  # fmt: skip
    assert [line.split()[-3] for line in ran.out.splitlines()[-2:]] == ["majority", "chance"]
    loaded = load(run)
    spec = BatchSpec.of(loaded.config.data, loaded.own_tokenizer, "causal", loaded.config.model.length)
    (questions, _) = asked(loaded.config.data)
    batches = text_batches(questions.texts, spec, loaded.config.model.length, 2).batches
    assert evaluate_answers(loaded, batches, DepthConfig(steps=1)).exact == rows[2]["exact"]
    assert ran.err.splitlines()[-1].startswith("2 difficulties of tasks/parity, exact matches; written: ")
