"""infer.py line by line: CSV on standard output, what it took on standard error, bad input in one line."""

import csv
import io
import re

import pytest
from tiny_runs import TOKENIZER, model_config, write_run

from jaxode.config import DepthConfig, InferConfig, UserError
from jaxode.inference import memory, score_texts
from jaxode.inference.tasks.line_tables import read_labelled, read_lines

TEXT = "one block\n\nagain, again\r\n  \nto the end"
TEXTS = ["one block", "again, again", "to the end"]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "texts.txt"
    path.write_bytes(TEXT.encode())
    return path


def refused(ran):
    """Exit code 2 and no result; returns the last line, before which only the run is named."""
    assert (ran.code, ran.out) == (2, "")
    *notes, last = ran.err.splitlines()
    assert all(note.startswith("run ") for note in notes), ran.err
    assert last.startswith("error: ")
    return last


def test_lines_of_a_file(file, tmp_path):
    lines = read_lines(str(file))
    assert (lines.texts, lines.numbers, lines.blank) == (tuple(TEXTS), (1, 3, 5), 2)
    assert lines.names[1] == f"{file}: line 3"
    # a line ends where other programs end it
    (tmp_path / "odd").write_text("a\u2028b\x0bc\n", encoding="utf-8")
    assert read_lines(str(tmp_path / "odd")).texts == ("a\u2028b\x0bc",)


def test_lines_are_numbered_as_other_programs_count_them(tmp_path):
    path = tmp_path / "texts"
    path.write_bytes(b"\xef\xbb\xbfone\rstill one\r\n\r\ntwo\tcolumns\n")
    lines = read_lines(str(path))
    assert (lines.texts, lines.numbers, lines.blank) == (("one\rstill one", "two\tcolumns"), (1, 3), 1)


def test_lines_of_json_are_their_texts(infer, tmp_path):
    run = write_run(tmp_path / "run", model_config("causal"), text_key="body")
    (tmp_path / "a.JSONL").write_text('{"body": "one block"}\n\n{"body": "to\\tthe\\nend"}\n')
    lines = read_lines(str(tmp_path / "a.JSONL"), "body", classified=True)
    assert (lines.texts, lines.numbers, lines.blank) == (("one block", "to\tthe\nend"), (1, 3), 1)
    ran = infer("--checkpoint", run, "--task", "score", "--lines", "--file", tmp_path / "a.JSONL")
    assert [row.split(",")[:2] for row in ran.out.splitlines()[1:]] == [["1", "9"], ["3", "10"]]


def test_words_with_labels_are_read_as_their_sentences(tmp_path):
    path = tmp_path / "words.conll"
    path.write_text("a\tX\nfilm\tO\n\nb\tX\n")
    for classified in (False, True):
        lines = read_lines(str(path), classified=classified)
        assert (lines.texts, lines.numbers, lines.labels) == (("a film", "b"), (1, 4), None)


def test_lines_of_json_are_read_by_common_names_as_tables_are(tmp_path):
    path = tmp_path / "a.jsonl"
    config = InferConfig(checkpoint="x", task="classify", file=str(path))
    path.write_text('{"sentence": "good film"}\n')
    assert read_labelled(config, "text").texts == ("good film",)
    path.write_text('{"text": "first"}\n{"text": "a", "sentence2": "b"}\n')
    with pytest.raises(UserError, match='line 2 has a second text, "sentence2", and the lines before it none'):
        read_labelled(config, "text")


def test_a_tab_is_refused_where_texts_are_labelled(tmp_path):
    path = tmp_path / "pairs"
    path.write_text("good film\n\ngood film\tbad film\n")
    assert read_lines(str(path)).numbers == (1, 3)
    with pytest.raises(UserError, match="pairs: line 3 holds a tab: give one text a line"):
        read_lines(str(path), classified=True)


@pytest.mark.broad
@pytest.mark.parametrize("kind", ["causal", "masked"])
@pytest.mark.parametrize("steps", [None, 2])
def test_score_by_line(infer, runs, causal, masked, file, kind, steps):
    flags = ("--checkpoint", runs[kind], "--task", "score", "--lines", "--file", file, "--batch-size", 2)
    ran = infer(*flags, *(("--steps", steps) if steps else ()))
    assert ran.code == 0, ran.err
    header, *rows = csv.reader(io.StringIO(ran.out))
    assert header == ["line", "tokens", "nats", "nats_per_token"]
    model = {"causal": causal, "masked": masked}[kind]
    want = score_texts(*model, TOKENIZER, TEXTS, depth=DepthConfig(steps=steps), batch_size=2).scores
    assert [(int(row[0]), int(row[1])) for row in rows] == [(1, 9), (3, 12), (5, 10)]
    assert [float(row[2]) for row in rows] == pytest.approx([one.nats for one in want], rel=1e-6)
    assert [float(row[3]) for row in rows] == pytest.approx([one.nats_per_token for one in want], rel=1e-6)
    about, *meaning, blank, speed, cost = ran.err.splitlines()
    assert about.startswith(f"run {runs[kind]}, step 7: {kind}")
    assert meaning == (["2 steps of N = 4: h = 2, each step stands for 2 of training"] if steps else [])
    assert blank == "blank lines passed over: 2"
    count = 3 if kind == "causal" else 31
    assert re.fullmatch(
        rf"[\d.e+-]+ texts/s: 3 texts, {count} rows, [\d.]+ s, of which [\d.]+ s in the first .*", speed
    )
    assert cost.startswith(f"steps {steps or 4} (euler): {steps or 4} block evaluations a token")


