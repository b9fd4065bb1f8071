"""Labelled files: what is read, and what is refused with file and line."""

import csv
import gzip
import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxode.config import UserError
from jaxode.data import cells
from jaxode.data.columns import Columns
from jaxode.data.tables import Example, is_table, read_table

PLAIN = Columns()
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r"), min_size=1).filter(str.strip)
CELL = TEXT.filter(lambda text: not set(text) & set("\t\n"))


@pytest.fixture
def write(tmp_path):
    def make(name, text):
        path = tmp_path / name
        path.write_bytes(text.encode())
        return str(path)

    return make


def found(file, columns=PLAIN, labelled=True):
    return [(one.text, one.pair, one.label) for one in read_table(file, columns, labelled=labelled).examples]


@pytest.mark.parametrize(
    ("name", "text", "columns", "expected"),
    [
        ("glue.tsv", 'label\ttext_a\n0\ta "quote\n1\tb\n', PLAIN, [('a "quote', None, "0"), ("b", None, "1")]),
        ("rte.tsv", "index\tsentence1\tsentence2\tlabel\n0\ta\tb\tno\n", PLAIN, [("a", "b", "no")]),
        (
            "cola.tsv",
            "gj04\t1\t\ta b.\ngj04\t0\t*\tb a.\n",
            Columns("4", label="2"),
            [("a b.", None, "1"), ("b a.", None, "0")],
        ),
        (
            "named.csv",
            'Klasse,Satz\n"x,y","eins\nzwei"\n',
            Columns("Satz", label="Klasse"),
            [("eins\nzwei", None, "x,y")],
        ),
        # the only text of a pair
        ("half.tsv", "premise\thypothesis\tlabel\na\tb\t1\n", Columns("hypothesis"), [("b", None, "1")]),
        ("bare.csv", "good,0\nbad,1\n", Columns("1", label="2"), [("good", None, "0"), ("bad", None, "1")]),
        ("said.tsv", "a\tb\nc\td\n", Columns("1", label="2", header="yes"), [("c", None, "d")]),
        ("crlf.tsv", "label\ttext\r\n0\ta\r\n\r\n1\tb\r\n", PLAIN, [("a", None, "0"), ("b", None, "1")]),
        ("bom.csv", "\ufefftext,label\na,0\n", PLAIN, [("a", None, "0")]),
        ("quoted.tsv", 'text\tlabel\n"a\tb"\t1\n', Columns(quotes="yes"), [("a\tb", None, "1")]),
        (
            "some.jsonl",
            '{"text": "a", "label": 1}\n\n{"text": "b", "label": [0, 2]}\n',
            PLAIN,
            [("a", None, 1), ("b", None, [0, 2])],
        ),
        ("pair.jsonl", '{"premise": "a", "hypothesis": "b", "label": "x"}\n', PLAIN, [("a", "b", "x")]),
    ],
)
def test_tables_as_others_write_them(write, name, text, columns, expected):
    file = write(name, text)
    assert found(file, columns) == expected


