"""The folder of a Hugging Face tokenizer: the class it names, and its files in the form that transformers reads."""

import json
import os
from pathlib import Path

import pytest

from jaxode.data.tokenizer_files import quiet, readable, reason, tokenizer_class

MARK = b"\xef\xbb\xbf"


def test_the_class_of_the_tokenizer_comes_before_that_of_the_model(tmp_path: Path):
    assert tokenizer_class(tmp_path) is None
    (tmp_path / "config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    assert tokenizer_class(tmp_path) == "BertTokenizer"
    (tmp_path / "tokenizer_config.json").write_bytes(MARK + b'{"tokenizer_class": "XLNetTokenizer"}')
    assert tokenizer_class(tmp_path) == "XLNetTokenizer"
    for damaged in ("{", "[]", '{"tokenizer_class": ["BertTokenizer"]}'):
        (tmp_path / "tokenizer_config.json").write_text(damaged)
        assert tokenizer_class(tmp_path) == "BertTokenizer"


def test_a_folder_that_transformers_can_read_is_read_itself(tmp_path: Path):
    (tmp_path / "tokenizer.json").write_text("{}")
    with readable(tmp_path) as files:
        assert files == tmp_path


def test_marks_and_odd_names_are_read_from_a_copy_without_weights(tmp_path: Path):
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    (folder / "tokenizer.json").write_bytes(MARK + b"{}")
    (folder / "model.safetensors").write_bytes(b"large")
    with readable(folder) as files:
        assert {path.name: path.read_bytes() for path in files.iterdir()} == {"tokenizer.json": b"{}"}
    assert not files.exists()
    assert (folder / "tokenizer.json").read_bytes().startswith(MARK)


@pytest.mark.parametrize("installed", [True, False])
def test_a_missing_package_is_named_by_what_installs_it(installed: bool, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object() if installed else None)
    error = ValueError("`tiktoken` is required to read a `tiktoken` file.\nA paragraph.")
    assert ('pip install "jaxode[sentencepiece]"' in reason(error)) is not installed
    assert "\n" not in reason(error)
    assert reason(json.JSONDecodeError("no JSON", "", 0)) == "no JSON: line 1 column 1 (char 0)"


def test_transformers_is_as_loud_afterwards_as_before():
    from transformers import logging

    before = logging.get_verbosity()
    with quiet():
        assert logging.get_verbosity() > logging.ERROR
    assert logging.get_verbosity() == before
