"""Words with labels: files of columns and of JSON, and rows whose labels stand at the words' first tokens."""

import json

import numpy as np
import pytest

from jaxode.config import DataConfig, ModelConfig, UserError
from jaxode.data import byte_tokenizer
from jaxode.data.batches import BatchSpec, ValidationBatches
from jaxode.data.columns import Columns
from jaxode.data.labelled import prepare_labelled
from jaxode.data.tagged import read_tagged, word_tokens

CONLL = "-DOCSTART- -X- O\n\nEU NNP B-ORG\nrejects VBZ O\n\n\n# a note\nJaxon NNP B-PER\n"


def read(path, content, labelled=True, **columns):
    path.write_text(content, encoding="utf-8")
    return read_tagged(str(path), Columns(**columns), labelled=labelled)


def found(table):
    return [(example.text, example.label, example.line) for example in table.examples]


def test_columns_as_conll_has_them(tmp_path):
    table = read(tmp_path / "a.conll", CONLL)
    assert found(table) == [("EU rejects", ("B-ORG", "O"), 3), ("Jaxon", ("B-PER",), 8)]
    assert found(read(tmp_path / "a.conll", CONLL, label="2"))[0][1] == ("NNP", "VBZ")
    assert found(read(tmp_path / "a.conll", CONLL, labelled=False))[0] == ("EU rejects", None, 3)
    # a tab divides, and a space then belongs to nothing
    for name in ("a.txt", "a.tsv"):
        assert found(read(tmp_path / name, "EU\tB-ORG\nsays\tO\n"))[0][1] == ("B-ORG", "O")
    assert found(read(tmp_path / "a.tsv", "EU\tB-ORG\nsays\tO\n", labelled=False)) == [("EU says", None, 1)]


CONLLU = """# newdoc
# text = au # lac a b c d e f
1-2\tau\t_\t_\t_\t_\t_\t_\t_\t_
1\tà\tà\tADP\tP\t_\t0\troot\t_\t_
2\tle\tle\tDET\tD\t_\t1\tdet\t_\t_
2.1\tvu\tvoir\tVERB\tV\t_\t_\t_\t_\t_
3\t#\t#\tSYM\tS\t_\t1\tdep\t_\t_

#
1\tlac\tlac\tNOUN\tN\t_\t0\troot\t_\t_
"""


def test_columns_as_universal_dependencies_have_them(tmp_path):
    file = tmp_path / "a.conllu"
    assert found(read(file, CONLLU)) == [("à le #", ("ADP", "DET", "SYM"), 4), ("lac", ("NOUN",), 10)]
    assert found(read(file, CONLLU, label="5"))[0][1] == ("P", "D", "S")
    assert found(read(file, CONLLU, labelled=False)) == [("à le #", None, 4), ("lac", None, 10)]


def test_a_number_sign_is_a_word_where_no_comment_stands(tmp_path):
    text = "# O\nwin B\n# O\n\n# of 2 games\n# note\nnow O\n"
    for division in (" ", "\t"):
        lines = text.replace(" O", f"{division}O").replace(" B", f"{division}B")
        assert found(read(tmp_path / "a.conll", lines)) == [("# win #", ("O", "B", "O"), 1), ("now", ("O",), 7)]
        assert found(read(tmp_path / "a.conll", lines, labelled=False))[0] == ("# win #", None, 1)


def test_lists_of_json(tmp_path):
    lines = [{"tokens": ["EU", "says"], "ner_tags": ["B", "O"]}, {"tokens": ["no"], "ner_tags": [1]}]
    text = "\n".join(map(json.dumps, lines))
    assert found(read(tmp_path / "a.jsonl", text)) == [("EU says", ("B", "O"), 1), ("no", ("1",), 2)]
    text = '{"x": ["a", "b"], "y": ["1", "2"]}'
    assert found(read(tmp_path / "a.jsonl", text, text="x", label="y")) == [("a b", ("1", "2"), 1)]


def test_plain_lines_are_sentences_where_no_labels_are_read(tmp_path):
    assert found(read(tmp_path / "a.txt", "a  b\n\n c\n", labelled=False)) == [("a b", None, 1), ("c", None, 3)]


