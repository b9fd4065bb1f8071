"""A classifier's run measured and calibrated by infer.py: on its own labelled texts, on files of texts and of pairs."""

import csv
import dataclasses

import jax
import numpy as np
import pytest
from tiny_runs import model_config, write_run

import jaxode
from jaxode import DepthConfig
from jaxode.calibration.budget import _class_logits
from jaxode.config import Config, DataConfig, InferConfig, ModelConfig, OptimizerConfig, TrainConfig
from jaxode.data.columns import Columns
from jaxode.data.labelled import labelled_batches, prepare_labelled
from jaxode.data.tables import read_table
from jaxode.evaluation import label_sweep as sweep_module
from jaxode.evaluation.divergence import Diverged
from jaxode.evaluation.labels import evaluate_labels
from jaxode.inference.tasks.line_tables import read_labelled
from jaxode.inference.tasks.line_text import bound_batches, line_batches
from jaxode.training import train


def write(path, rows):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return str(path)


def trained(folder, rows, **model):
    train(
        Config(
            model=ModelConfig(kind="masked", head="classifier", width=16, heads=2, length=32, steps=4, **model),
            data=DataConfig(train=write(folder / "train.csv", rows), tokenizer="bytes", valid_fraction=0.25),
            optimizer=OptimizerConfig(name="adamw", learning_rate=1e-2),
            train=TrainConfig(updates=30, batch_size=8, validate_every=0),
            out=str(folder / "run"),
        )
    )
    return folder


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    rows = [("text", "label"), *((f"{'ab'[i % 2]} word {i}", ("yes", "no")[i % 2]) for i in range(96))]
    return trained(tmp_path_factory.mktemp("texts"), rows)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    rows = [("sentence1", "sentence2", "label")]
    rows += [(f"{i}", f"{i if i % 2 else -i} b", str(i % 2)) for i in range(96)]
    return trained(tmp_path_factory.mktemp("pairs"), rows, token_types=2)


def swept(ran):
    assert ran.code == 0, ran.err
    return ran.out.splitlines()


@pytest.mark.deep
def test_a_run_is_swept_on_its_own_validation_texts(infer, texts, tmp_path):
    ran = infer("--checkpoint", texts / "run", "--task", "sweep", "--out", tmp_path)
    assert "24 texts labelled" in ran.err
    assert "Matthews correlation" in swept(ran)[0]
    rows = list(csv.DictReader((tmp_path / "sweep.csv").open()))
    assert [row["steps"] for row in rows[:2]] == ["4", "2"]
    loaded = jaxode.load(texts / "run")
    own = (texts / "run" / "sweep.csv").exists()
    assert not own  # what is asked for elsewhere is written there alone
    assert {row["texts"] for row in rows} == {"24"}
    assert float(rows[0]["accuracy"]) == 1.0
    assert loaded.labels == ("no", "yes")


def test_a_run_is_swept_on_a_file(infer, texts, tmp_path):
    rows = [("a one", "yes"), ("b two", "no"), ("a three", "no"), ("b four", "yes")]
    file = write(tmp_path / "test.csv", [("sentence", "gold"), *rows])
    flags = ("--checkpoint", texts / "run", "--task", "sweep", "--file", file, "--out", tmp_path, "--at", "4,2")
    lines = swept(infer(*flags))
    table, loaded = read_table(file, Columns(), labelled=True), jaxode.load(texts / "run")
    batches, _ = labelled_batches(table, loaded.own_tokenizer, loaded.config.model, loaded.labels)
    found = evaluate_labels(loaded, list(batches), DepthConfig(steps=2, solver="euler"))
    rows = list(csv.DictReader((tmp_path / "sweep.csv").open()))
    assert float(rows[1]["loss"]) == pytest.approx(found.loss, rel=1e-5)
    assert float(rows[1]["accuracy"]) == found.metrics["accuracy"]
    assert len(lines) == 4
    # the same numbers by classify, which reads it text by text
    ran = infer("--checkpoint", texts / "run", "--task", "classify", "--file", file, "--label", "gold", "--steps", "2")
    assert f"accuracy: {found.metrics['accuracy']:.4f}" in ran.err


