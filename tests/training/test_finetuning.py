"""Classifiers out of labelled texts: what is learned, kept, resumed, exported, and refused."""

import csv
import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxode
from jaxode import UserError, classify_texts
from jaxode.config import Config, DataConfig, DepthConfig, ModelConfig, ObjectiveConfig, OptimizerConfig, TrainConfig
from jaxode.data import byte_tokenizer
from jaxode.data.labelled import prepare_labelled
from jaxode.evaluation.labels import class_divergence, class_loss, evaluate_labels
from jaxode.training import train
from jaxode.training.summary import sweep, write_summary

WORDS = ["stone", "river", "house", "night", "road"]


def table(path, rows, header=("text", "label")):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return str(path)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """Whether a text begins with a or with b is its label."""
    rng = np.random.default_rng(0)
    rows = [(f"{'ab'[i % 2]} {rng.choice(WORDS)}", ("yes", "no")[i % 2]) for i in range(64)]
    return table(tmp_path_factory.mktemp("labelled") / "train.csv", rows)


def settings(file, out, init="", **sections):
    model = {"kind": "masked", "width": 16, "heads": 2, "length": 16, "steps": 4}
    model = {"head": "classifier"} | ({} if init else model)
    given = {
        "model": ModelConfig(**(model | sections.pop("model", {}))),
        "data": DataConfig(
            train=file, tokenizer="bpe" if init else "bytes", valid_fraction=0.25, **sections.pop("data", {})
        ),
        "optimizer": OptimizerConfig(name="adamw", learning_rate=1e-2, weight_decay=0.0),
        "train": TrainConfig(**({"updates": 40, "batch_size": 8, "validate_every": 0} | sections.pop("train", {}))),
        **sections,
    }
    return Config(**given, out=str(out), init=str(init))


