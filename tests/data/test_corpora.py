"""Every named corpus, every way of holding out, and one clear line for every bad input."""

import gzip
import json
import lzma
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

from jaxode.config import DataConfig, UserError
from jaxode.data import corpora, open_corpus, registered, stdlib
from jaxode.data.documents import read_documents


def texts_of(data: DataConfig, cache: Path) -> tuple[list[str], list[str]]:
    corpus = open_corpus(data, cache)
    return list(corpus.train), list(corpus.validation)


# --- documents of a file


def read(path: Path, **options: str) -> list[str]:
    return [document.text for document in read_documents(path, path.name, **options)]


@pytest.mark.parametrize("name", ["a.txt", "a.md", "a.py", "noending", "a.txt.gz", "a.txt.xz"])
def test_a_text_file_is_one_document_in_any_wrapping(tmp_path: Path, name: str):
    wrap = {".gz": gzip.compress, ".xz": lzma.compress}.get((tmp_path / name).suffix, bytes)
    (tmp_path / name).write_bytes(wrap("\ufeffé 漢\r\nline\n".encode()))
    assert read(tmp_path / name) == ["é 漢\r\nline\n"]


def test_a_separator_line_splits_a_file(tmp_path: Path):
    (tmp_path / "a.txt").write_text("one\n---\ntwo --- two\n---\n\n---\n--- no\n")
    assert read(tmp_path / "a.txt", separator="---") == ["one\n", "two --- two\n", "--- no\n"]


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.xz"])
def test_jsonl_is_one_document_a_line(tmp_path: Path, name: str):
    wrap = {".gz": gzip.compress, ".xz": lzma.compress}.get((tmp_path / name).suffix, bytes)
    lines = [json.dumps({"body": text, "n": 1}) for text in ("one\ntwo", "drei é")]
    (tmp_path / name).write_bytes(wrap("\n\n".join(lines).encode()))
    assert read(tmp_path / name, text_key="body") == ["one\ntwo", "drei é"]


