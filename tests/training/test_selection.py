"""The best checkpoint: found, kept, read, resumed, and the run that ends because none better comes."""

import dataclasses
import json
import math
import signal

import numpy as np
import pytest
from small_runs import change, kill_after, stop_after
from test_finetuning import settings, table

import jaxode
from jaxode import UserError
from jaxode.checkpoint import RunFolder, load_run
from jaxode.checkpoint.best import Best, read_best
from jaxode.config import TrainConfig
from jaxode.evaluation.agreement import metric_names
from jaxode.evaluation.labels import LabelEvaluation
from jaxode.training import train, validation
from jaxode.training.selection import Selection
from jaxode.training.summary import write_summary


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return table(
        tmp_path_factory.mktemp("labelled") / "a.csv", [(f"{'ab'[i % 2]} text", "01"[i % 2]) for i in range(32)]
    )


@pytest.fixture
def found(monkeypatch):
    """What validations find, one after another; the last one again and again."""
    values = []

    def evaluate(*args, **options):
        accuracy = values.pop(0) if len(values) > 1 else values[0]
        return LabelEvaluation(1.0 - accuracy, {"accuracy": accuracy, "F1 of 1": 0.0}, 8, 4, "euler")

    monkeypatch.setattr(validation, "evaluate_labels", evaluate)
    return values


def asked(file, out, **train_fields):
    fields = {"updates": 12, "validate_every": 2, "keep": 1, "best": "accuracy", "log_every": 1} | train_fields
    return settings(file, out, train=fields)


def steps_on_disk(run):
    return sorted(int(path.name) for path in run.checkpoints.iterdir() if path.name.isdigit())


def test_the_best_checkpoint_is_kept_and_is_what_the_run_is_read_as(file, tmp_path, found):
    found[:] = [0.5, 0.8, 0.8, 0.6]
    result = train(asked(file, tmp_path / "run", updates=8, checkpoint_every=2))
    assert (result.step, result.chosen) == (8, 4)
    assert steps_on_disk(result.run) == [4, 8]
    loaded = load_run(result.run.path)
    assert loaded.step == 4
    for name, value in load_run(result.run.path, step=4).params.items():
        np.testing.assert_array_equal(value, result.params[name])
        np.testing.assert_array_equal(value, loaded.params[name])
    newest = load_run(result.run.path, step=8).params
    assert any((newest[name] != value).any() for name, value in loaded.params.items())
    assert read_best(result.run) == Best(4, "accuracy", 0.8, True)
    write_summary(result)
    summary = json.loads((result.run.path / "summary.json").read_text())
    assert (summary["updates"], summary["best_update"]) == (8, 4)
    assert jaxode.load(jaxode.load(result.run.path).save(tmp_path / "exported")).step == 4


@pytest.mark.deep
def test_without_a_choice_the_newest_counts(file, tmp_path, found):
    found[:] = [0.9, 0.1]
    result = train(asked(file, tmp_path / "run", best="", updates=4))
    assert (result.chosen, load_run(result.run.path).step, result.run.best.exists()) == (4, 4, False)


@pytest.mark.parametrize("best", ["loss", "accuracy"])
@pytest.mark.deep
def test_a_run_ends_when_nothing_better_comes(file, tmp_path, found, best, capsys):
    found[:] = [0.5, 0.8, 0.7, 0.8, 0.9]
    config = asked(file, tmp_path / "run", best=best, patience=2)
    result = train(config)
    assert (result.step, result.chosen, result.stopped_by) == (8, 4, None)
    assert result.validation is not None
    assert steps_on_disk(result.run) == [4, 8]
    assert "no better validation since update 4: the run ends" in capsys.readouterr().err
    # and stays at its end
    again = train(dataclasses.replace(config, model=result.config.model, resume=True))
    assert (again.step, again.chosen) == (8, 4)
    # until it is told to be more patient
    found[:] = [0.95, 0.3]
    more = change(dataclasses.replace(config, model=result.config.model, resume=True), patience=3)
    assert train(more).chosen == 10


@pytest.mark.deep
def test_a_resumed_run_remembers_its_best(file, tmp_path, found, monkeypatch):
    found[:] = [0.8, 0.7, 0.6]
    config = asked(file, tmp_path / "run", patience=3, checkpoint_every=1)
    kill_after(monkeypatch, 5, config)
    found[:] = [0.75, 0.7, 0.1]
    with pytest.raises(UserError, match=r"is unfinished, at update 2 of train\.updates = 12"):
        jaxode.load(tmp_path / "run").save(tmp_path / "exported")
    resumed = train(dataclasses.replace(config, model=labelled(config), resume=True))
    assert (resumed.step, resumed.chosen) == (8, 2)