@pytest.fixture(scope="module")
def run(file, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    config = settings(file, out, objective=ObjectiveConfig(steps="uniform:2,4"))
    result = train(config)
    write_summary(result)
    return result, sweep(result)


def test_it_learns_what_the_labels_say_at_every_depth_it_was_trained_for(run):
    result, shown = run
    assert result.validation.metrics["accuracy"] == 1.0
    rows = list(csv.DictReader((result.run.path / "sweep.csv").open()))
    assert [(row["steps"], row["accuracy"]) for row in rows[:2]] == [("4", "1.0"), ("2", "1.0")]
    assert "accuracy" in shown
    summary = json.loads((result.run.path / "summary.json").read_text())
    assert summary["accuracy"] == 1.0
    assert summary["validation_texts"] == 16
    batches = result.data.train(result.config.train.batch_size, result.config.train.seed)
    read = sum(batches.at(update).tokens.size for update in range(result.step))
    assert summary["trained_tokens"] == read < result.step * result.config.train.batch_size * result.config.model.length
    batches.close()


def test_a_run_labels_texts_by_name(run):
    loaded = jaxode.load(run[0].run.path)
    assert (loaded.task, loaded.labels) == ("classifier", ("no", "yes"))
    found = classify_texts(loaded, ["a stone", "b stone", "b night"], depth=DepthConfig(steps=2))
    assert [loaded.labels[one.label] for one in found.classes] == ["yes", "no", "no"]


def test_labels_survive_saving(run, tmp_path):
    loaded = jaxode.load(run[0].run.path)
    again = jaxode.load(loaded.save(tmp_path / "exported"))
    assert (again.origin, again.labels) == ("exported", loaded.labels)
    texts = ["a stone", "b night"]
    found, expected = (classify_texts(one, texts).classes for one in (again, loaded))
    assert found == expected


@pytest.mark.parametrize("init", [False, True])
@pytest.mark.deep
def test_a_resumed_run_ends_where_the_other_ended(file, run, tmp_path, init):
    begun = run[0].run.path if init else ""
    whole = train(settings(file, tmp_path / "whole", begun, train={"updates": 8}))
    half = settings(file, tmp_path / "half", begun, train={"updates": 8, "checkpoint_every": 4})
    train(half)
    for step in (tmp_path / "half" / "checkpoints").iterdir():
        if step.name == "8":
            shutil.rmtree(step)
    resumed = train(dataclasses.replace(half, resume=True))
    for name, value in whole.params.items():
        np.testing.assert_array_equal(value, resumed.params[name], err_msg=name)


@pytest.fixture(scope="module")
def language_model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lm")
    (folder / "text.txt").write_text("a stone, a river and a night " * 40)
    (folder / "more.txt").write_text("a road, a house and a stone " * 40)
    config = Config(
        model=ModelConfig(kind="masked", width=16, heads=2, length=16, steps=4),
        data=DataConfig(
            files=str(folder / "*.txt"), tokenizer="bytes", cache=str(folder / "cache"), valid_fraction=0.5
        ),
        train=TrainConfig(updates=2, batch_size=8, final_batches=1),
        out=str(folder / "run"),
    )
    return train(config)


def test_it_begins_with_the_weights_of_a_language_model(language_model, file, tmp_path):
    model = language_model.run.path
    result = train(settings(file, tmp_path / "run", init=model, train={"updates": 1, "trains": "norms"}))
    own = language_model.params
    assert result.config.model.width == 16
    kept = [name for name in result.params if name.startswith("stack.") and "norm" not in name]
    assert kept
    for name in kept:
        np.testing.assert_array_equal(result.params[name], own[name], err_msg=name)
    assert any(np.any(result.params[name] != own[name]) for name in own if "norm" in name and name in result.params)
    # a fresh head learns, whatever else stays
    assert np.abs(result.params["head.classifier.bias"]).max() > 0


@pytest.mark.deep
def test_low_rank_changes_are_merged(language_model, file, tmp_path):
    model = language_model.run.path
    result = train(settings(file, tmp_path / "run", init=model, train={"updates": 4, "trains": "lora"}))
    loaded = jaxode.load(result.run.path)
    assert set(loaded.params) == set(result.params)
    for name, value in result.params.items():
        np.testing.assert_allclose(loaded.params[name], value, rtol=1e-6, atol=1e-7, err_msg=name)
    changed = [name for name in language_model.params if name in result.params and name.endswith("kernel")]
    assert any(np.any(result.params[name] != language_model.params[name]) for name in changed)


@pytest.mark.deep
def test_pairs_numbers_and_several_labels(tmp_path):
    pairs = table(tmp_path / "pairs.csv", [("a", "b", "x"), ("c", "d", "y")] * 8, ("sentence1", "sentence2", "label"))
    numbers = table(tmp_path / "numbers.csv", [(f"t {i}", i / 8) for i in range(16)])
    several = table(tmp_path / "several.csv", [("a", "x;y"), ("b", "y"), ("c", "")] * 6)
    toxic = table(tmp_path / "toxic.csv", [("a", "toxic"), ("b", "")] * 8)
    for name, model, labels, metric in (
        (pairs, {"token_types": 2}, ("x", "y"), "accuracy"),
        (numbers, {"problem_type": "regression"}, ("score",), "Pearson correlation"),
        (several, {"problem_type": "multi_label_classification"}, ("x", "y"), "accuracy"),
        (toxic, {"problem_type": "multi_label_classification", "width": 8}, ("toxic",), "accuracy"),
    ):
        done = train(settings(name, tmp_path / f"run-{model}", model=model, train={"updates": 2}))
        assert done.config.model.labels == labels
        assert next(iter(done.validation.metrics)) == metric
        batch = next(iter(done.data.validation(4)))
        assert (batch.kinds is not None) == ("token_types" in model)


def prepared(file, **model):
    data = DataConfig(train=file, tokenizer="bytes", class_weights=model.pop("class_weights", "none"))
    return prepare_labelled(data, ModelConfig(kind="masked", head="classifier", length=32, **model), byte_tokenizer())


def test_batches_are_as_long_as_their_texts_need(tmp_path):
    data = prepared(table(tmp_path / "a.csv", [("ab", "1"), ("abc", "0"), ("abcd", "1"), ("a" * 9, "0")] * 8))
    batch = next(iter(data.validation(2)))
    assert batch.tokens.shape == (2, 16 if batch.segments.sum(1).max() > 8 else 8)
    assert set(batch.segments.sum(1)) <= {2, 3, 4, 9}
    assert batch.weights.sum() == (batch.segments.sum(1) > 0).sum()
    assert data.labels == ("0", "1")


def test_balanced_labels_count_as_much_as_one_another(tmp_path):
    rows = [("a", "common")] * 30 + [("b", "rare")] * 10
    data = prepared(table(tmp_path / "a.csv", rows), class_weights="balanced")
    sums = {0: 0.0, 1: 0.0}
    for row in data.train_rows:
        sums[int(row["wanted"][0])] += float(row["weight"])
    assert sums[0] == pytest.approx(sums[1])
    assert sum(sums.values()) == pytest.approx(len(data.train_rows))


def test_losses_and_divergences():
    logits = jnp.asarray([[2.0, 0.0], [0.0, 1.0]])
    one = class_loss(logits, jnp.asarray([[0.0], [0.0]]), "single_label_classification")
    np.testing.assert_allclose(one, [np.log1p(np.exp(-2)), np.log1p(np.exp(1))], rtol=1e-6)
    several = class_loss(logits, jnp.asarray([[1.0, 0.0], [0.0, 1.0]]), "multi_label_classification")
    np.testing.assert_allclose(several[0], (np.log1p(np.exp(-2)) + np.log(2)) / 2, rtol=1e-6)
    np.testing.assert_allclose(class_loss(logits, jnp.zeros((2, 2)), "regression"), [2.0, 0.5])
    for problem in ("single_label_classification", "multi_label_classification", "regression"):
        assert np.abs(class_divergence(logits, logits, problem)).max() < 1e-6
        assert (np.asarray(class_divergence(logits, -logits, problem)) > 0).all()
        slope = jax.grad(lambda x, p=problem: class_divergence(logits, x, p).sum())(logits)
        np.testing.assert_allclose(slope, 0, atol=1e-6)


def test_rows_that_fill_a_batch_count_nowhere(run):
    result, _ = run
    whole, padded = (
        evaluate_labels(result.architecture, result.params, result.data.validation(size), DepthConfig())
        for size in (4, 12)
    )
    assert whole.texts == padded.texts == 16
    assert whole.loss == pytest.approx(padded.loss, rel=1e-5)
    assert whole.metrics == padded.metrics


@pytest.mark.parametrize(
    ("rows", "model", "data", "message"),
    [
        ([("a", "x"), ("b", "x")], {}, {}, "all labels are x: nothing to learn"),
        ([("a", "x"), ("b", "y")] * 4, {"labels": ("x", "y", "z")}, {}, "no training text has the label z"),
        ([("a", "x"), ("b", "y")] * 4, {"labels": ("x", "z")}, {}, 'line 3: label "y" is none of the model'),
        ([("a", "1"), ("b", "two")] * 4, {"problem_type": "regression"}, {}, "line 3: 'two' is no number"),
        ([("a", "x"), ("b", "y")] * 4, {}, {"label": "class"}, "none that is called class"),
        ([("a", "x"), ("b", "y")] * 4, {"length": 2}, {"frame": "<|endoftext|> <|endoftext|>"}, "length = 2"),
    ],
)
def test_data_that_does_not_fit_is_refused(tmp_path, rows, model, data, message):
    with pytest.raises(UserError, match=message):
        train(settings(table(tmp_path / "a.csv", rows), tmp_path / "run", model=model, data=data))
    assert not (tmp_path / "run").exists()


@pytest.mark.deep
def test_other_labels_get_a_fresh_head(run, tmp_path):
    file = table(tmp_path / "other.csv", [("a stone", "left"), ("b night", "right")] * 16)
    options = {"init": run[0].run.path, "train": {"updates": 1}}
    with pytest.raises(UserError, match='label "left" is none of the model'):
        train(settings(file, tmp_path / "run", **options))
    done = train(settings(file, tmp_path / "run", model={"labels": ("left", "right")}, **options))
    assert jaxode.load(done.run.path).labels == ("left", "right")


@pytest.mark.deep
def test_only_a_classifier_teaches_labels(language_model, run, file, tmp_path):
    objective = ObjectiveConfig(teacher="init", distil=1.0, steps="uniform:2,4")

    def taught(by):
        return settings(file, tmp_path / "run", init=by, objective=objective, train={"updates": 2})

    with pytest.raises(UserError, match="is a masked model and knows no label"):
        train(taught(language_model.run.path))
    assert train(taught(run[0].run.path)).validation.metrics["accuracy"] > 0.5


def test_a_label_that_is_held_out_whole_is_known_and_said(tmp_path):
    rows = [(f"a {i}", ("x", "y")[i % 2]) for i in range(39)]
    found = set()
    for place in range(40):
        name = table(tmp_path / f"{place}.csv", [*rows[:place], ("b", "rare"), *rows[place:]])
        try:
            found.add(prepared(name).labels)
        except UserError as error:
            found.add(str(error).split(": ")[1].split(";")[0])
    assert found == {("rare", "x", "y"), "no training text has the label rare"}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ModelConfig(problem_type="regression"), 'problem_type = .regression. with model.head = "vocabulary"'),
        (lambda: ModelConfig(head="classifier", labels=("a", "a")), "must be different names"),
        (lambda: ModelConfig(head="classifier", labels=("a",)), "at least two"),
        (
            lambda: DataConfig(train="a.tsv", text_key="body"),
            "data.text_key = body with data.train: it belongs to text",
        ),
        (lambda: DataConfig(valid="a.tsv"), "data.valid = a.tsv without data.train"),
        (lambda: DataConfig(train="a.tsv", files="b.txt"), "labelled texts, or text without labels"),
        (lambda: DataConfig(class_weights="balanced"), "without data.train"),
        (lambda: Config(model=ModelConfig(head="classifier")), "a classifier learns from"),
        (lambda: Config(data=DataConfig(train="a.tsv")), "a classifier learns from"),
    ],
)
def test_settings_that_contradict_one_another_are_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()