def test_long_lines_are_cut_only_when_asked(infer, runs, tmp_path):
    path = tmp_path / "long.txt"
    path.write_text("short\n" + "x" * 40 + "\n" + "y" * 17)
    flags = ("--checkpoint", runs["causal"], "--task", "score", "--lines", "--file", path)
    assert refused(infer(*flags)) == (
        f"error: {path}: line 2 has 40 tokens, the model reads at most model.length = 16; 2 of 3 texts are too long: "
        "shorten them, or cut them with --truncate"
    )
    ran = infer(*flags, "--truncate")
    assert [row.split(",")[1] for row in ran.out.splitlines()[1:]] == ["5", "16", "16"]
    assert "texts cut to the length that the model reads: 2\n" in ran.err


def test_documents_that_were_kept_apart(infer, tmp_path):
    run = write_run(tmp_path / "run", model_config("causal"), document_mask=True)
    (tmp_path / "a").write_text("abc\nd\n")
    message = refused(infer("--checkpoint", run, "--task", "score", "--lines", "--file", tmp_path / "a"))
    assert f"{tmp_path / 'a'}: line 2 has one token" in message


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "is empty"), (b" \n\n", "is empty"), (b"\xff\xfe\x00", "not UTF-8"), (None, "No such")],
)
def test_files_without_texts(infer, runs, tmp_path, content, message):
    path = tmp_path / "bad"
    if content is not None:
        path.write_bytes(content)
    ran = infer("--checkpoint", runs["causal"], "--task", "score", "--lines", "--file", path)
    assert message in refused(ran)
    # before the weights are read
    assert len(ran.err.splitlines()) == 1


def test_too_many_rows_for_memory(infer, runs, file, monkeypatch):
    monkeypatch.setattr(memory, "available_memory", lambda: 10_000)
    message = refused(infer("--checkpoint", runs["causal"], "--task", "score", "--lines", "--file", file))
    assert "are available: use shorter texts" in message


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--task", "classify"), "task = classify needs --file"),
        (("--task", "score", "--lines"), "task = score needs --file"),
        (("--task", "classify", "--file", "a", "--lines"), "lines = true with task = classify: only score reads it"),
        (("--lines",), "lines = true with task = generate: only score reads it; give --task score"),
        (
            ("--task", "score", "--file", "a", "--batch-size", 4),
            "batch_size = 4 with task = score: counts for it with --lines",
        ),
        (("--batch-size", 4), "batch_size = 4 with task = generate"),
        (("--truncate",), "truncate = true with task = generate"),
        (("--task", "classify", "--file", "a", "--batch-size", 0), "batch_size = 0: must be at least 1"),
        (("--task", "sweep", "--truncate"), "truncate = true with task = sweep"),
        (("--task", "report", "--frame", "a b"), 'frame = "a b" with task = report'),
        (("--task", "calibrate", "--steps", 2, "--batch-size", 4), "batch_size = 4 with task = calibrate"),
        (("--task", "bench", "--frame", "none"), 'frame = "none" with task = bench'),
        (
            ("--task", "score", "--file", "a", "--pooling", "first"),
            'pooling = "first" with task = score: only encode reads it',
        ),
        (("--task", "encode", "--file", "a"), "task = encode: name the file for the vectors"),
        (
            ("--task", "encode", "--file", "a", "--out", "v.npz", "--frame", "a b c"),
            "give two entries of the vocabulary",
        ),
    ],
)
def test_flags_of_another_task(infer, flags, message):
    ran = infer(*flags)
    assert (ran.code, ran.out) == (2, "")
    # the parser may break the line
    assert message in re.sub(r"[\s│]+", " ", ran.err)


def test_a_run_has_no_labels(infer, runs, file):
    ran = infer("--checkpoint", runs["masked"], "--task", "classify", "--file", file)
    assert "has no classifier head; name the folder of a Hugging Face AlbertForSequenceClassification" in refused(ran)
    assert len(ran.err.splitlines()) == 1


def test_a_solver_with_steps_of_its_own_is_refused(infer, runs, file):
    flags = ("--checkpoint", runs["masked"], "--task", "score", "--lines", "--file", file, "--solver", "tsit5")
    assert "chooses its steps for a batch as a whole" in refused(infer(*flags))


def test_a_folder_is_no_file_of_texts(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        read_lines(str(tmp_path))
