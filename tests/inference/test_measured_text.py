"""A file is read as one of the run's corpus is: the same documents, the same refusals."""

import gzip

import numpy as np
import pytest
from tiny_runs import LENGTH, TOKENIZER, fails, model_config, write_run

from jaxode.checkpoint import load_run
from jaxode.config import DataConfig
from jaxode.data import BatchSpec, prepare, text_batches
from jaxode.inference.loading.export import read_notes
from jaxode.inference.tasks.measured_text import file_text

DOCUMENTS = ["Once upon a time there was a king\n", "The old man\n"]
FILES = {
    "separated.txt": b"Once upon a time there was a king\n---\nThe old man\n",
    "windows.txt": b"\xef\xbb\xbfOnce upon a time there was a king\r\n---\r\nThe old man\r\n",
    "lines.jsonl": b'{"body": "Once upon a time there was a king\\n"}\n{"body": "The old man\\n"}\n',
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts") / "run"
    return load_run(write_run(folder, model_config("causal"), separator="---", text_key="body"))


def tokens(batches):
    return np.concatenate([batch.tokens for batch in batches])


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("packed", [False, True])
def test_a_file_gives_the_documents_that_training_would_read(trained, tmp_path, name, packed):
    path = tmp_path / (f"{name}.GZ" if packed else name)
    path.write_bytes(gzip.compress(FILES[name], mtime=0) if packed else FILES[name])
    # a carriage return before a line feed is text for both
    want = [text.replace("\n", "\r\n") if name == "windows.txt" else text for text in DOCUMENTS]
    scored = text_batches(want, BatchSpec(TOKENIZER), LENGTH, 2)
    found = file_text(trained, str(path))
    assert np.array_equal(tokens(found.batches), tokens(scored.batches))
    assert found.bytes_per_token == 1 / scored.stats.tokens_per_byte


def test_a_validation_file_scores_as_it_did_in_training(tmp_path):
    folder = tmp_path / "books"
    folder.mkdir()
    for name in ("train-0.txt", "valid.txt"):
        (folder / name).write_bytes(b"\xef\xbb\xbfa king\r\n\r\n<|endofbook|>\nan old\rman\n")
    run = write_run(tmp_path / "run", model_config("causal"), separator="<|endofbook|>")
    data = DataConfig(corpus="books", root=str(tmp_path), tokenizer="bytes", cache=str(tmp_path / "cache"))
    validation = prepare(data, LENGTH, "causal", progress=False)
    found = file_text(load_run(run), str(folder / "valid.txt"))
    assert np.array_equal(tokens(found.batches), tokens(validation.validation(2)))
    assert found.bytes_per_token == validation.bytes_per_token("validation")


@pytest.mark.parametrize("stride", [0, 4])
def test_the_first_batches_of_a_file(trained, tmp_path, stride):
    path = tmp_path / "text.txt"
    path.write_text("Once upon a time " * 40)
    everything = list(file_text(trained, str(path), stride=stride).batches)
    first = list(file_text(trained, str(path), 2, stride=stride).batches)
    assert len(everything) > len(first) == 2
    if stride:
        assert np.array_equal(tokens(first), tokens(everything[:2]))


@pytest.mark.parametrize(
    "task",
    [("score",), ("score", "--lines"), ("sweep",), ("calibrate", "--steps", 2), ("report",)],
    ids=lambda task: "-".join(map(str, task)),
)
@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.tsv", b"0\tgood film\n", "a.tsv: is a table (.tsv), which only classify reads"),
        ("a.CSV.gz", gzip.compress(b"0,good film\n", mtime=0), "a.CSV.gz: is a table (.csv)"),
        ("a.txt", b"good\0film\n", "not UTF-8 text (it holds NUL bytes)"),
        ("a.json", b'["good film"]\n', "a.json: its first line is no JSON object"),
    ],
)
def test_what_training_refuses_is_refused_by_every_task(infer, copy, tmp_path, task, name, content, message):
    (tmp_path / name).write_bytes(content)
    assert message in fails(infer("--checkpoint", copy, "--task", *task, "--file", tmp_path / name))


def test_notes_are_text_without_their_byte_order_mark(tmp_path, monkeypatch):
    (tmp_path / "notes.md").write_bytes(b"\xef\xbb\xbfFrom afar.\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert read_notes("~/notes.md") == "From afar.\n"


def test_whole_texts_that_are_cut_are_told_of(tmp_path):
    run = load_run(write_run(tmp_path / "run", model_config("causal"), rows="texts"))
    path = tmp_path / "long.txt"
    path.write_text("a" * (LENGTH + 1))
    found = file_text(run, str(path))
    assert found.note == (
        f"1 of 1 texts are longer than model.length = {LENGTH} with what stands around them, and were cut to it"
    )
    # of a part of the text there are no bits per byte
    assert found.bytes_per_token is None
    path.write_text("a" * LENGTH)
    found = file_text(run, str(path))
    assert (found.note, found.bytes_per_token) == (None, 1.0)