LONG = ("some words that compress badly 0123456789 " * 50).encode()
BAD_FILES: dict[str, tuple[str, bytes, str]] = {
    "empty": ("a.txt", b"", "holds no text"),
    "blank": ("a.txt", b" \n\n", "holds no text"),
    "empty jsonl": ("a.jsonl", b"\n", "holds no text"),
    "nul": ("a.txt", b"text\0text", "NUL bytes"),
    "not utf-8": ("a.txt", b"caf\xe9", "not UTF-8"),
    "truncated gz": ("a.txt.gz", gzip.compress(LONG, mtime=0)[:-20], "truncated or damaged"),
    "truncated xz": ("a.txt.xz", lzma.compress(LONG)[:-20], "truncated or damaged"),
    "no gz at all": ("a.txt.gz", LONG, "truncated or damaged"),
    "no xz at all": ("a.txt.xz", LONG, "truncated or damaged"),
    "doubled key": (
        "a.jsonl",
        b'{"text": "a", "text": "b"}\n',
        'line 1 is no JSON ("text" stands there twice, with two values)',
    ),
    "no json": ("a.jsonl", b'{"text": "a"}\n{"text": ', "line 2 is no JSON"),
    "no object": ("a.jsonl", b'{"text": "a"}\n["b"]', 'line 2 lacks the field "text" (it has none)'),
    "no key": ("a.jsonl", b'{"text": "a"}\n{"body": "b"}', 'line 2 lacks the field "text" (it has body)'),
    "no string": ("a.jsonl", b'{"text": 3}', 'line 1: field "text" is int'),
    "surrogate": ("a.jsonl", b'{"text": "\\ud800"}', "lone surrogate"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_bad_file_is_named_in_one_line(tmp_path: Path, case: str):
    name, content, message = BAD_FILES[case]
    (tmp_path / name).write_bytes(content)
    cache = tmp_path / "cache"
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        open_corpus(DataConfig(files=str(tmp_path / "a.*")), cache)
    assert str(tmp_path / name) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not [path for path in cache.rglob("*") if path.is_file()], "nothing half-read is kept"


def test_an_unreadable_file(tmp_path: Path):
    with pytest.raises(UserError, match=r"gone\.txt: cannot be read"):
        read(tmp_path / "gone.txt")


# --- which files


def test_a_glob_crosses_folders_and_sorts(tmp_path: Path):
    for name in ("b/2.txt", "a/deep/1.txt", "3.txt", "4.md"):
        (tmp_path / "t" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "t" / name).write_text(name)
    train, validation = texts_of(DataConfig(files=str(tmp_path / "t/**/*.txt")), tmp_path / "cache")
    assert sorted(train + validation) == ["3.txt", "a/deep/1.txt", "b/2.txt"]
    assert len(validation) == 1


def test_no_file_matches(tmp_path: Path):
    with pytest.raises(UserError, match="no file matches"):
        open_corpus(DataConfig(files=str(tmp_path / "*.txt")), tmp_path / "cache")


@pytest.mark.parametrize("name", ["wikitext-2", "books", "tinyshakespeare"])
def test_a_missing_root_folder_or_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str):
    monkeypatch.delenv("JAXODE_DATA", raising=False)

    def message(root: str) -> str:
        with pytest.raises(UserError) as caught:
            open_corpus(DataConfig(corpus=name, root=root), tmp_path / "cache")
        return str(caught.value)

    assert "needs data.root (or the variable JAXODE_DATA)" in message("")
    assert "no such folder" in message(str(tmp_path / "nowhere"))
    assert str(tmp_path / name) in message(str(tmp_path))
    (tmp_path / name).mkdir()
    assert "no such file" in message(str(tmp_path))


def test_the_root_can_come_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("JAXODE_DATA", str(tmp_path))
    (tmp_path / "tinyshakespeare").mkdir()
    (tmp_path / "tinyshakespeare/input.txt").write_text("".join(f"line {i}\n" for i in range(100)))
    train, validation = texts_of(DataConfig(corpus="tinyshakespeare", valid_fraction=0.1), tmp_path / "cache")
    assert validation == ["".join(f"line {i}\n" for i in range(90, 100))]
    assert "".join(train + validation) == (tmp_path / "tinyshakespeare/input.txt").read_text()


def test_wikitext_documents_are_articles(tmp_path: Path):
    article = " \n = {} = \n \n Words . \n = Wins ; L = \n \n = = Sub = = \n \n More words . \n"
    (tmp_path / "wikitext-2").mkdir()
    for name, titles in {"train": ["One", "Two = 2", "Three"], "valid": ["Four"]}.items():
        (tmp_path / f"wikitext-2/{name}.txt").write_text("".join(map(article.format, titles)))
    train, validation = texts_of(DataConfig(corpus="wikitext-2", root=str(tmp_path)), tmp_path / "cache")
    assert [re.findall(r"= (\w+)", text)[0] for text in train] == ["One", "Two", "Three"]
    assert "".join(train) == (tmp_path / "wikitext-2/train.txt").read_text()
    assert len(validation) == 1


def test_books_are_split_at_their_separator(tmp_path: Path):
    (tmp_path / "books").mkdir()
    for name, text in {"train-0": "a\n<|endofbook|>\nb\n", "train-1": "c\n", "valid": "d\n"}.items():
        (tmp_path / f"books/{name}.txt").write_text(text)
    train, validation = texts_of(DataConfig(corpus="books", root=str(tmp_path)), tmp_path / "cache")
    assert (train, validation) == (["a\n", "b\n", "c\n"], ["d\n"])


# --- holding out


def test_moving_a_corpus_does_not_change_its_split(tmp_path: Path):
    found = []
    for place in ("here", "there"):
        (tmp_path / place).mkdir()
        for i in range(30):
            (tmp_path / place / f"{i}.txt").write_text(f"text {i}")
        found.append(texts_of(DataConfig(files=str(tmp_path / place / "*.txt")), tmp_path / "cache"))
    assert found[0] == found[1]


def test_one_line_is_cut_between_characters(tmp_path: Path):
    (tmp_path / "a.txt").write_text("x" * 100)
    train, validation = texts_of(DataConfig(files=str(tmp_path / "a.txt"), valid_fraction=0.1), tmp_path / "cache")
    assert (train, validation) == (["x" * 90], ["x" * 10])


# --- the embedded corpus


def fake_stdlib(folder: Path) -> Path:
    files = {
        "abc.py": "import abc",
        "json/__init__.py": "json = 1",
        "json/empty.py": "",
        "test/test_abc.py": "left out",
        "unittest/test/support.py": "left out",
        "lib2to3/tests/data.py": "left out",
        "site-packages/pkg/__init__.py": "left out",
        "encodings/cp037.py": "left out",
        "config-3.11-x/python-config.py": "left out",
        "_sysconfigdata__linux.py": "left out",
        "pydoc_data/topics.py": "# note\ntopics = {'b': 'Topic b' ' goes on', 'a': 'Topic a'}\n",
        "pydoc_data/__init__.py": "left out",
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def test_the_standard_library_without_tests_and_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(corpora, "stdlib_folder", lambda: fake_stdlib(tmp_path / "lib"))
    train, validation = texts_of(DataConfig(), tmp_path / "cache")
    assert sorted(train + validation) == ["Topic a", "Topic b goes on", "import abc", "json = 1"]


def test_topics_that_are_no_plain_data_are_not_run(tmp_path: Path):
    (tmp_path / "topics.py").write_text("topics = {'a': __import__('os').getcwd()}")
    with pytest.raises(UserError, match=r"topics\.py"):
        list(stdlib.stdlib_documents(tmp_path / "topics.py", "pydoc_data/topics.py"))


def test_this_pythons_library_is_found_and_large():
    files = stdlib.stdlib_files(stdlib.stdlib_folder())
    names = {path.name for path in files}
    assert {"argparse.py", "topics.py", "typing.py"} <= names
    assert sum(path.stat().st_size for path in files) > 5_000_000
    assert files == stdlib.stdlib_files(stdlib.stdlib_folder())


def test_a_stripped_python_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(corpora, "stdlib_folder", lambda: tmp_path)
    with pytest.raises(UserError, match="no standard library sources"):
        open_corpus(DataConfig(), tmp_path / "cache")


# --- registered TFDS sets


class JaxodeTestSet(tfds.core.GeneratorBasedBuilder):
    """A registered text set such as lm1b, made of nothing."""

    VERSION = tfds.core.Version("1.0.0")
    SPLITS = ("train",)

    def _info(self):
        features = {"text": tfds.features.Text(), "label": tfds.features.Scalar(np.int32)}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(split) for split in self.SPLITS}

    def _generate_examples(self, split):
        for i in range(20):
            yield i, {"text": f"{split} {i} é", "label": i}


class JaxodeTestSetWithTest(JaxodeTestSet):
    SPLITS = ("train", "test")


class JaxodeTestSetWithAll(JaxodeTestSet):
    SPLITS = ("train", "test", "validation")


@pytest.mark.parametrize(
    ("name", "held_out", "size"),
    [
        ("jaxode_test_set", "train", (18, 2)),
        ("jaxode_test_set_with_test", "test", (20, 20)),
        ("jaxode_test_set_with_all", "validation", (20, 20)),
    ],
)
def test_any_registered_set_is_a_corpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd, name: str, held_out: str, size: tuple[int, int]
):
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    train, validation = texts_of(DataConfig(corpus=name, valid_fraction=0.1), tmp_path)
    assert (len(train), len(validation)) == size
    assert all(text.startswith("train ") and text.endswith(" é") for text in train)
    assert all(text.startswith(held_out) for text in validation)
    assert not set(train) & set(validation)
    assert capfd.readouterr() == ("", ""), "TFDS is kept quiet"


