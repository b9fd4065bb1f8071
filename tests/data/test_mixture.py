"""Corpora side by side: in their shares, the same at every restart, whatever the number of processes."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from jaxode.config import Config, DataConfig, UserError, from_toml, parse, to_toml
from jaxode.data import prepare
from jaxode.data.mixture import Together

LENGTH = 16


@pytest.fixture
def data(tmp_path: Path) -> DataConfig:
    """A corpus of a, a smaller one of b."""
    for letter, count in (("a", 40), ("b", 12)):
        (tmp_path / letter).mkdir()
        for i in range(count):
            (tmp_path / letter / f"{i}.txt").write_text(letter * (40 + i))
    entries = (f"{tmp_path}/a=3", f"{tmp_path}/b/*.txt=1")
    return DataConfig(mixture=entries, tokenizer="bytes", cache=str(tmp_path / "cache"), valid_fraction=0.2)


def ready(data: DataConfig):
    return prepare(data, LENGTH, "causal", progress=False)


def counts(tokens: np.ndarray, data) -> tuple[int, ...]:
    """How many of the tokens are of each letter."""
    return tuple(int((tokens == data.tokenizer.encode(letter)[0]).sum()) for letter in "ab")


def test_rows_are_drawn_by_weight(data: DataConfig):
    found = ready(data)
    batches = found.train(8, seed=0)
    drawn = np.concatenate([batches.at(step).tokens for step in range(50)])
    # a row is of one corpus
    of_a = sum(counts(row, found)[0] > 0 for row in drawn)
    assert (of_a, len(drawn) - of_a) == (300, 100)
    other = ready(replace(data, mixture=tuple(entry.replace("=3", "=1") for entry in data.mixture))).train(8, seed=0)
    of_a = sum(counts(row, found)[0] > 0 for step in range(50) for row in other.at(step).tokens)
    assert of_a == 200


def test_weights_prepare_nothing_anew(data: DataConfig, monkeypatch: pytest.MonkeyPatch):
    ready(data)
    monkeypatch.setattr("jaxode.data.prepared.write_stream", None)
    ready(replace(data, mixture=tuple(reversed(data.mixture))))
    # a corpus by itself is the same set
    ready(replace(data, mixture=(), corpus="files", files=data.mixture[0].split("=")[0]))


def test_a_batch_does_not_depend_on_the_number_of_processes(data: DataConfig):
    found = ready(data)
    batch = found.train(8, seed=1).at(5)
    parts = [found.train(8, seed=1, part=(i, 4)).at(5) for i in range(4)]
    for i, part in enumerate(parts):
        assert np.array_equal(part.tokens, batch.tokens[i::4])


def test_a_position_is_restored_and_the_end_is_said_once(data: DataConfig, capfd):
    found = ready(data)
    first = found.train(8, seed=2)
    sizes = [len(part) for part in first_parts(found)]
    end = int(sizes[1] / 2)
    capfd.readouterr()
    before = [next(first) for _ in range(end + 12)]
    (line,) = [line for line in capfd.readouterr().err.splitlines() if "b/*.txt" in line]
    assert line.startswith('data.mixture: all of "')
    assert line.endswith(f"at update {end}; it begins again")
    again = found.train(8, seed=2)
    again.set_state({**first.get_state(), "step": end + 1})
    for batch in before[end + 1 :]:
        assert np.array_equal(next(again).tokens, batch.tokens)
    assert "b/*.txt" not in capfd.readouterr().err
    # of several processes one says so
    silent = found.train(8, seed=2, part=(1, 2))
    for _ in range(end + 2):
        next(silent)
    assert "b/*.txt" not in capfd.readouterr().err
    for batches in (first, again, silent):
        batches.close()


def first_parts(found) -> tuple:
    return found.train_rows.parts


def test_an_epoch_of_each_corpus_holds_all_its_rows(data: DataConfig):
    found = ready(data)
    batches = found.train(4, seed=0)
    small = first_parts(found)[1]
    rows = [row for step in range(len(small)) for row in batches.at(step).tokens if counts(row, found)[1]]
    assert len(rows) == len(small)
    assert sorted(map(bytes, rows)) == sorted(bytes(row["tokens"][:-1]) for row in small)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("weights", r"weights = \[0\.75, 0\.25\], this run has \[0\.5, 0\.5\]"),
        ("order", r"the train split of corpus 1 of data\.mixture has \d+ documents, it had \d+"),
        ("text", r"the text of the train split of corpus 2 of data\.mixture differs in \d+\.txt#0"),
        ("none", r"the train split was no part of it"),
    ],
)
def test_another_mixture_is_another_order(data: DataConfig, change: str, message: str):
    before = ready(data)
    state = before.train(4, seed=0).get_state()
    if change == "weights":
        data = replace(data, mixture=tuple(entry.replace("=3", "=1") for entry in data.mixture))
    elif change == "order":
        data = replace(data, mixture=data.mixture[::-1])
    elif change == "text":
        held = before.identity["validation/2"].sources
        path = next(p for p in (Path(data.cache).parent / "b").iterdir() if f"{p.name}#0" not in held)
        path.write_text("c" + path.read_text()[1:])
    else:
        data = replace(data, mixture=(), corpus="files", files=data.mixture[0].split("=")[0])
    with pytest.raises(UserError, match=message):
        ready(data).train(4, seed=0).set_state(state)


def test_validation_is_all_that_was_held_out(data: DataConfig):
    found = ready(data)
    sizes = [found.stats["validation"].tokens, *(found.identity[f"validation/{i}"].documents for i in (1, 2))]
    assert found.stats["validation"].documents == sum(sizes[1:])
    tokens = np.concatenate([batch.targets[batch.weights > 0] for batch in found.validation(4)])
    # but the first token of each corpus
    assert len(tokens) == sizes[0] - 2
    assert min(counts(tokens, found)) > 0
    assert min(counts(np.asarray(next(iter(found.validation(8))).tokens), found)) > 0, "both from the beginning on"
    assert found.bytes_per_token("validation") == found.stats["validation"].bytes / sizes[0]


def test_rows_together_are_each_once_and_in_proportion():
    together = Together([[{"n": i} for i in range(9)], [{"n": 10 + i} for i in range(3)]])
    order = [row["n"] for row in together]
    assert sorted(order) == [*range(9), 10, 11, 12]
    assert [sum(n >= 10 for n in order[i : i + 4]) for i in (0, 4, 8)] == [1, 1, 1]
    assert [row["n"] for row in together[2:4]] == order[2:4]
    with pytest.raises(IndexError):
        together[12]


def test_named_corpora_and_explicit_validation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "wikitext-2").mkdir()
    (tmp_path / "wikitext-2/train.txt").write_text(" = One = \n \n a b \n" * 3)
    (tmp_path / "wikitext-2/valid.txt").write_text(" = Two = \n \n c d \n")
    for name in ("train", "valid"):
        (tmp_path / f"{name}.jsonl").write_text(f'{{"text": "{name} x"}}\n' * 3)
    data = DataConfig(
        mixture=("wikitext-2=1", f"{tmp_path}/*.jsonl=1"),
        root=str(tmp_path),
        cache=str(tmp_path / "cache"),
        vocab_size=300,
    )
    found = ready(data)
    assert found.stats["validation"].documents == 1 + 3
    assert found.tokenizer.name.startswith("bpe-")
    assert found.tokenizer.fingerprint != ready(replace(data, mixture=(f"{tmp_path}/*.jsonl=1",))).tokenizer.fingerprint


# --- settings


def test_toml_python_and_flags_say_the_same(tmp_path: Path):
    (tmp_path / "a.toml").write_text('[data]\nmixture = ["stdlib=1", "wiki/*=2.5"]\n')
    wanted = Config(data=DataConfig(mixture=("stdlib=1", "wiki/*=2.5")))
    assert wanted.data.corpus == "mixture"
    assert from_toml(Config, tmp_path / "a.toml") == wanted
    assert parse(Config, ["--data.mixture", "stdlib=1", "wiki/*=2.5"]) == wanted
    other = parse(Config, ["--config", str(tmp_path / "a.toml"), "--data.mixture", "books=1"])
    assert other.data.mixture == ("books=1",)
    (tmp_path / "b.toml").write_text(to_toml(wanted))
    assert from_toml(Config, tmp_path / "b.toml") == wanted


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mixture": ("stdlib=1", "books")}, 'data.mixture[1] = "books": must be a corpus and its weight'),
        ({"mixture": ("=1",)}, 'data.mixture[0] = "=1": must be a corpus and its weight'),
        ({"mixture": ("books=much",)}, 'data.mixture[0] = "books=much": must be a corpus and its weight'),
        ({"mixture": ("stdlib=-1",)}, 'data.mixture[0] = "stdlib=-1": the weight must be a positive number'),
        ({"mixture": ("stdlib=0", "books=0")}, 'data.mixture[0] = "stdlib=0": the weight must be a positive number'),
        ({"mixture": ("stdlib=nan",)}, "the weight must be a positive number"),
        ({"mixture": ("stdlib=inf",)}, "the weight must be a positive number"),
        ({"mixture": ("stdlib=1", "stdlib=2")}, 'data.mixture[1] = "stdlib=2": stands there twice'),
        ({"mixture": ("tasks/s5=1",)}, "tasks/s5 cannot be mixed"),
        ({"mixture": ("stdlib=1",), "files": "a.txt"}, 'data.corpus = "files": a mixture names its corpora itself'),
        ({"mixture": ("stdlib=1",), "train": "a.tsv"}, 'data.train = "a.tsv" with data.corpus = "mixture"'),
        ({"corpus": "mixture"}, 'data.mixture = [] with data.corpus = "mixture"'),
    ],
)
def test_what_a_mixture_refuses(settings: dict, message: str):
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        DataConfig(**settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (
            "wikitxt-2=1",
            "\"wikitxt-2\" is no file, folder or glob .*, and no corpus: .*mean 'wikitext-2'",
        ),
        ("{}/nothing/*.txt=1", '/nothing/\\*.txt" is no file, folder or glob'),
        ("{}/empty.jsonl=1", 'data.mixture, "{}/empty.jsonl": {}/empty.jsonl: the file holds no text'),
        ("{}/folder=1", 'data.mixture, "{}/folder": data.files = .*holds no text file'),
        ("books=1", 'data.mixture, "books": data.corpus = "books" needs data.root'),
    ],
)
def test_a_corpus_of_a_mixture_that_cannot_be_used(
    data: DataConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entry: str, message: str
):
    monkeypatch.delenv("JAXODE_DATA", raising=False)
    (tmp_path / "empty.jsonl").write_text("\n")
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match=message.replace("{}", re.escape(str(tmp_path)))) as caught:
        ready(replace(data, mixture=(data.mixture[1], entry.format(tmp_path))))
    assert "\n" not in str(caught.value)
