"""The tokenizer of a Hugging Face ALBERT, whatever its files are called: read, saved as it was read, or refused."""

import dataclasses
import importlib.util
import json
import os
import shutil
import sys

import albert_folders
import pytest
from albert_folders import GIVEN, NORMAL, WORDS, rewrite, spiece

from jaxode import UserError, classify_texts, from_pretrained, save_pretrained
from jaxode.data import byte_tokenizer
from jaxode.data import from_pretrained as load_tokenizer
from jaxode.interop import files

TEXT, IDS = "Good film", [2, 5, 7, 3]
MARK = b"\xef\xbb\xbf"


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return albert_folders.write(tmp_path_factory.mktemp("albert") / "zh")


@pytest.fixture
def folder(source, tmp_path):
    """An ALBERT with a BERT's tokenizer, to change."""
    return shutil.copytree(source, tmp_path / "zh")


@pytest.fixture
def old(folder):
    """An ALBERT of which spiece.model is the only tokenizer."""
    for name in ("vocab.txt", "tokenizer_config.json"):
        (folder / name).unlink()
    words = [("\u2581good", -1, NORMAL), ("\u2581film", -2, NORMAL), ("\u2581", -3, NORMAL), ("a", -4, NORMAL)]
    (folder / "spiece.model").write_bytes(spiece(*words, ("b", -4, NORMAL)))
    return folder


def theirs(folder, text=TEXT):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(folder)).encode(text)


def refused(folder):
    with pytest.raises(UserError) as caught:
        from_pretrained(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_vocabulary_of_words_is_read_and_saved(folder, tmp_path):
    found = from_pretrained(folder)
    assert found.tokenizer.encode(TEXT, frame=True) == theirs(folder) == IDS
    again = save_pretrained(found, tmp_path / "again")
    assert {"vocab.txt", "tokenizer_config.json", "tokenizer.json"} <= {path.name for path in again.iterdir()}
    assert from_pretrained(again).tokenizer.encode(TEXT, frame=True) == theirs(again) == IDS


@pytest.mark.parametrize("name", ["BertTokenizer", "BertTokenizerFast"])
def test_the_class_may_stand_in_the_config_of_the_model(folder, tmp_path, name):
    (folder / "tokenizer_config.json").unlink()
    rewrite(folder, tokenizer_class=name)
    found = from_pretrained(folder)
    assert found.tokenizer.encode(TEXT, frame=True) == IDS
    again = save_pretrained(found, tmp_path / "again")
    assert from_pretrained(again).tokenizer.encode(TEXT, frame=True) == theirs(again) == IDS


def test_a_vocabulary_whose_class_nobody_names_is_refused(folder):
    (folder / "tokenizer_config.json").unlink()
    message = refused(folder)
    assert "neither tokenizer_config.json nor config.json names the class of the tokenizer that vocab.txt" in message
    assert '{"tokenizer_class": "BertTokenizer"}' in message
    (folder / "vocab.txt").unlink()
    assert from_pretrained(folder).tokenizer is None


@pytest.mark.parametrize("name", ["BertTokenizer", "AlbertTokenizer"])
def test_a_missing_vocabulary_is_no_vocabulary_of_unknown_words(folder, name):
    (folder / "vocab.txt").unlink()
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": name}))
    assert f"knows no token but its 5 special ones as a {name}: its vocabulary is missing" in refused(folder)
    with pytest.raises(UserError, match="knows no token but its 5 special ones"):
        load_tokenizer(str(folder))


def test_a_class_that_reads_no_words_is_refused(folder):
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "AlbertTokenizer"}))
    assert "its vocabulary is missing, or belongs to another class" in refused(folder)
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "NoSuchTokenizer"}))
    assert "none of its files holds a vocabulary that its class reads" in refused(folder)


@pytest.mark.parametrize(
    ("size", "fits"), [(10, True), (16, True), (128, True), (1024, True), (20, True), (100, False)]
)
def test_a_tokenizer_far_smaller_than_the_vocabulary_is_refused(tmp_path, monkeypatch, size, fits):
    """Padding to a multiple, or a few tokens that nobody uses, are no reason."""
    monkeypatch.setattr(albert_folders, "FORM", dataclasses.replace(albert_folders.FORM, vocab_size=size))
    folder = albert_folders.write(tmp_path / "padded")
    if fits:
        assert from_pretrained(folder).tokenizer.vocab_size == len(WORDS)
    else:
        assert "its tokenizer has 10 tokens, the model's vocabulary 100; most words would be unknown" in refused(folder)


def test_another_tokenizer_is_the_one_that_is_saved(source, tmp_path):
    found = dataclasses.replace(from_pretrained(source), tokenizer=byte_tokenizer())
    with pytest.raises(UserError, match="its tokenizer has 259 tokens, the model's vocabulary 10"):
        save_pretrained(found, tmp_path / "larger")
    assert not (tmp_path / "larger").exists()
    words = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "film", "good")
    other = shutil.copytree(source, tmp_path / "other")
    (other / "vocab.txt").write_text("\n".join(words))
    tokenizer = load_tokenizer(str(other))
    again = save_pretrained(dataclasses.replace(found, tokenizer=tokenizer), tmp_path / "again")
    back = from_pretrained(again).tokenizer
    assert back.encode(TEXT, frame=True) == theirs(again) == [2, 6, 5, 3]
    assert (back.pad_id, back.end_id, back.mask_id) == (0, 3, 4)
    bare = save_pretrained(dataclasses.replace(found, tokenizer=None), tmp_path / "bare")
    assert from_pretrained(bare).tokenizer is None


