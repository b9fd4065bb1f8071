"""Classifiers of one label, of several and of numbers: what config.json says decides how their outputs are read."""

import csv
import dataclasses
import io
import json

import albert_folders
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from albert_folders import rewrite

from jaxode import UserError, classify_texts, from_pretrained, save_pretrained
from jaxode.interop import class_names

TEXTS = ["good film", "bad", "dull dull cat"]
NAMES = {"0": "toxic", "1": "insult; or worse", "2": "threat"}
SEVERAL, CHOICE = "multi_label_classification", "single_label_classification"


def logits_of(found, text):
    return found.model(jnp.asarray([found.tokenizer.encode(text, frame=True)])).logits[0]


def classes_of(found):
    return classify_texts(found.architecture, found.params, found.tokenizer, TEXTS)


def table(infer, folder, tmp_path):
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS) + "\n")
    ran = infer("--checkpoint", folder, "--task", "classify", "--file", tmp_path / "texts.txt")
    assert ran.code == 0, ran.err
    return list(csv.reader(io.StringIO(ran.out)))


@pytest.fixture
def several(tmp_path):
    return albert_folders.write(tmp_path / "several", 3, id2label=NAMES, problem_type=SEVERAL)


@pytest.mark.deep
def test_several_labels_have_a_sigmoid_each(several, infer, tmp_path):
    found = from_pretrained(several)
    assert found.model.problem_type == SEVERAL
    done = classes_of(found)
    assert done.problem_type == SEVERAL
    header, *rows = table(infer, several, tmp_path)
    assert header == ["line", "labels", "p(toxic)", "p(insult; or worse)", "p(threat)"]
    assert max(abs(sum(row.probabilities) - 1) for row in done.classes) > 0.01
    for text, row, cells in zip(TEXTS, done.classes, rows, strict=True):
        want = jax.nn.sigmoid(logits_of(found, text))
        np.testing.assert_allclose(row.probabilities, want, atol=1e-5)
        assert row.labels == tuple(np.flatnonzero(want > 0.5))
        assert (row.label, row.scores) == (None, ())
        assert next(csv.reader([cells[1]], delimiter=";"), []) == [list(NAMES.values())[i] for i in row.labels]
        np.testing.assert_allclose([float(cell) for cell in cells[2:]], want, atol=1e-5)


@pytest.mark.parametrize("problem_type", ["regression", None])
def test_one_output_is_a_number(tmp_path, infer, problem_type):
    folder = albert_folders.write(tmp_path / "one", 1)
    rewrite(folder, problem_type=problem_type)
    found = from_pretrained(folder)
    done = classes_of(found)
    assert done.problem_type == found.model.problem_type == "regression"
    header, *rows = table(infer, folder, tmp_path)
    assert header == ["line", "score"]
    for text, row, cells in zip(TEXTS, done.classes, rows, strict=True):
        want = logits_of(found, text)
        np.testing.assert_allclose(row.scores, want, atol=1e-5)
        assert (row.label, row.labels, row.probabilities) == (None, (), ())
        assert float(cells[1]) == pytest.approx(float(want[0]), abs=1e-5)


def test_several_numbers_have_a_column_each(tmp_path, infer):
    folder = albert_folders.write(tmp_path / "two", 2, problem_type="regression")
    header, *rows = table(infer, folder, tmp_path)
    assert header == ["line", "score(LABEL_0)", "score(LABEL_1)"]
    found = from_pretrained(folder)
    np.testing.assert_allclose(
        [[float(cell) for cell in row[1:]] for row in rows], [logits_of(found, text) for text in TEXTS], atol=1e-5
    )


def test_one_label_of_its_own_is_a_yes_or_no(tmp_path):
    found = from_pretrained(albert_folders.write(tmp_path / "one", 1, problem_type=SEVERAL))
    assert found.model.problem_type == SEVERAL
    row = classes_of(found).classes[0]
    np.testing.assert_allclose(row.probabilities, jax.nn.sigmoid(logits_of(found, TEXTS[0])), atol=1e-5)


@pytest.mark.parametrize("problem_type", [CHOICE, None])
def test_a_choice_of_labels_is_a_softmax(tmp_path, problem_type):
    folder = albert_folders.write(tmp_path / "choice", 3)
    rewrite(folder, problem_type=problem_type)
    found = from_pretrained(folder)
    assert found.model.problem_type == CHOICE
    row = classes_of(found).classes[0]
    np.testing.assert_allclose(row.probabilities, jax.nn.softmax(logits_of(found, TEXTS[0])), atol=1e-5)
    assert row.labels == (row.label,)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"problem_type": "multi_label"}, "problem_type = 'multi_label': allowed are single_label_classification, "),
        ({"problem_type": ["regression"]}, "problem_type = ['regression']: allowed are"),
        (
            {"id2label": {"0": "A"}, "problem_type": CHOICE},
            "problem_type = 'single_label_classification' with one label",
        ),
        ({"id2label": None, "num_labels": 0}, "num_labels = 0: must be a whole number from 1"),
        ({"id2label": ["a", "b", "c"]}, "id2label = ['a', 'b', 'c']: must map numbers to names"),
    ],
)
def test_what_is_no_problem_type_is_refused(several, changes, message):
    rewrite(several, **changes)
    with pytest.raises(UserError) as caught:
        from_pretrained(several)
    assert f"{several / 'config.json'}: {message}" in str(caught.value)


@pytest.mark.broad
@pytest.mark.parametrize("problem_type", [SEVERAL, "regression", CHOICE])
def test_the_problem_type_survives_saving(tmp_path, problem_type):
    folder = albert_folders.write(tmp_path / "made", 2, problem_type=problem_type)
    again = save_pretrained(from_pretrained(folder), tmp_path / "again")
    assert from_pretrained(again).model.problem_type == problem_type
    # where only the model knows it
    found = dataclasses.replace(from_pretrained(folder), source={})
    assert from_pretrained(save_pretrained(found, tmp_path / "third")).model.problem_type == problem_type


def test_names_of_labels_are_columns_of_their_own(several):
    rewrite(several, id2label={"0": "other", "1": 'a, "b"\n', "2": "other"})
    assert class_names(several) == ("other (0)", 'a, "b"\n', "other (2)")
    (several / "config.json").write_text(
        json.dumps(json.loads((several / "config.json").read_text()) | {"id2label": {"0": "\ud800", "1": 7}})
    )
    assert class_names(several) == ("\\ud800", "7")