@pytest.mark.parametrize("content", [b"", b"x" * 2**17])
@pytest.mark.parametrize("file", ["dataset_info.json", "*-train.array_record*"])
def test_a_damaged_set_is_named_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, content: bytes):
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    data = DataConfig(corpus="jaxode_test_set")
    texts_of(data, tmp_path)
    (path,) = (tmp_path / "tfds").rglob(file)
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"jaxode_test_set.*(damaged|cannot prepare it)") as caught:
        texts_of(data, tmp_path)
    assert "\n" not in str(caught.value)


def test_a_record_that_a_set_no_longer_holds(tmp_path: Path):
    texts = corpora.Texts([{"text": b"a"}, {"text": None}], tmp_path)
    with pytest.raises(UserError, match=rf"{tmp_path}: damaged \(text 2 is missing\)"):
        list(texts)


def test_a_set_without_that_text_feature(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    with pytest.raises(UserError, match=r'no text feature "label".*text'):
        open_corpus(DataConfig(corpus="jaxode_test_set", text_key="label"), tmp_path)


@pytest.mark.parametrize(("name", "near"), [("wikitxt-2", "wikitext-2"), ("stdlb", "stdlib"), ("lm1", "lm1b")])
def test_an_unknown_name_lists_the_known_and_the_nearest(tmp_path: Path, name: str, near: str):
    with pytest.raises(UserError, match=f"stdlib, files, wikitext-2, books, tinyshakespeare.*did you mean '{near}'"):
        open_corpus(DataConfig(corpus=name), tmp_path)


def test_a_set_that_cannot_be_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(registered, "reachable", lambda host: False)
    with pytest.raises(UserError, match=r"lm1b.*network cannot be reached.*TFDS_DATA_DIR"):
        open_corpus(DataConfig(corpus="lm1b"), tmp_path)


def test_reading_needs_no_jax_and_no_tensorflow():
    code = (
        "import sys, jaxode.data.corpora, jaxode.data.tokenizers;"
        "print([name for name in ('jax', 'tensorflow', 'torch', 'grain') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
