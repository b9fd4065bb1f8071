"""Labelled rows of Parquet: classes, several labels, numbers, pairs and words; the file's own names for its labels."""

import json
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jaxode.config import DataConfig, InferConfig, ModelConfig, UserError
from jaxode.data import lines
from jaxode.data.columns import Columns
from jaxode.data.labelled import prepare_labelled
from jaxode.data.parquet_tables import parquet_records
from jaxode.data.tables import read_table
from jaxode.data.tagged import has_tags, read_tagged
from jaxode.inference.tasks.line_tables import read_labelled

NAMED = {"names": ["pos", "neg"], "_type": "ClassLabel"}


def put(path, columns, features=None, group=3):
    table = pa.table(columns)
    if features is not None:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, path, row_group_size=group)
    return str(path)


def prepared(file, problem_type="single_label_classification", **data):
    form = ModelConfig(
        kind="masked", head="classifier", width=16, heads=2, length=16, steps=2, problem_type=problem_type
    )
    return prepare_labelled(DataConfig(train=file, tokenizer="bytes", valid_fraction=0.25, **data), form)


def wanted(data):
    """What every text is to give, by the text."""
    rows = [*data.train_rows, *data.validation_rows]
    return {data.tokenizer.decode(row["tokens"][: row["count"]].tolist()): row["wanted"].tolist() for row in rows}


def test_numbered_labels_have_the_names_and_the_order_that_the_file_says(tmp_path):
    # an image beside them is no column, and what is no text of it is not read
    columns = {
        "image": [{"bytes": b"x"}] * 8,
        "sentence": [f"t{i}" for i in range(8)],
        "label": [i % 2 for i in range(8)],
        "idx": list(range(8)),
    }
    data = prepared(put(tmp_path / "train.parquet", columns, {"label": NAMED}))
    assert data.labels == ("pos", "neg")
    assert wanted(data) == {f"t{i}": [float(i % 2)] for i in range(8)}
    bare = prepared(put(tmp_path / "bare.parquet", columns))
    assert bare.labels == ("0", "1")
    dictionary = columns | {"label": pa.array([("b", "a")[i % 2] for i in range(8)]).dictionary_encode()}
    assert prepared(put(tmp_path / "text.parquet", dictionary)).labels == ("a", "b")


@pytest.mark.parametrize("form", [{"feature": NAMED, "_type": "List"}, [NAMED]])
def test_several_labels_are_a_list(tmp_path, form):
    lists = [[0], [1, 0], [], [1]] * 3
    columns = {"text": [f"t{i}" for i in range(12)], "labels": pa.array(lists, pa.list_(pa.int64()))}
    data = prepared(put(tmp_path / "train.parquet", columns, {"labels": form}), "multi_label_classification")
    assert data.labels == ("pos", "neg")
    assert wanted(data) == {f"t{i}": [float(0 in row), float(1 in row)] for i, row in enumerate(lists)}


def test_numbers_and_pairs(tmp_path):
    columns = {"a": ["x", "y"] * 4, "b": [f"{i}" for i in range(8)], "how": [i / 2 for i in range(8)]}
    file = put(tmp_path / "train.parquet", columns)
    data = prepared(file, "regression", text="a", pair="2", label="how")
    assert sorted(row[0] for row in wanted(data).values()) == columns["how"]
    table = read_table(file, Columns("a", "b", "how"), labelled=True)
    assert [(one.text, one.pair, one.label) for one in table.examples] == list(zip(*columns.values(), strict=True))


def test_all_columns_have_numbers(tmp_path):
    columns = {"image": [{"bytes": b"x"}], "id": ["i"], "body": ["text"], "words": [["a", "b"]], "tags": [["x", "y"]]}
    file = put(tmp_path / "a.parquet", columns)
    (example,) = read_table(file, Columns("3", label="2"), labelled=True).examples
    assert (example.text, example.label) == ("text", "i")
    (example,) = read_tagged(file, Columns("4", label="5"), labelled=True).examples
    assert (example.text, example.label) == ("a b", ("x", "y"))
    for asked in ("1", "image"):
        with pytest.raises(
            UserError, match=r'a.parquet: column "image" is struct<.*: neither texts, numbers nor lists'
        ):
            read_table(file, Columns(asked, label="2"), labelled=True)
    with pytest.raises(UserError, match="none that is called 6"):
        read_table(file, Columns("6", label="2"), labelled=True)