def test_a_tokenizer_outlives_its_folder(folder, tmp_path):
    found = from_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(reversed(WORDS)))
    changed = save_pretrained(found, tmp_path / "changed")
    assert from_pretrained(changed).tokenizer.encode(TEXT, frame=True) == theirs(changed) == IDS
    shutil.rmtree(folder)
    assert theirs(save_pretrained(found, tmp_path / "gone")) == IDS


def test_pieces_alone_are_read_and_saved(old, tmp_path, capfd, monkeypatch):
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    found = from_pretrained(old)
    assert found.tokenizer.encode(TEXT, frame=True) == [2, 5, 6, 3]
    assert capfd.readouterr().err == ""
    again = save_pretrained(found, tmp_path / "again")
    assert from_pretrained(again).tokenizer.encode(TEXT, frame=True) == theirs(again) == [2, 5, 6, 3]


def test_pieces_keep_case_and_accents_where_their_config_says_so(old):
    words = ["good", "Good", "b\u00e9", "be"]
    pieces = [(f"\u2581{word}", -1, NORMAL) for word in words]
    (old / "spiece.model").write_bytes(spiece(*pieces, ("\u2581", -9, NORMAL)))
    at = {word: 5 + index for index, word in enumerate(words)}
    for settings, want in (
        ({}, ["good", "be"]),
        ({"do_lower_case": False}, ["Good", "be"]),
        ({"keep_accents": True}, ["good", "b\u00e9"]),
        ({"do_lower_case": False, "keep_accents": True}, ["Good", "b\u00e9"]),
    ):
        (old / "tokenizer_config.json").write_text(json.dumps(settings))
        assert from_pretrained(old).tokenizer.encode("Good b\u00e9") == [at[word] for word in want], settings


def test_pieces_that_the_trainer_was_given_do_not_part_a_text(old):
    """As the package cuts them: a word after a parenthesis does not begin with a space."""
    pieces = [("(", 0, GIVEN), ("\u2581", -2, NORMAL), ("good", -3, NORMAL), ("\u2581good", -3, NORMAL)]
    (old / "spiece.model").write_bytes(spiece(*pieces))
    assert from_pretrained(old).tokenizer.encode("(good") == [6, 5, 7]


def test_pieces_of_another_model_say_what_to_install(old, capfd, monkeypatch):
    found = importlib.util.find_spec
    # this package alone: transformers remembers for good what it did not find
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name, *a: None if name == "sentencepiece" else found(name, *a)
    )
    monkeypatch.setattr(
        "transformers.AutoTokenizer.from_pretrained",
        lambda *_, **__: (_ for _ in ()).throw(ValueError("`tiktoken` is required to read a `tiktoken` file.\nMore")),
    )
    capfd.readouterr()  # of its first import
    assert 'its SentencePiece model needs a package: pip install "jaxode[sentencepiece]"' in refused(old)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("content", [b"", b"\xff\xfe no pieces"])
def test_damaged_pieces_are_refused(old, content):
    (old / "spiece.model").write_bytes(content)
    assert f"{old}: its tokenizer cannot be loaded (" in refused(old)


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "vocab.txt"])
def test_a_byte_order_mark_is_no_part_of_a_file(folder, tmp_path, name):
    (folder / name).write_bytes(MARK + (folder / name).read_bytes())
    found = from_pretrained(folder)
    assert found.tokenizer.encode(TEXT, frame=True) == IDS
    again = save_pretrained(found, tmp_path / "again")
    assert from_pretrained(again).tokenizer.encode(TEXT, frame=True) == theirs(again) == IDS


def test_a_folder_may_have_any_name(folder, tmp_path):
    strange = folder.rename(tmp_path / os.fsdecode(b"caf\xe9"))
    found = from_pretrained(strange)
    assert found.tokenizer.encode(TEXT, frame=True) == IDS
    again = save_pretrained(found, tmp_path / os.fsdecode(b"again\xe9"))
    back = from_pretrained(again)
    assert back.tokenizer.encode(TEXT, frame=True) == IDS
    assert back.params.keys() == found.params.keys()
    (strange / "vocab.txt").write_bytes(b"caf\xe9")
    assert "its tokenizer cannot be loaded (" in refused(strange)


def test_texts_are_framed_where_the_model_was_trained_so(tmp_path):
    found = from_pretrained(albert_folders.write(tmp_path / "classifier", classes=2))
    assert found.tokenizer.framed
    model = found.architecture, found.params, found.tokenizer
    default, framed, bare = (classify_texts(*model, [TEXT], frame=frame).classes for frame in (None, True, False))
    assert default == framed
    assert default != bare
    assert not load_tokenizer(str(tmp_path / "classifier")).framed


def test_the_vocabulary_is_fetched_with_the_rest(source, monkeypatch):
    asked = []

    def fetch(name, *, allow_patterns=(), local_files_only=False):
        if local_files_only:
            raise FileNotFoundError(name)
        asked.extend(allow_patterns)
        return str(source)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    monkeypatch.setattr(files, "hub_reachable", lambda: True)
    assert from_pretrained("author/albert").tokenizer.encode(TEXT, frame=True) == IDS
    assert {"config.json", "vocab.txt", "spiece.model", "tokenizer.json"} <= set(asked)
