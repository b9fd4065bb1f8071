"""From labelled files to rows: what a regression predicts, and which texts are held out."""

import json

import pytest
import tokenizers

from jaxode.config import DataConfig, ModelConfig, UserError
from jaxode.data import Tokenizer
from jaxode.data.labelled import prepare_labelled


@pytest.fixture
def prepared(tmp_path):
    def make(rows, problem_type="single_label_classification", **data):
        file = tmp_path / "train.jsonl"
        file.write_text("\n".join(map(json.dumps, rows)))
        settings = DataConfig(**{"train": str(file), "tokenizer": "bytes"} | data)
        return prepare_labelled(
            settings, ModelConfig(kind="masked", head="classifier", length=16, problem_type=problem_type)
        )

    return make


def test_equal_texts_on_both_sides_are_told(prepared, capfd):
    rows = [{"text": "same" if i < 4 else f"t{i}", "text_b": "a", "label": "xy"[i % 2]} for i in range(8)]
    prepared(rows, valid_fraction=0.5)
    (line,) = [line for line in capfd.readouterr().err.splitlines() if "same text" in line]
    assert line.endswith(
        "train.jsonl: 3 of 8 documents hold the same text as an earlier one; "
        "texts that stand in training and in validation: 1"
    )
    # of pairs both texts are equal, or none is
    prepared([row | {"text_b": f"b{i}"} for i, row in enumerate(rows)], valid_fraction=0.5)
    assert "same text" not in capfd.readouterr().err


def test_what_the_tokenizer_does_not_know_is_told(prepared, tmp_path, capfd):
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"?": 0, "a": 1, "good": 2}, unk_token="?"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    Tokenizer(words, "words", 1, None, 1).save(tmp_path / "words")
    rows = [{"text": f"a good {'film' * (i % 2)}", "text_b": f"a t{i}", "label": "xy"[i % 2]} for i in range(8)]
    prepared(rows, valid_fraction=0.5, tokenizer=str(tmp_path / "words"))
    told = [line.partition(".jsonl: ")[2] for line in capfd.readouterr().err.splitlines()]
    counts = [int(line.split()[0]) for line in told if "that the tokenizer does not know" in line]
    assert len(counts) == 2
    assert sum(counts) == 4 + 8


def numbers(*labels):
    return [{"text": f"t{i}", "label": label} for i, label in enumerate(labels)]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (([], [1, 2], [3, 4], [5, 6]), "line 1 has 0 numbers to predict, the model gives 2"),
        ((None, [1, 2], [3, 4], [5, 6]), "line 1: None is no number to predict"),
        (([1, 2], [3, 4], [5, 6], [7]), "line 4 has 1 numbers to predict, the model gives 2"),
        (([], [], [], [1, 2]), "train.jsonl: line 1 holds no number to predict, as most rows have none"),
    ],
)
def test_the_row_with_other_numbers_than_most_is_named(prepared, labels, message):
    with pytest.raises(UserError, match=message):
        prepared(numbers(*labels), "regression")