def test_a_signal_at_the_last_update_leaves_its_validation_to_the_run_that_goes_on(file, tmp_path, found, monkeypatch):
    found[:] = [0.3, 0.9]
    config = asked(file, tmp_path / "run", updates=4)
    with monkeypatch.context() as patch:
        stop_after(patch, 4)
        stopped = train(config)
    assert (stopped.step, stopped.stopped_by, stopped.validation) == (4, signal.SIGTERM, None)
    again = dataclasses.replace(config, model=labelled(config), resume=True)
    resumed = train(again)
    assert (resumed.chosen, read_best(resumed.run)) == (4, Best(4, "accuracy", 0.9, True))
    logged = resumed.run.metrics.read_text(encoding="utf-8")
    assert train(again).chosen == 4
    assert resumed.run.metrics.read_text(encoding="utf-8") == logged  # over is over


@pytest.mark.deep
def test_a_best_that_is_later_than_where_a_run_goes_on_is_forgotten(file, tmp_path, found, monkeypatch):
    found[:] = [0.2]
    config = asked(file, tmp_path / "run", checkpoint_every=1)
    kill_after(monkeypatch, 5, config)
    run = RunFolder(tmp_path / "run")
    run.best.write_text(json.dumps({"step": 9, "metric": "accuracy", "value": 0.99, "ended": False}))
    found[:] = [0.3, 0.4, 0.1]
    assert train(dataclasses.replace(config, model=labelled(config), resume=True)).chosen == 8
    run.best.write_text("{")
    with pytest.raises(
        UserError, match=r"best\.json: cannot be read .*remove it, so that the newest checkpoint counts"
    ):
        load_run(run.path)


@pytest.mark.parametrize("best", ["", "loss"])
@pytest.mark.deep
def test_a_run_that_goes_on_by_another_metric_forgets_the_best(file, tmp_path, found, monkeypatch, best):
    found[:] = [0.8]
    config = asked(file, tmp_path / "run", checkpoint_every=1)
    kill_after(monkeypatch, 5, config)
    assert load_run(tmp_path / "run").step == 2
    found[:] = [0.3, 0.2]
    resumed = train(change(dataclasses.replace(config, model=labelled(config), resume=True), best=best))
    assert resumed.chosen == (6 if best else 12)
    assert load_run(tmp_path / "run").step == resumed.chosen


def labelled(config):
    return dataclasses.replace(config.model, labels=("0", "1"), vocab_size=259)


def test_what_is_not_finite_is_never_the_best(file, tmp_path, found):
    found[:] = [math.nan, 0.1, math.nan]
    result = train(asked(file, tmp_path / "run", updates=6, best="loss"))
    assert result.chosen == 4
    write_summary(result)

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    summary = json.loads((result.run.path / "summary.json").read_text(), parse_constant=refuse)
    assert (summary["loss"], summary["accuracy"], summary["f1_of_1"]) == (None, None, 0.0)


def test_a_whole_name_is_meant_where_another_begins_with_it(file, tmp_path):
    model = {"problem_type": "multi_label_classification", "labels": ("a", "b")}
    for name, meant in (("f1", "F1"), ("F1_mean", "F1, mean over labels")):
        config = settings(file, tmp_path / "run", model=model, train={"validate_every": 2, "best": name})
        assert Selection(config, RunFolder(tmp_path / "run"))._name == meant


def test_names_of_metrics():
    found = LabelEvaluation(1.0, {"F1, mean over labels": 0.5}, 8, 4, "euler")
    # as train.best calls it
    assert validation.validation_metrics(found) == {"validation_loss": 1.0, "validation_f1_mean_over_labels": 0.5}
    assert metric_names("single_label_classification", ("no", "yes"))[0] == "accuracy"
    assert "Spearman correlation" in metric_names("regression", ("score",))
    assert "F1, mean over labels" in metric_names("multi_label_classification", ("a", "b", "c"))


def test_wrong_choices_are_refused_before_anything_compiles(file, tmp_path, monkeypatch):
    monkeypatch.setattr("jaxode.training.run.make_model", lambda *_, **__: pytest.fail("parameters were made"))
    with pytest.raises(UserError, match=r"train\.patience = 2 without train\.best"):
        TrainConfig(patience=2)
    with pytest.raises(UserError, match=r'train\.best = "loss" with train\.validate_every = 0'):
        TrainConfig(best="loss", validate_every=0)
    with pytest.raises(
        UserError, match=r'train\.best = "bleu": a classifier model is validated by loss, accuracy, f1_of'
    ):
        train(asked(file, tmp_path / "run", best="bleu"))
    assert not (tmp_path / "run").exists()