@pytest.mark.deep
def test_a_part_of_a_file_is_said(infer, texts, tmp_path):
    file = write(tmp_path / "test.csv", [("text", "label"), *[("a text", "yes"), ("b text", "no")] * 20])
    flags = ("--checkpoint", texts / "run", "--task", "sweep", "--file", file, "--out", tmp_path)
    ran = infer(*flags, "--batch-size", "4", "--batches", "3")
    assert "the first 12 of 40 texts, in an order of their own; --batches reads more" in ran.err
    assert "12 texts labelled" in ran.err
    assert "the first" not in infer(*flags).err


@pytest.mark.deep
def test_a_run_is_calibrated_on_its_own_training_texts(infer, texts, tmp_path):
    ran = infer("--checkpoint", texts / "run", "--task", "calibrate", "--steps", "2", "--updates", "2")
    assert ran.code == 0, ran.err
    assert ran.out.splitlines()[-1].split()[0] == "2"
    lines = swept(infer("--checkpoint", texts / "run", "--task", "sweep", "--out", tmp_path))
    assert any(line.startswith("calibrated") for line in lines)
    ran = infer("--checkpoint", texts / "run", "--task", "bench")
    assert ran.code == 2


@pytest.mark.deep
def test_pairs_are_calibrated_on_as_they_are_read(infer, pairs, tmp_path):
    file = str(pairs / "train.csv")
    ran = infer("--checkpoint", pairs / "run", "--task", "calibrate", "--steps", "2", "--file", file, "--updates", "1")
    assert ran.code == 0, ran.err
    loaded = jaxode.load(pairs / "run")
    config = InferConfig(task="calibrate", steps=2, file=file)
    (batch, *_) = line_batches(loaded, read_labelled(config, "text"), config)
    assert batch.kinds is not None
    # the second text is of another kind, and begins behind the first
    assert (np.diff(batch.kinds, axis=1).max(axis=1) == 1).all()
    lines = swept(infer("--checkpoint", pairs / "run", "--task", "sweep", "--file", file, "--out", tmp_path))
    assert len(lines) > 3


@pytest.mark.deep
def test_a_report_sets_methods_side_by_side(infer, texts, tmp_path, rescaled_alone):
    saved = jaxode.load(texts / "run").save(tmp_path / "exported")
    rows = [(f"{'ab'[i % 2]} word {i}" + " and" * (i % 5), ("yes", "no")[i % 2]) for i in range(12)]
    file = write(tmp_path / "test.csv", [("text", "label"), *rows])
    ran = infer(
        "--checkpoint",
        saved,
        "--task",
        "report",
        "--file",
        file,
        "--batch-size",
        4,
        "--out",
        tmp_path,
        "--tuned",
        saved,
    )
    lines = swept(ran)
    assert "12 texts labelled" in ran.err
    found = list(csv.DictReader((tmp_path / "report.csv").open()))
    # the full depth, steps of other sizes, and the same of a model that was trained on from it
    assert list(dict.fromkeys(row["method"] for row in found)) == ["full depth", "step rescaling", "tuned"]
    assert len(lines) == 2 + len(found)
    assert {path.name for path in tmp_path.glob("*.png")} == {"report.png", "trace.png"}
    loaded = jaxode.load(saved)
    batches, _ = labelled_batches(
        read_table(file, Columns(), labelled=True), loaded.own_tokenizer, loaded.config.model, loaded.labels
    )
    batches = list(batches)
    for row in found:
        expected = evaluate_labels(loaded, batches, DepthConfig(steps=int(row["steps"]), solver="euler"))
        assert float(row["loss"]) == pytest.approx(expected.loss, rel=1e-4, abs=1e-6)
        assert float(row["accuracy"]) == expected.metrics["accuracy"]
        assert float(row["Matthews correlation"]) == pytest.approx(expected.metrics["Matthews correlation"])
    full, tuned = (next(row for row in found if row["method"] == name) for name in ("full depth", "tuned"))
    assert (full["agreement"], full["divergence"], full["numbers"]) == ("1.0", "0.0", "0")
    assert (tuned["agreement"], tuned["numbers"]) == ("1.0", str(loaded.model.num_parameters))