@pytest.mark.parametrize(
    ("name", "content", "columns", "message"),
    [
        ("a.conll", "EU\n", {}, "line 1 has a word and no label behind it"),
        ("a.conll", "EU O\n", {"label": "3"}, "line 1 has 2 columns, and none of number 3"),
        ("a.conll", "EU O\n", {"label": "tags"}, "label = tags: columns of words have numbers, from 1"),
        ("a.tsv", "word\ttag\nEU\tO\n", {}, "line 1 is a header, and words with labels have none; remove it"),
        ("a.conll", "id w t\n\n1 a X\n", {"text": "2", "label": "2"}, "column 2 for the word and for its label"),
        ("a.conll", "EU NNP B\nsays VBZ\n", {}, "line 2 has 2 columns, line 1 has 3: give every word as many"),
        ("a.conll", "EU B\n# a note\nsays O\n", {}, "line 2 has 3 columns, line 1 has 2"),
        ("a.conllu", "EU B\n", {}, "line 1 has 2 columns, and none of number 4"),
        ("a.csv", "EU,O\n", {}, r"labels of words are read from JSON lines \(.jsonl\) and from a word a line"),
        ("a.conll", "\n\n", {}, "holds no sentence; give words with labels"),
        ("a.conll", "a\tO\n\tO\n", {}, "line 2: '' is no word; give one a line"),
        ("a.conll", "a O\n", {"pair": "2"}, "words with labels have neither pairs, a header"),
        ("a.jsonl", '{"tokens": ["a", "b"], "tags": ["O"]}', {}, "line 1 has 2 words and 1 labels; give one a word"),
        ("a.jsonl", '{"tokens": ["a b"], "tags": ["O"]}', {}, "line 1: the word 'a b' is empty or holds white space"),
        ("a.jsonl", '{"tokens": "a b", "tags": ["O"]}', {}, "line 1: its words are no list of texts"),
        ("a.jsonl", '{"tokens": ["a"], "other": ["O"]}', {}, "has the fields tokens, other: which holds the labels"),
        ("a.jsonl", '{"tokens": ["a\\u0000"], "tags": ["O"]}', {}, "line 1: its text holds NUL characters"),
        ("a.jsonl", '{"tokens": ["a"], "tags": ["\\ud800"]}', {}, "line 1: a label is not Unicode text"),
        ("a.jsonl", '{"tokens": ["a"], "tags": [null]}', {}, "line 1: label None is none"),
    ],
)
def test_files_that_do_not_fit(tmp_path, name, content, columns, message):
    with pytest.raises(UserError, match=message):
        read(tmp_path / name, content, **columns)


@pytest.mark.parametrize(
    ("name", "content", "columns", "message"),
    [
        ("a.tsv", "word\ttag\nEU\tO\n", {}, "line 1 is a header"),
        ("a.txt", "EU says\n", {"text": "2"}, r"a.txt: has a sentence a line, and no column 2 \(data.text, --text\)"),
        ("a.txt", "EU says\n", {"label": "2"}, r"a sentence a line, and no column 2 \(data.label, --label\)"),
    ],
)
def test_files_that_do_not_fit_without_labels(tmp_path, name, content, columns, message):
    with pytest.raises(UserError, match=message):
        read(tmp_path / name, content, labelled=False, **columns)


def test_a_word_is_where_its_first_token_is():
    tokenizer = byte_tokenizer()
    ((ids, firsts),) = word_tokens(tokenizer, ["aé bc d"], ["it"])
    assert [tokenizer.decode([ids[i]]) for i in (firsts[0], firsts[2])] == ["a", "d"]
    # the letters of a word are bytes, and a space is one too
    assert firsts == [0, 4, 7]
    assert len(ids) == len("aé bc d".encode())


def prepared(tmp_path, text, tokenizer="bytes", length=16, **data):
    (tmp_path / "train.conll").write_text(text)
    settings = DataConfig(train=str(tmp_path / "train.conll"), tokenizer=tokenizer, valid_fraction=0.5, **data)
    return prepare_labelled(settings, ModelConfig(kind="masked", head="token_classifier", length=length))


def test_labels_stand_at_first_tokens_and_nowhere_else(tmp_path):
    data = prepared(tmp_path, "ab X\nc Y\n\nab X\nc Y\n")
    assert data.labels == ("X", "Y")
    (batch,) = ValidationBatches(data.train_rows, BatchSpec(data.tokenizer, "token_classifier"), 1)
    places = np.flatnonzero(batch.weights[0])
    assert len(places) == 2
    assert batch.targets[0, places].tolist() == [0, 1]
    assert batch.segments[0].sum() == len("ab c")
    assert batch.tokens.shape == (1, 4)


def test_words_behind_the_end_of_a_row_have_no_label(tmp_path):
    data = prepared(tmp_path, "abcdef X\ng Y\nh X\n\nabcdef X\ng Y\nh X\n", length=8)
    assert data.stats["train"].cut == 1
    assert data.train_rows[0]["weights"].sum() == 2


def test_rare_labels_weigh_more_where_asked(tmp_path):
    data = prepared(tmp_path, "a X\nb X\nc X\nd Y\n\na X\nb X\nc X\nd Y\n", class_weights="balanced")
    weights = data.train_rows[0]["weights"]
    assert sorted(weights[weights > 0].tolist()) == pytest.approx([4 / 6, 4 / 6, 4 / 6, 2.0])


def test_a_single_label_is_nothing_to_learn(tmp_path):
    with pytest.raises(UserError, match="all labels are X: nothing to learn"):
        prepared(tmp_path, "a X\n\nb X\n")
