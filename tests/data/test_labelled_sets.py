"""Labelled texts of sets that TFDS knows by name."""

from typing import ClassVar

import numpy as np
import pytest
import tensorflow_datasets as tfds

from jaxode.config import DataConfig, ModelConfig, UserError
from jaxode.data import registered
from jaxode.data.labelled import prepare_labelled

NAMES = ["wrong", "right"]


class JaxodePairs(tfds.core.GeneratorBasedBuilder):
    """Pairs as GLUE has them: a number of their own, and a test split that keeps its labels secret."""

    VERSION = tfds.core.Version("1.0.0")
    SIZES: ClassVar = {"train": 12, "test": 4, "validation": 6}
    MISSING = ("test",)

    def _info(self):
        features = {
            "sentence1": tfds.features.Text(),
            "sentence2": tfds.features.Text(),
            "label": tfds.features.ClassLabel(names=NAMES),
            "idx": tfds.features.Scalar(np.int32),
            "words": tfds.features.Sequence(tfds.features.Text()),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(split) for split in self.SIZES}

    def _generate_examples(self, split):
        for i in range(self.SIZES[split]):
            label = -1 if split in self.MISSING else i % 2
            yield i, {"sentence1": f"{split} é", "sentence2": "b", "label": label, "idx": i, "words": []}


class JaxodePairsOfTrain(JaxodePairs):
    SIZES: ClassVar = {"train": 12, "test": 4}


class JaxodePairsSecret(JaxodePairs):
    SIZES: ClassVar = {"train": 12}
    MISSING = ("train",)


class JaxodeScores(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {"text": tfds.features.Text(), "score": tfds.features.Scalar(np.float32)}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for i in range(8):
            yield i, {"text": "a" * (i + 1), "score": i / 4}


class JaxodeLatin(JaxodeScores):
    def _generate_examples(self):
        yield 0, {"text": "a", "score": 0.0}
        yield 1, {"text": "ä".encode("latin-1"), "score": 1.0}


class JaxodeNoTexts(JaxodeScores):
    def _info(self):
        features = {"image": tfds.features.Tensor(shape=(2,), dtype=np.float32)}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _generate_examples(self):
        yield 0, {"image": np.zeros(2, np.float32)}


class JaxodeWords(JaxodePairs):
    """Words as CoNLL-2003 has them: tags of several kinds, and a sentence without words."""

    SIZES: ClassVar = {"train": 12, "dev": 6, "test": 4}
    TAGS: ClassVar = ["O", "B-PER", "I-PER"]

    def _info(self):
        features = {
            "tokens": tfds.features.Sequence(tfds.features.Text()),
            "chunks": tfds.features.Sequence(tfds.features.ClassLabel(names=["B-NP", "I-NP"])),
            "ner": tfds.features.Sequence(tfds.features.ClassLabel(names=self.TAGS)),
            "text": tfds.features.Text(),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _generate_examples(self, split):
        tags = [-1, -1, -1] if split in self.MISSING else ["B-PER", "I-PER", "O"]
        for i in range(self.SIZES[split]):
            filled = {"tokens": [split, "Zoé", "b"], "chunks": [0, 1, 1], "ner": tags, "text": ""}
            yield i, filled if i else {key: [] for key in ("tokens", "chunks", "ner")} | {"text": ""}


class JaxodeWordsSecret(JaxodeWords):
    SIZES: ClassVar = {"train": 12}
    MISSING = ("train",)


def prepared(tmp_path, name, problem_type="single_label_classification", **data):
    settings = DataConfig(train=name, tokenizer="bytes", cache=str(tmp_path), **data)
    model = ModelConfig(kind="masked", head="classifier", length=32, token_types=2, problem_type=problem_type)
    return prepare_labelled(settings, model)


@pytest.fixture(autouse=True)
def _here(monkeypatch):
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)


def test_a_set_brings_its_texts_labels_and_validation_split(tmp_path):
    data = prepared(tmp_path, "jaxode_pairs")
    assert data.labels == ("right", "wrong")
    assert (len(data.train_rows), len(data.validation_rows)) == (12, 6)
    row = data.train_rows[0]
    assert row["kinds"].max() == 1
    assert data.tokenizer.decode([int(i) for i in row["tokens"][: row["count"]]]).startswith("train é")
    assert {float(one["wanted"][0]) for one in data.train_rows} == {0.0, 1.0}


def test_a_set_whose_text_is_no_utf_8_is_refused_by_its_example(tmp_path):
    with pytest.raises(UserError, match="jaxode_latin, train: example 2: not UTF-8 text"):
        prepared(tmp_path, "jaxode_latin", "regression")


def test_a_set_has_no_header(tmp_path):
    with pytest.raises(UserError, match="jaxode_pairs: names its columns itself; leave the header out"):
        prepared(tmp_path, "jaxode_pairs", header="yes")


def words(tmp_path, name, **data):
    settings = DataConfig(train=name, tokenizer="bytes", cache=str(tmp_path), **data)
    return prepare_labelled(settings, ModelConfig(kind="masked", head="token_classifier", length=32))


def test_a_set_brings_words_and_their_labels(tmp_path, capsys):
    data = words(tmp_path, "jaxode_words")
    assert data.labels == ("B-PER", "I-PER", "O")
    # sentences without words are passed over
    assert (len(data.train_rows), len(data.validation_rows)) == (11, 5)
    row = data.train_rows[0]
    assert data.tokenizer.decode([int(i) for i in row["tokens"][: row["count"]]]) == "train Zoé b"
    assert row["targets"][row["weights"] > 0].tolist() == [0, 1, 2]
    assert 'jaxode_words, train: words in "tokens", labels in "ner"' in capsys.readouterr().err
    assert words(tmp_path, "jaxode_words", label="chunks").labels == ("B-NP", "I-NP")


def test_a_file_of_words_may_be_validated_on_beside_a_set(tmp_path):
    (tmp_path / "dev").write_text("Zoé B-PER\n")
    assert len(words(tmp_path, "jaxode_words", valid=str(tmp_path / "dev")).validation_rows) == 1


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("jaxode_words_secret", {}, r'"jaxode_words_secret": has no split with labels to train on'),
        ("jaxode_scores", {}, r'"jaxode_scores": has no words with labels \(features: text, score\)'),
        (
            "jaxode_words",
            {"label": "gold"},
            r"jaxode_words, train: example \d+ has the fields tokens, chunks, ner, and none that is called gold",
        ),
        ("jaxode_words", {"pair": "text"}, r"jaxode_words, train: words with labels have neither pairs, a header"),
        ("no_such_set", {}, r'data\.train = "no_such_set": is no file, and no set that TFDS knows \(conll2003'),
    ],
)
def test_what_words_cannot_be_learned_from(tmp_path, name, data, message):
    with pytest.raises(UserError, match=message):
        words(tmp_path, name, **data)