@pytest.mark.deep
def test_a_report_of_pairs_reads_the_second_text(infer, pairs, tmp_path, rescaled_alone):
    ran = infer("--checkpoint", pairs / "run", "--task", "report", "--out", tmp_path)
    swept(ran)
    assert "24 texts labelled" in ran.err
    found = list(csv.DictReader((tmp_path / "report.csv").open()))
    loaded = jaxode.load(pairs / "run")
    data = prepare_labelled(loaded.config.data, loaded.config.model, loaded.own_tokenizer)
    expected = evaluate_labels(loaded, data.validation(8, None), DepthConfig(steps=2, solver="euler"))
    (row,) = (row for row in found if row["steps"] == "2" and row["method"] == "step rescaling")
    assert float(row["loss"]) == pytest.approx(expected.loss, rel=1e-4)


@pytest.mark.deep
def test_a_report_of_numbers_says_how_far_they_are(infer, tmp_path, rescaled_alone):
    form = dataclasses.replace(
        model_config("masked", steps=2), head="classifier", labels=("score",), problem_type="regression"
    )
    run = write_run(tmp_path / "run", form, train="gone.csv")
    file = write(tmp_path / "test.csv", [("text", "label"), *(("a" * (1 + i % 7), i % 7 / 3) for i in range(12))])
    shown = swept(infer("--checkpoint", run, "--task", "report", "--file", file, "--out", tmp_path))
    names = shown[0].replace("  ", "\t").split("\t")
    assert [name.strip() for name in names if name][5:10] == [
        "Pearson correlation", "Spearman correlation", "root mean square error", "loss", "distance",
    ]  # fmt: skip
    found = list(csv.DictReader((tmp_path / "report.csv").open()))
    loaded = jaxode.load(run)
    texts = ["a" * (1 + i % 7) for i in range(12)]

    def numbers(steps):
        done = jaxode.classify_texts(loaded, texts, depth=DepthConfig(steps=steps, solver="euler"))
        return np.asarray([text.scores for text in done.classes])

    full, *others = found
    assert (full["distance"], full["agreement"], full["divergence"]) == ("0.0", "", "")
    for row in others:
        away = np.sqrt(np.mean((numbers(int(row["steps"])) - numbers(2)) ** 2))
        assert away > 0
        assert float(row["distance"]) == pytest.approx(away, rel=1e-3)
    assert float(full["root mean square error"]) ** 2 == pytest.approx(float(full["loss"]), rel=1e-4)
    ran = infer("--checkpoint", run, "--task", "classify", "--file", file, "--max-label-flips", 0.1)
    assert ran.code == 2
    assert "max_label_flips = 0.1: this model gives numbers and no labels that could change; choose" in ran.err


@pytest.mark.deep
def test_numbers_are_calibrated_from_a_file(infer, tmp_path):
    form = dataclasses.replace(
        model_config("masked", steps=2), head="classifier", labels=("score",), problem_type="regression"
    )
    run = write_run(tmp_path / "run", form, train="gone.csv")
    file = write(tmp_path / "texts.csv", [("text",), *(("a" * (1 + i % 7),) for i in range(96))])
    ran = infer("--checkpoint", run, "--task", "calibrate", "--steps", 1, "--file", file, "--updates", 2)
    assert ran.code == 0, ran.err
    assert "root mean square distance of the numbers from those of the full depth" in ran.err
    done = jaxode.load(run).calibrations[1]
    shown = dict(zip(ran.out.splitlines()[0].split(), ran.out.splitlines()[2].split(), strict=True))
    assert float(shown["distance"]) == pytest.approx(done.distance, rel=1e-2)
    assert done.kl is None