@given(st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=5))
def test_what_a_csv_writer_wrote_is_read(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("csv") / "table.csv"
    text = io.StringIO()
    csv.writer(text).writerows([("text", "label"), *rows])
    path.write_text(text.getvalue(), encoding="utf-8", newline="")
    assert [(one.text, one.label) for one in read_table(str(path), PLAIN, labelled=True).examples] == rows


@given(st.lists(st.tuples(CELL, CELL), min_size=1, max_size=5))
def test_tabs_divide_cells_and_nothing_else_does(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("tsv") / "table.tsv"
    lines = ["text\tlabel", *("\t".join(row) for row in rows)]
    path.write_text("\n".join(lines), encoding="utf-8", newline="")
    assert [(one.text, one.label) for one in read_table(str(path), PLAIN, labelled=True).examples] == rows


def test_lines_are_those_of_the_file(write):
    file = write("a.csv", 'text,label\n"one\ntwo",0\n\nthree,1\n')
    assert [one.line for one in read_table(file, PLAIN, labelled=True).examples] == [2, 5]
    table = read_table(write("a.jsonl", '\n{"text": "a"}\n'), PLAIN, labelled=False)
    assert table.examples == (Example("a", None, None, 2),)
    assert table.names == (f"{table.file}: line 2",)
    assert not table.paired


def test_packed_tables_are_read(tmp_path):
    path = tmp_path / "a.tsv.gz"
    path.write_bytes(gzip.compress(b"text\tlabel\na\t1\n"))
    assert is_table(path)
    assert found(str(path)) == [("a", None, "1")]


def test_quotation_marks_that_are_text_are_told(write, capfd):
    assert found(write("a.tsv", 'text\tlabel\n"a"\t0\n"b"\t1\n')) == [('"a"', None, "0"), ('"b"', None, "1")]
    assert "texts stand in quotation marks, which are text in .tsv" in capfd.readouterr().err
    found(write("b.tsv", 'text\tlabel\n"a"\t0\nb\t1\n'))
    assert "quotation marks" not in capfd.readouterr().err


def test_a_single_column_needs_no_name(write):
    assert found(write("a.csv", "Satz,label\na,0\n")) == [("a", None, "0")]
    assert found(write("b.jsonl", json.dumps({"anything": "a"})), labelled=False) == [("a", None, None)]


@pytest.mark.parametrize(
    ("name", "text", "columns", "message"),
    [
        ("a.txt", "a", PLAIN, "is no table by its name"),
        ("a.tsv", "text\tlabel\na\n", PLAIN, "line 2 has 1 cells, the first line 2: a tab"),
        ("a.tsv", "text\tlabel\n\t1\n", PLAIN, 'line 2: the text in "text" is empty'),
        (
            "a.tsv",
            "text\tlabel\na\t1\n",
            Columns(label="class"),
            "columns text, label, and none that is called class",
        ),
        ("a.tsv", "text\tgrade\na\t1\n", PLAIN, "which holds the labels"),
        (
            "a.csv",
            "text;label\na;1\n",
            PLAIN,
            "line 1 is one cell, \"text;label\": .* by commas in .csv, .* not by ';'",
        ),
        ("a.tsv", "text,my label\na,1\n", Columns(label="my label"), "by tabs in .tsv, and not by ','"),
        ("a.tsv", "text\tlabel\ra\t1\r", PLAIN, "line 1 holds carriage returns: lines end with line feeds"),
        ("a.tsv", "Text\tLabel\na\t1\n", PLAIN, r"columns 1, 2 \(no header was seen in its first line; --header yes"),
        ("a.tsv", "1\t2\t3\n", PLAIN, "which holds the texts"),
        ("a.tsv", "text\ttext\na\tb\n", PLAIN, 'two columns are called "text"'),
        ("a.tsv", "text\tlabel\na\t1\n", Columns(pair="text"), "one column for two things"),
        ("a.csv", 'text,label\n"a,1\n', PLAIN, "unexpected end of data"),
        ("a.csv", 'text,label\n"a"b,1\n', PLAIN, "line 2: .*; see its quotation marks"),
        ("a.tsv", "text\tlabel\n", PLAIN, "holds no example"),
        ("a.jsonl", '{"text": 1, "label": 0}\n', PLAIN, 'line 1: field "text" is int, not a text'),
        ("a.jsonl", '{"text": "a", "label": 0}\n{"text": "a"}\n', PLAIN, 'line 2 lacks the field "label" of labels'),
        ("a.jsonl", '{"text": "\\ud800", "label": 0}\n', PLAIN, "lone surrogate"),
        ("a.jsonl", '{"text": "a", "label": "\\ud800"}\n', PLAIN, "lone surrogate"),
        (
            "a.jsonl",
            '{"text": "a\\u0000b", "label": 0}\n',
            PLAIN,
            'line 1: field "text" holds NUL characters; take them',
        ),
        ("a.jsonl", '{"text": "a", "label": "b\\u0000"}\n', PLAIN, "line 1: its label holds NUL characters"),
        ("a.jsonl", '{"text": "a", "label": ["b", "\\ud800"]}\n', PLAIN, "line 1: its label is not Unicode text"),
        ("a.tsv", "question\tsentence\tlabel\na\tb\t1\n", PLAIN, "sentence and question may hold the texts"),
        (
            "a.jsonl",
            '{"text": "a", "label": 0}\n{"text": "a", "text_b": "b", "label": 0}\n',
            PLAIN,
            "line 2 has a second",
        ),
        ("a.csv", "Class,Title\n1,a\n1,b\n2,c\n", Columns("2", label="1"), 'line 1: "Class" is the label of no other'),
        (
            "a.jsonl",
            '{"text": "a", "label": 0}',
            Columns(header="no"),
            "names its columns itself; leave the header out",
        ),
        ("a.jsonl", '{"text": "a", "label": 0}', Columns(quotes="no"), "has no cells that stand in quotation marks"),
        ("a.jsonl", "[1]\n", PLAIN, "line 1 has no column"),
        ("a.jsonl", "{\n", PLAIN, "line 1 is no JSON "),
    ],
)
def test_what_cannot_be_read_names_file_and_line(write, name, text, columns, message):
    file = write(name, text)
    with pytest.raises(UserError, match=message) as error:
        found(file, columns)
    assert file in str(error.value)


def test_long_cells_are_text(write, monkeypatch):
    text = "a" * 200_000
    before = csv.field_size_limit()
    assert found(write("a.csv", f"text,label\n{text},0\n")) == [(text, None, "0")]
    assert csv.field_size_limit() == before
    monkeypatch.setattr(cells, "LARGEST", 100_000)
    with pytest.raises(
        UserError, match=r"a.csv: line 2: a cell is longer than 128 MiB, .*: divide it, or leave it out"
    ):
        found(write("a.csv", f"text,label\n{text},0\n"))


def test_another_encoding_is_named(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_bytes("text\tlabel\nü\t1\n".encode("latin-1"))
    with pytest.raises(UserError, match="line 2: not UTF-8 text"):
        found(str(path))
    path.rename(tmp_path / "a.csv")
    with pytest.raises(UserError, match=r"a\.csv: line 2: not UTF-8 text"):
        found(str(tmp_path / "a.csv"))


def test_quotation_marks_that_look_like_none_are_told(write, capsys):
    text = 'text\tlabel\n"He said ""hi"" to me"\tpos\nplain\tneg\n'
    assert found(write("a.tsv", text))[0] == ('"He said ""hi"" to me"', None, "pos")
    assert "1 of 2 texts stand in quotation marks, which are text in .tsv; quotes yes" in capsys.readouterr().err
    assert found(write("a.tsv", text), Columns(quotes="yes"))[0] == ('He said "hi" to me', None, "pos")
    assert "quotation marks" not in capsys.readouterr().err


def test_a_header_that_nobody_named_is_told(write, capsys):
    file = write("a.tsv", "How are you?\tquestion\nFine.\tanswer\nWhat?\tquestion\n")
    assert len(found(file, Columns("1", label="2"))) == 2
    assert "line 1 is read as a header (How are you?, question); header no if it is none" in capsys.readouterr().err
    assert len(found(file, Columns("1", label="2", header="no"))) == 3
    assert capsys.readouterr().err == ""


def test_names_of_examples_are_made_once(tmp_path):
    """A name for each of 67,000 lines, made anew for each of them, takes minutes."""
    file = tmp_path / "a.csv"
    file.write_text("text,label\na,0\nb,1\n")
    table = read_table(str(file), Columns(), labelled=True)
    assert table.names == (f"{file}: line 2", f"{file}: line 3")
    assert table.names is table.names