def test_a_test_split_without_labels_is_no_validation_split(tmp_path):
    data = prepared(tmp_path, "jaxode_pairs_of_train", valid_fraction=0.25)
    assert (len(data.train_rows), len(data.validation_rows)) == (9, 3)


def test_a_table_may_be_validated_on_beside_a_set(tmp_path):
    (tmp_path / "own.csv").write_text("sentence1,sentence2,label\na,b,right\n")
    data = prepared(tmp_path, "jaxode_pairs", valid=str(tmp_path / "own.csv"))
    assert len(data.validation_rows) == 1


def test_numbers_are_predicted(tmp_path):
    data = prepared(tmp_path, "jaxode_scores", "regression", valid_fraction=0.25)
    wanted = sorted(float(row["wanted"][0]) for row in [*data.train_rows, *data.validation_rows])
    assert wanted == [i / 4 for i in range(8)]


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("jaxode_pairs_secret", {}, r'data\.train = "jaxode_pairs_secret": has no split with labels to train on'),
        ("jaxode_no_texts", {}, r'data\.train = "jaxode_no_texts": has no texts with labels \(features: image\)'),
        ("no_such_set", {}, r'data\.train = "no_such_set": is no table by its name .* and no set that TFDS knows'),
        ("jaxode_pairs", {"label": "gold"}, r"jaxode_pairs, train: it has the columns .*and none that is called gold"),
        (
            "jaxode_pairs",
            {"valid": "jaxode_pairs_secret"},
            r'data\.valid = "jaxode_pairs_secret": has no split with labels to validate on',
        ),
    ],
)
def test_what_cannot_be_learned_from(tmp_path, name, data, message):
    with pytest.raises(UserError, match=message):
        prepared(tmp_path, name, **data)


def test_a_set_that_cannot_be_downloaded(tmp_path, monkeypatch):
    monkeypatch.setattr(registered, "reachable", lambda host: False)
    with pytest.raises(UserError, match=r'data\.train = "glue/sst2": TFDS cannot prepare it .*or name a table'):
        prepared(tmp_path, "glue/sst2")


def test_sets_that_tfds_loads_late_are_known():
    assert registered.is_registered("glue/sst2:2.0.0")
    assert not registered.is_registered("gleu/sst2")