def test_a_bound_is_tested_on_pairs(pairs, tmp_path):
    file = write(tmp_path / "more.csv", [("sentence1", "sentence2"), *((f"{i}", f"{-i} b") for i in range(24))])
    loaded = jaxode.load(pairs / "run")
    batches = bound_batches(loaded, InferConfig(task="classify", file="t.csv", max_label_flips=0.5, bound_file=file))
    kinds = [np.asarray(batch.kinds) for batch in batches]
    assert all(kind.max() == 1 for kind in kinds)
    logits = _class_logits(loaded.architecture, loaded.params, batches, DepthConfig())
    expected = jaxode.classify_texts(loaded, [f"{i}" for i in range(24)], pairs=[f"{-i} b" for i in range(24)])
    found = sorted(tuple(map(float, row)) for row in np.asarray(jax.nn.softmax(logits)))
    np.testing.assert_allclose(found, sorted(one.probabilities for one in expected.classes), rtol=1e-4)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ("--task", "report", "--controls"),
            "controls: compare predictions of tokens; this model is of kind classifier",
        ),
        (
            ("--task", "report", "--tuned", "books-masked"),
            "tuned = books-masked: has task = 'masked', this model 'classifier'; name",
        ),
        (("--task", "sweep", "--label", "kind"), "none that is called kind"),
        (("--task", "calibrate", "--steps", "2", "--label", "label"), 'label = "label" with task = calibrate: only'),
        (("--task", "encode", "--out", "a.npz", "--text", "text"), 'text = "text" with task = encode: only classify'),
    ],
)
def test_columns_that_do_not_fit(infer, texts, flags, message):
    ran = infer("--checkpoint", texts / "run", "--file", texts / "train.csv", *flags)
    assert ran.code == 2
    assert message in ran.err.splitlines()[-1]


def test_columns_are_a_classifiers(infer, texts):
    ran = infer("--checkpoint", "books-masked", "--task", "sweep", "--file", texts / "train.csv", "--text", "text")
    assert ran.code == 2
    assert 'text = "text" with task = sweep: ' in ran.err
    assert "is no classifier, which reads columns; leave it out" in ran.err


def test_texts_that_are_gone(infer, texts, tmp_path):
    saved = jaxode.load(texts / "run").save(tmp_path / "exported")
    hidden = texts / "train.csv"
    hidden.rename(texts / "away.csv")
    try:
        ran = infer("--checkpoint", saved, "--task", "sweep")
    finally:
        (texts / "away.csv").rename(hidden)
    assert ran.code == 2
    assert "the text of the run is not at hand" in ran.err
    assert "name labelled texts with --file" in ran.err


@pytest.mark.deep
def test_long_texts_are_cut_only_when_asked(infer, texts, tmp_path):
    file = write(tmp_path / "test.csv", [("text", "label"), ("a " * 40, "yes"), ("b", "no")])
    flags = ("--checkpoint", texts / "run", "--task", "sweep", "--file", file, "--out", tmp_path)
    ran = infer(*flags)
    assert ran.code == 2
    assert "1 texts have more tokens than the model reads, model.length = 32" in ran.err
    assert swept(infer(*flags, "--truncate"))


def test_a_sweep_whose_first_depth_diverges_goes_on(pairs, monkeypatch):
    loaded = jaxode.load(pairs / "run")
    batches = list(prepare_labelled(loaded.config.data, loaded.config.model, loaded.own_tokenizer).validation(8, None))
    measured = sweep_module.evaluate_labels

    def diverging(architecture, params, batches, depth, **options):
        if depth.steps == 1:
            raise Diverged("no number")
        return measured(architecture, params, batches, depth, **options)

    monkeypatch.setattr(sweep_module, "evaluate_labels", diverging)
    depths = [DepthConfig(steps=steps, solver="euler") for steps in (1, 4)]
    first, second = sweep_module.label_sweep(loaded.architecture, loaded.params, batches, depths)
    assert (first["steps"], first["loss"]) == (1, float("inf"))
    assert np.isfinite(second["loss"])