def test_words_have_labels_by_name(tmp_path):
    columns = {"id": ["0", "1"], "tokens": [["a", "b"], ["c"]], "ner_tags": [[0, 1], [0]]}
    names = {"ner_tags": {"feature": {"names": ["O", "B-X"], "_type": "ClassLabel"}, "_type": "Sequence"}}
    file = put(tmp_path / "train.parquet", columns, names)
    table = read_tagged(file, Columns(), labelled=True)
    assert [(one.text, one.label) for one in table.examples] == [("a b", ("O", "B-X")), ("c", ("O",))]
    assert table.classes == ("O", "B-X")
    assert has_tags(file)
    assert not has_tags(put(tmp_path / "texts.parquet", {"text": ["a"], "label": ["x"]}))


def test_classify_reads_texts_labels_or_pairs(tmp_path):
    columns = {"text": ["a", "b"], "label": [1, -1], "other": ["", ""]}
    file = put(tmp_path / "test.parquet", columns, {"label": NAMED})
    config = InferConfig(checkpoint="x", task="classify", file=file, label="label")
    lines = read_labelled(config, "text")
    assert (lines.texts, lines.labels, lines.names[1]) == (("a", "b"), ("neg", None), f"{file}: row 2")
    assert read_labelled(InferConfig(checkpoint="x", task="classify", file=file), "text").labels is None
    pairs = put(tmp_path / "pairs.parquet", {"text": ["a"], "text_b": ["b"]})
    assert read_labelled(InferConfig(checkpoint="x", task="classify", file=pairs), "text").pairs == ("b",)


def test_columns_that_are_not_chosen_are_not_read(tmp_path, monkeypatch):
    read = []
    monkeypatch.setattr(pq.ParquetFile, "iter_batches", lambda *_, columns, **__: read.append(columns) or [])
    file = put(tmp_path / "a.parquet", {"text": ["a"], "vector": [[1.0]], "label": ["x"]})
    assert list(parquet_records(tmp_path / "a.parquet", {"text", "label"})) == []
    with pytest.raises(UserError, match="holds no example; give one a row"):
        read_table(file, Columns(), labelled=True)
    assert read == [["text", "label"]] * 2


@pytest.mark.parametrize(
    ("columns", "given", "message"),
    [
        ({"text": ["a", None], "label": [0, 1]}, {}, 'a.parquet: row 2: the text in "text" is empty; remove it'),
        ({"text": ["a"], "label": [2]}, {}, 'row 1: column "label": label 2 has no name; the file names 2: pos, neg'),
        ({"text": ["a"], "label": [1]}, {"header": "yes"}, "names its columns itself; leave the header out"),
        ({"text": ["a"], "label": [1]}, {"label": "kind"}, "it has the columns text, label, and none that is called"),
        ({"text": [1, 2], "label": [1, 0]}, {}, 'row 1: field "text" is int, not a text'),
    ],
)
def test_what_is_refused(tmp_path, columns, given, message):
    file = put(tmp_path / "a.parquet", columns, {"label": NAMED})
    with pytest.raises(UserError, match=message):
        read_table(file, Columns(**given), labelled=True)


def not_text():
    places = pa.py_buffer(np.array([0, 1, 3], np.int32).tobytes())
    return pa.StringArray.from_buffers(2, places, pa.py_buffer(b"a\xff\xfe"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (lambda: pa.ListArray.from_arrays([0, 1, 2], not_text()), "row group 1 of 1, row 2: not UTF-8 text"),
        (lambda: pa.array([["a"], ["b\0"]]), "row 2: its text holds NUL characters"),
        (lambda: pa.array([["a"], ["b" * 11]]), "row 2: its text is longer than"),
    ],
)
def test_words_that_are_no_text_are_refused(tmp_path, monkeypatch, words, message):
    monkeypatch.setattr(lines, "LARGEST", 10)
    file = put(tmp_path / "a.parquet", {"tokens": words(), "tags": [["O"], ["O"]]})
    with pytest.raises(UserError, match=message):
        read_tagged(file, Columns(), labelled=True)


def test_an_archive_and_two_columns_of_one_name_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"a.parquet.gz: Parquet is compressed within .* unpack it"):
        read_table(str(tmp_path / "a.parquet.gz"), Columns(), labelled=True)
    table = pa.Table.from_arrays([pa.array(["a"])] * 2, names=["text", "text"])
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(UserError, match=re.escape('a.parquet: two columns are called "text"')):
        read_table(str(tmp_path / "a.parquet"), Columns(), labelled=True)
