"""Which files a pattern names, each once, and what is said of the rest."""

import os
from pathlib import Path

import pytest

from jaxode.config import DataConfig, UserError
from jaxode.data import files, open_corpus
from jaxode.data.files import matching, split_of


def write(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"text of {name}\n")


def names(pattern: Path | str) -> list[str]:
    return [name for _, name in matching(str(pattern))]


def both_splits(pattern: Path | str, cache: Path) -> tuple[list[str], list[str]]:
    corpus = open_corpus(DataConfig(files=str(pattern)), cache)
    return list(corpus.train), list(corpus.validation)


def test_links_that_lead_back_up_are_followed_once(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    write(tmp_path / "loop", "1.txt", "2.txt")
    # with a second one a glob would walk 2^40 names
    for link in ("self", "again"):
        (tmp_path / "loop" / link).symlink_to(".")
    train, validation = both_splits(tmp_path / "loop/**/*.txt", tmp_path / "cache")
    assert (len(train), len(validation)) == (1, 1)
    assert train != validation
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(f'data.files = "{tmp_path}/loop/**/*.txt": 2 more names')
    assert line.endswith(f"({tmp_path}/loop/self, {tmp_path}/loop/again)")


def test_a_file_counts_once_under_the_shortest_of_its_names(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    write(tmp_path / "t", "folder/name.txt", "other.txt")
    (tmp_path / "t/a.txt").symlink_to("folder/name.txt")
    (tmp_path / "t/link").symlink_to("folder")
    assert names(tmp_path / "t/**/*.txt") == ["a.txt", "other.txt"]
    (line,) = capfd.readouterr().err.splitlines()
    # the folder under its shorter name too, so that its longer one is left out with the file in it
    assert ": 2 more names" in line
    assert f"{tmp_path}/t/folder, {tmp_path}/t/link/name.txt" in line


def test_a_corpus_of_one_file_is_cut_however_often_a_glob_meets_it(tmp_path: Path):
    write(tmp_path, "once/x/1.txt")
    (tmp_path / "once/x/1.txt").write_text("alpha\nbeta\ngamma\ndelta\n")
    train, validation = both_splits(tmp_path / "once/**/**/*.txt", tmp_path / "cache")
    assert (train, validation) == (["alpha\nbeta\ngamma\n"], ["delta\n"])


def test_named_corpora_count_a_shard_once(tmp_path: Path):
    write(tmp_path, "books/train-0.txt", "books/valid.txt")
    (tmp_path / "books/train-1.txt").symlink_to("train-0.txt")
    corpus = open_corpus(DataConfig(corpus="books", root=str(tmp_path)), tmp_path / "cache")
    assert list(corpus.train) == ["text of books/train-0.txt\n"]


@pytest.mark.parametrize(
    "pattern", ["**/*.txt", "**", "a/**/*.txt", "*/**/2.txt", "a/**/deep/*", "**/deep/**/*.txt", "**/**/*.md", "[ab]/*"]
)
def test_patterns_mean_what_they_mean_to_glob(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pattern: str):
    write(tmp_path, "1.txt", "a/2.txt", "a/deep/2.txt", "a/deep/er/3.txt", "b/4.md", ".hidden/5.txt", "b/.6.txt")
    want = {name for name in files.glob.glob(str(tmp_path / pattern), recursive=True) if os.path.isfile(name)}
    assert {str(path) for path, _ in matching(str(tmp_path / pattern))} == want
    monkeypatch.chdir(tmp_path)
    assert {str(tmp_path / path) for path, _ in matching(pattern)} == want


def test_a_name_that_exists_is_no_pattern(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    folder = tmp_path / "notes [2024]"
    write(folder, "1.txt", "deep/2.MD.gz", "deep/3.jsonl", "picture.png", "table.tsv")
    assert names(folder / "1.txt") == ["1.txt"]
    assert names(folder) == names(f"{folder}/") == ["1.txt", "deep/2.MD.gz", "deep/3.jsonl"]
    assert ": 3 text files of the folder (.txt " in capfd.readouterr().err
    (tmp_path / "none").mkdir()
    with pytest.raises(UserError, match=r"none\": the folder holds no text file \(\.txt"):
        matching(str(tmp_path / "none"))


def test_brackets_that_keep_a_glob_from_matching(tmp_path: Path):
    write(tmp_path / "notes [2024]", "1.txt")
    pattern = tmp_path / "notes [2024]/*.txt"
    with pytest.raises(UserError, match="no file matches; brackets in a glob") as caught:
        matching(str(pattern))
    remedy = str(caught.value).split('"')[-2]
    assert names(remedy) == ["1.txt"]


def test_home_is_where_the_shell_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write(tmp_path, "t/1.txt")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert names("~/t/1.txt") == names("~/t") == names("~/t/*.txt") == ["1.txt"]


@pytest.mark.parametrize("name", ["a.tsv", "a.CSV", "a.tsv.gz", "a.csv.XZ", "a.conllu.gz"])
def test_tables_are_refused_before_anything_is_read(tmp_path: Path, name: str):
    write(tmp_path, "0.txt", name)
    (tmp_path / "0.txt").write_bytes(b"\0")
    with pytest.raises(UserError, match=rf"{name}: (is a table|holds a word) .* as \.txt"):
        open_corpus(DataConfig(files=str(tmp_path / "*")), tmp_path / "cache")


def test_names_that_are_no_utf8(tmp_path: Path):
    write(tmp_path, "a.txt")
    odd = os.fsencode(tmp_path) + b"/caf\xe9.txt"
    with open(odd, "w") as file:
        file.write("odd")
    corpus = open_corpus(DataConfig(files=str(tmp_path / "*.txt")), tmp_path / "cache")
    texts = {split.source(0): split[0] for split in (corpus.train, corpus.validation)}
    assert texts == {"a.txt#0": "text of a.txt\n", "caf\\xe9.txt#0": "odd"}


def test_equal_texts_in_different_files_are_counted(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    for i in range(20):
        (tmp_path / f"{i}.txt").write_text("same" if i % 2 else f"text {i}")
    both_splits(tmp_path / "*.txt", tmp_path / "cache")
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("9 of 20 documents hold the same text")


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train-00000-of-00012.parquet", "train"),
        ("Train.txt.gz", "train"),
        ("train_1.jsonl", "train"),
        ("dev.json", "validation"),
        ("valid/a.txt", "validation"),
        ("val-0.txt", "validation"),
        ("test.txt", "test"),
        ("train/tests.txt", "train"),
        ("trains.txt", None),
        ("a-train.txt", None),
        ("validity.txt", None),
    ],
)
def test_a_name_that_tells_its_split(name: str, split: str | None):
    assert split_of(name) == split


def test_splits_by_name_need_both(tmp_path: Path, capfd):
    write(tmp_path / "t", "train.txt", "train-2.txt", "notes.txt")
    assert sum(map(len, both_splits(tmp_path / "t", tmp_path / "cache"))) == 3
    assert capfd.readouterr().err == ""
    write(tmp_path / "t", "test.txt")
    train, validation = both_splits(tmp_path / "t", tmp_path / "cache")
    assert sorted(train) == ["text of train-2.txt\n", "text of train.txt\n"]
    assert validation == ["text of test.txt\n"]
    assert (
        "2 files are to train on, 1 (test) to validate on; left out are 1 others (notes.txt)" in capfd.readouterr().err
    )


def test_json_in_a_folder_counts_where_its_name_tells_a_split(tmp_path: Path):
    write(tmp_path, "dataset_infos.json", "train.json", "valid.json", "package.json")
    assert names(tmp_path) == ["train.json", "valid.json"]
