"""Classifiers of words: trained, read, labelled with, exported, and written as an ALBERT."""

import csv
import dataclasses
import io

import numpy as np
import pytest
import tokenizers

import jaxode
from jaxode import DepthConfig, UserError, classify_words
from jaxode.checkpoint import RunFolder
from jaxode.config import Config, DataConfig, InferConfig, ModelConfig, ObjectiveConfig, OptimizerConfig, TrainConfig
from jaxode.data import Tokenizer
from jaxode.evaluation.labels import evaluate_labels
from jaxode.inference.tasks import main
from jaxode.inference.tasks.line_text import labelled_text, measured_by_labels
from jaxode.model import make_model
from jaxode.model.parameters import split
from jaxode.training import train
from jaxode.training.selection import Selection
from jaxode.training.summary import sweep, write_summary

ALBERT = {
    "norm_position": "post",
    "positions": "learned",
    "token_types": 2,
    "embedding_norm": True,
    "embedding_width": 8,
    "norm_epsilon": 1e-12,
}


def settings(folder, out, init="", **model):
    shape = {} if init else {"kind": "masked", "width": 16, "heads": 2, "length": 24, "steps": 4}
    return Config(
        model=ModelConfig(**{"head": "token_classifier"} | shape | model),
        data=DataConfig(train=str(folder / "train.conll"), tokenizer="bpe" if init else "bytes", valid_fraction=0.25),
        objective=ObjectiveConfig(steps="uniform:2,4"),
        optimizer=OptimizerConfig(name="adamw", learning_rate=1e-2, weight_decay=0.0),
        train=TrainConfig(updates=60, batch_size=8, validate_every=0),
        init=str(init),
        out=str(out),
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A word that holds an x is marked."""
    rng, folder = np.random.default_rng(0), tmp_path_factory.mktemp("words")
    sentences = [[str(word) for word in rng.choice(["ab", "xa", "b", "x"], 4)] for _ in range(96)]
    lines = ["\n".join(f"{word} {'B-X' if 'x' in word else 'O'}" for word in words) for words in sentences]
    (folder / "train.conll").write_text("\n\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def run(folder):
    result = train(settings(folder, folder / "run"))
    write_summary(result)
    return result, sweep(result)


@pytest.mark.deep
def test_it_learns_the_labels_of_words_at_both_depths(run):
    result, shown = run
    assert result.validation.metrics["accuracy"] > 0.95
    assert result.validation.texts == 24 * 4
    assert result.validation.metrics["entity F1"] > 0.9
    assert result.validation.unit == "word"
    assert "entity recall" in shown
    loaded = jaxode.load(result.run.path)
    assert (loaded.task, loaded.labels) == ("token_classifier", ("B-X", "O"))
    for steps in (4, 2):
        found = classify_words(loaded, [["xa", "ab"], ["b", "x", "b"]], depth=DepthConfig(steps=steps))
        assert found.labels == ((0, 1), (1, 0, 1))
        assert all(0.5 < p <= 1 for row in found.probabilities for p in row)


def test_infer_labels_words_and_says_how_often_it_is_right(infer, run, folder, tmp_path):
    (tmp_path / "text.txt").write_text("xa  ab\n\nb x b\n")
    ran = infer("--checkpoint", run[0].run.path, "--file", tmp_path / "text.txt", "--task", "classify")
    rows = list(csv.DictReader(io.StringIO(ran.out)))
    assert [(row["line"], row["word"], row["label"]) for row in rows] == [
        ("1", "xa", "B-X"),
        ("1", "ab", "O"),
        ("3", "b", "O"),
        ("3", "x", "B-X"),
        ("3", "b", "O"),
    ]
    flags = ("--checkpoint", run[0].run.path, "--task", "classify", "--file", folder / "train.conll", "--label", "2")
    ran = infer(*flags, "--steps", "2")
    told = dict(line.split(": ") for line in ran.err.splitlines() if line.startswith(("entity F1: ", "accuracy: ")))
    assert float(told["accuracy"]) > 0.95
    assert float(told["entity F1"]) > 0.9
    # a label that it has not, before anything is compiled
    (tmp_path / "other.conll").write_text("a MAYBE\n")
    ran = infer(
        "--checkpoint", run[0].run.path, "--task", "classify", "--file", tmp_path / "other.conll", "--label", "2"
    )
    assert ran.code == 2
    assert 'line 1: label "MAYBE" is none of the model\'s: B-X, O' in ran.err


def test_words_that_the_tokenizer_does_not_know_are_counted(tiny):
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"?": 0, "a": 1, "film": 2}, unk_token="?"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    model = make_model(tiny(kind="masked", vocab_size=3, head="token_classifier", labels=("B-X", "O"), steps=1))
    found = classify_words(*split(model), Tokenizer(words, "words", 1, None, 1), [["a", "odd"], ["film"]], frame=False)
    assert found.unknown == 1


@pytest.mark.deep
def test_a_report_measures_the_labels_of_words(infer, run, folder, tmp_path, rescaled_alone):
    flags = ("--checkpoint", run[0].run.path, "--task", "report", "--out", tmp_path)
    ran = infer(*flags)
    assert ran.code == 0, ran.err
    assert "96 words labelled" in ran.err
    rows = list(csv.DictReader((tmp_path / "report.csv").open()))
    metrics = run[0].validation.metrics
    assert float(rows[0]["entity F1"]) == pytest.approx(metrics["entity F1"])
    assert {row["method"] for row in rows} == {"full depth", "step rescaling"}
    assert ran.out.splitlines()[0].split()[5:7] == ["entity", "F1"]


def test_what_is_measured_on_is_known_before_anything_is_compiled(tmp_path):
    def by_labels(model="token_classifier", **flags):
        return measured_by_labels(model, InferConfig(**{"task": "report"} | flags))

    (tmp_path / "lists.jsonl").write_text('{"tokens": ["a"], "ner_tags": ["O"]}')
    (tmp_path / "texts.jsonl").write_text('{"text": "a b"}')
    assert by_labels()
    assert by_labels(file="a.conll")
    assert by_labels(file=str(tmp_path / "lists.jsonl"))
    assert by_labels(file="a.txt", label="2")
    assert not by_labels(file="a.txt")
    assert not by_labels(file=str(tmp_path / "texts.jsonl"))
    assert not by_labels(task="calibrate", file="a.conll", steps=2)
    assert by_labels("classifier", file="a.txt")
    assert not by_labels("encoder")


def test_a_fit_reads_the_words_of_a_file_alone(infer, run, folder, monkeypatch):
    seen = []
    monkeypatch.setattr(main, "fit_calibration", lambda loaded, config, batches, *rest: seen.extend(batches))
    flags = ("--checkpoint", run[0].run.path, "--task", "calibrate", "--steps", 2)
    ran = infer(*flags, "--file", folder / "train.conll")
    assert ran.code == 0, ran.err
    tokens = np.concatenate([batch.tokens.ravel() for batch in seen])
    tags, words = run[0].data.tokenizer.encode_batch(["BO-X", "abx "])
    assert not np.isin(tags, tokens).any()
    assert np.isin(words, tokens).all()


@pytest.mark.deep
def test_it_goes_on_from_itself_and_from_other_labels(run, folder, tmp_path):
    again = settings(folder, tmp_path / "again", init=run[0].run.path)
    found = train(Config(**{**vars(again), "train": TrainConfig(updates=1, batch_size=8, validate_every=0)}))
    assert found.validation.metrics["accuracy"] > 0.9
    saved = jaxode.load(jaxode.load(run[0].run.path).save(tmp_path / "exported"))
    assert (saved.task, saved.labels) == ("token_classifier", ("B-X", "O"))


@pytest.mark.deep
def test_an_albert_of_words_is_written_for_transformers(folder, tmp_path):
    result = train(settings(folder, tmp_path / "run", **ALBERT))
    loaded = jaxode.load(result.run.path)
    jaxode.save_pretrained(loaded, tmp_path / "albert")
    theirs = jaxode.load(tmp_path / "albert")
    assert (theirs.task, theirs.labels) == ("token_classifier", ("B-X", "O"))
    words = [["xa", "ab"], ["b", "x", "b"]]
    found, expected = (classify_words(one, words, frame=False) for one in (theirs, loaded))
    assert found.labels == expected.labels
    np.testing.assert_allclose(np.concatenate(found.probabilities), np.concatenate(expected.probabilities), rtol=1e-5)
    # its labels do not stand in its settings, and are measured by their names all the same
    file = str(folder / "train.conll")
    text = labelled_text(theirs, InferConfig(task="report", file=file, frame="none", batch_size=8, batches=1))
    measured = evaluate_labels(theirs, text.batches, DepthConfig(), labels=theirs.labels)
    assert (measured.unit, next(iter(measured.metrics))) == ("word", "entity F1")


def test_the_best_checkpoint_by_entities_needs_labels_that_mark_them(folder, tmp_path):
    text = (folder / "train.conll").read_text()
    (tmp_path / "train.conll").write_text(text.replace("B-X", "YES").replace(" O", " NO"))
    config = settings(tmp_path, tmp_path / "run")
    best = TrainConfig(updates=4, batch_size=8, validate_every=2, best="entity_f1")
    with pytest.raises(
        UserError, match=r'"entity_f1": the labels NO, YES mark no entities, .* name loss, accuracy, f1'
    ):
        train(dataclasses.replace(config, train=best))
    marked = dataclasses.replace(config.model, labels=("B-X", "O"))
    assert Selection(dataclasses.replace(config, model=marked, train=best), RunFolder(tmp_path / "run"))


@pytest.mark.parametrize(
    ("sentences", "message"),
    [
        ("xa ab", "sentences is one string: give a list of lists of words"),
        (["xa ab"], "text 1 is no list of words"),
        ([["xa ab"]], "text 1: 'xa ab' is no word: a text without white space"),
        ([["x"], []], "text 2 is no list of words"),
        ([], "no sentences: give at least one"),
        ([["x" * 30]], r"text 1 has 30 tokens, the model reads at most 24 of a text \(model.length = 24\)"),
    ],
)
def test_what_are_no_words(run, sentences, message):
    with pytest.raises(UserError, match=message):
        classify_words(jaxode.load(run[0].run.path), sentences)


def test_only_classifiers_of_words_label_words():
    with pytest.raises(UserError, match="MaskedLM labels no tokens: give a TokenClassifier"):
        classify_words(jaxode.load("books-masked"), [["a"]])
    with pytest.raises(UserError, match=r'model.problem_type = .* with model.head = "token_classifier"'):
        ModelConfig(kind="masked", head="token_classifier", problem_type="regression")
