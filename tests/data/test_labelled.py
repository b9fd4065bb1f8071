"""From labelled files to rows: what a regression predicts, and which texts are held out."""

import json

import pytest

from jaxode.config import DataConfig, ModelConfig, UserError
from jaxode.data.labelled import prepare_labelled


@pytest.fixture
def prepared(tmp_path):
    def make(rows, problem_type="single_label_classification", **data):
        file = tmp_path / "train.jsonl"
        file.write_text("\n".join(map(json.dumps, rows)))
        settings = DataConfig(train=str(file), tokenizer="bytes", **data)
        return prepare_labelled(
            settings, ModelConfig(kind="masked", head="classifier", length=16, problem_type=problem_type)
        )

    return make


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
