"""The whole way from files to batches, and what the cache promises."""

import dataclasses
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from jaxode.config import DataConfig, UserError
from jaxode.data import (
    BatchSpec,
    Tokenizer,
    byte_tokenizer,
    open_corpus,
    prepare,
    prepared,
    stores,
    text_batches,
    vocabulary,
)
from jaxode.data.prepared import cache_folder

LENGTH = 32


def ready(data: DataConfig, kind="causal", **options):
    return prepare(data, LENGTH, kind, progress=False, **options)


def test_the_training_stream_is_the_corpus(corpus: DataConfig):
    found = ready(corpus)
    texts = list(open_corpus(corpus, Path(corpus.cache)).train)
    tokens = [t for i in range(len(found.train_rows)) for t in found.train_rows[i]["tokens"][0 if i == 0 else 1 :]]
    size = found.stats["train"]
    stream = [t for ids in found.tokenizer.encode_batch(texts) for t in [*ids, found.tokenizer.end_id]]
    assert tokens[: size.tokens] == stream
    assert (size.documents, size.tokens, size.bytes) == (len(texts), len(stream), sum(len(t.encode()) for t in texts))
    assert size.tokens_per_byte == size.tokens / size.bytes
    assert size.documents + found.stats["validation"].documents == 40


def test_rows_held_in_memory_are_the_stored_ones(corpus: DataConfig):
    stream = ready(corpus).train_rows
    assert stores.hold(stream) is stream, "it is read fast enough where it lies"
    rows = ready(dataclasses.replace(corpus, rows="texts")).train_rows
    size = len(rows) * (LENGTH + 1) * 4 * 2
    held = stores.hold(rows, limit=size)
    assert held is not rows
    assert stores.hold(rows, limit=size - 1) is rows, "too large for the limit: left on disk"
    assert len(held) == len(rows)
    for i in range(len(rows)):
        np.testing.assert_array_equal(held[i]["tokens"], rows[i]["tokens"])
        assert held[i]["count"] == rows[i]["count"]


def test_statistics_count_utf8_bytes(tmp_path: Path):
    for i in range(4):
        (tmp_path / f"{i}.txt").write_text("é漢" * (i + 1), encoding="utf-8")
    data = DataConfig(files=str(tmp_path / "*.txt"), cache=str(tmp_path / "cache"), tokenizer="bytes")
    stats = ready(data).stats
    assert stats["train"].bytes + stats["validation"].bytes == 5 * (1 + 2 + 3 + 4)
    # one token a byte, one end token a document
    assert all(size.tokens == size.bytes + size.documents for size in stats.values())


@pytest.mark.parametrize("kind", ["causal", "masked"])
def test_batches_have_static_shapes(corpus: DataConfig, kind):
    found = ready(corpus, kind)
    train = found.train(4, seed=0)
    shapes = {batch.tokens.shape for batch in (next(train), *found.validation(4))}
    assert shapes == {(4, LENGTH)}
    train.close()


def test_validation_predicts_every_token_but_the_first(corpus: DataConfig):
    found = ready(corpus)
    counted = sum(float(batch.weights.sum()) for batch in found.validation(4))
    assert counted == found.stats["validation"].tokens - 1


def forbid(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    def fail(*args, **kwargs):
        raise AssertionError("work that the cache should have saved")

    for name in names:
        monkeypatch.setattr(prepared, name, fail)


def test_a_second_call_does_no_work(corpus: DataConfig, monkeypatch: pytest.MonkeyPatch):
    first = ready(corpus)
    forbid(monkeypatch, "write_stream", "write_rows")
    monkeypatch.setattr(vocabulary, "train_bpe", None)
    monkeypatch.setattr(stores, "_write_set", None)
    again = ready(corpus)
    assert again.stats == first.stats
    assert again.tokenizer.fingerprint == first.tokenizer.fingerprint
    assert np.array_equal(first.train(4, 0).at(7).tokens, again.train(4, 0).at(7).tokens)


@pytest.mark.parametrize("change", [{"vocab_size": 310}, {"tokenizer": "bytes"}, {"valid_fraction": 0.4}])
def test_other_options_are_other_data(corpus: DataConfig, change: dict):
    first, other = ready(corpus), ready(dataclasses.replace(corpus, **change))
    assert first.stats != other.stats or first.tokenizer.fingerprint != other.tokenizer.fingerprint


@pytest.mark.parametrize("edit", ["WORD", "longer words"])
def test_a_changed_file_is_read_again(corpus: DataConfig, edit: str):
    path = Path(corpus.files).parent / "00.txt"
    before = ready(corpus)
    path.write_text(path.read_text().replace("Document 0", f"{edit:8} 0"))
    after = ready(corpus)
    texts = open_corpus(corpus, Path(corpus.cache))
    assert sum(edit in text for text in [*texts.train, *texts.validation]) == 1
    grown = sum(after.stats[s].bytes for s in after.stats) - sum(before.stats[s].bytes for s in before.stats)
    assert grown == max(len(edit), 8) - 8


def test_options_of_the_batches_share_the_rows(corpus: DataConfig, monkeypatch: pytest.MonkeyPatch):
    ready(corpus)
    forbid(monkeypatch, "write_stream")
    assert ready(dataclasses.replace(corpus, document_mask=True), "masked").spec.document_mask


def test_a_stream_serves_rows_of_any_length(corpus: DataConfig, monkeypatch: pytest.MonkeyPatch):
    long = ready(corpus)
    forbid(monkeypatch, "write_stream")
    short = prepare(corpus, LENGTH // 2, "causal", progress=False)
    assert long.stats == short.stats
    both = [short.train_rows[0]["tokens"][:-1], short.train_rows[1]["tokens"]]
    assert np.concatenate(both).tolist() == long.train_rows[0]["tokens"].tolist()


def test_an_interrupted_preparation_leaves_nothing_to_read(corpus: DataConfig, monkeypatch: pytest.MonkeyPatch):
    def killed(path, *args):
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(prepared, "write_stream", killed)
    with pytest.raises(KeyboardInterrupt):
        ready(corpus)
    assert list((Path(corpus.cache) / "rows").iterdir()) == []
    monkeypatch.undo()
    assert len(ready(corpus).train_rows) > 1


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path):
    folder = tmp_path / "set"
    code = (
        "import os, sys, pathlib; from jaxode.data.stores import make_folder\n"
        "def die(partial):\n"
        "    (partial / 'half').write_text('half')\n"
        "    os._exit(9)\n"
        "make_folder(pathlib.Path(sys.argv[1]), die)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(folder)], check=False).returncode == 9
    assert not folder.exists()
    (left,) = tmp_path.glob(".partial-*")
    # the dead process's leftovers go a day later
    stores.make_folder(tmp_path / "other", lambda partial: None)
    assert left.exists()
    os.utime(left, (time.time() - 1e6,) * 2)
    stores.make_folder(folder, lambda partial: (partial / "whole").write_text("whole") and None)
    assert {path.name for path in folder.iterdir()} == {"whole", stores.CHECKSUMS}
    assert not left.exists()


def test_of_two_racing_processes_the_second_keeps_the_first_result(tmp_path: Path):
    def slow(partial: Path) -> None:
        (partial / "name").write_text("second")
        stores.make_folder(tmp_path / "set", lambda other: (other / "name").write_text("first") and None)

    stores.make_folder(tmp_path / "set", slow)
    assert (tmp_path / "set/name").read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_a_corpus_shorter_than_a_batch_names_both_sizes(corpus: DataConfig):
    found = ready(corpus)
    rows = len(found.train_rows)
    found.train(rows, seed=0).close()
    with pytest.raises(UserError, match=rf"{found.stats['train'].tokens} tokens.*needs {(rows + 1) * LENGTH} tokens"):
        found.train(rows + 1, seed=0)


def test_masked_training_needs_a_mask_token(corpus: DataConfig, monkeypatch: pytest.MonkeyPatch):
    mute = byte_tokenizer()
    monkeypatch.setattr(mute, "mask_id", None)
    with pytest.raises(UserError, match="no mask token"):
        ready(corpus, "masked", tokenizer=mute)
    assert not (Path(corpus.cache) / "documents").exists(), "refused before the corpus is read"


def test_a_given_tokenizer_is_used(corpus: DataConfig, bpe: Tokenizer):
    found = ready(corpus, tokenizer=bpe)
    assert found.tokenizer is bpe
    assert not (Path(corpus.cache) / "tokenizers").exists()


def test_a_cache_that_cannot_be_made(corpus: DataConfig, tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"data\.cache"):
        ready(dataclasses.replace(corpus, cache=str(tmp_path / "file" / "cache")))


def test_the_cache_folder_is_option_then_variable_then_home(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("JAXODE_CACHE", "/from/variable")
    assert cache_folder(DataConfig(cache="/from/option")) == Path("/from/option")
    assert cache_folder(DataConfig()) == Path("/from/variable")
    monkeypatch.delenv("JAXODE_CACHE")
    assert cache_folder(DataConfig()) == Path("~/.cache/jaxode").expanduser()


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_shows_on_a_terminal_and_goes_to_standard_error_only(corpus: DataConfig, capfd, monkeypatch, terminal):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    prepare(corpus, LENGTH, "causal", progress=True)
    out, err = capfd.readouterr()
    assert out == ""
    assert ("packing train" in err) == terminal
    ready(dataclasses.replace(corpus, vocab_size=330))
    assert capfd.readouterr() == ("", "")


def test_a_vocabulary_is_learned_from_part_of_a_large_corpus(corpus: DataConfig, monkeypatch: pytest.MonkeyPatch):
    seen: list[str] = []

    def spy(texts, vocab_size):
        seen.extend(texts)
        return byte_tokenizer()

    monkeypatch.setattr(vocabulary, "train_bpe", spy)
    monkeypatch.setattr(vocabulary, "TRAINING_CHARACTERS", 2000)
    found = ready(corpus)
    assert 1000 < sum(map(len, seen)) < 4000
    assert len(seen) < found.stats["train"].documents


def test_a_text_is_packed_as_a_corpus_is(bpe: Tokenizer):
    scored = text_batches("the lazy fox " * 30, BatchSpec(bpe), LENGTH, 2)
    assert scored.stats.documents == 1
    assert sum(float(batch.weights.sum()) for batch in scored.batches) == scored.stats.tokens - 1
    assert scored.stats.bytes == len("the lazy fox " * 30)
    with pytest.raises(UserError, match="empty"):
        text_batches(" \n", BatchSpec(bpe), LENGTH, 2)
    # by its number among all of them, though they are encoded a thousand at a time
    with pytest.raises(UserError, match="text 1501 is not Unicode"):
        text_batches(["a"] * 1500 + ["\ud800"], BatchSpec(bpe), LENGTH, 2)


@pytest.fixture
def lines(tmp_path: Path) -> DataConfig:
    """Lines of 1 to 30 letters in one file, each a document."""
    texts = ["ab" * (1 + i % 15) for i in range(60)]
    (tmp_path / "lines.txt").write_text("\n".join(texts) + "\n")
    return DataConfig(
        files=str(tmp_path / "lines.txt"), lines=True, rows="texts", tokenizer="bytes", cache=str(tmp_path / "cache")
    )


@pytest.mark.parametrize("kind", ["encoder", "masked", "causal"])
def test_rows_of_whole_texts(lines: DataConfig, kind):
    found = ready(dataclasses.replace(lines, frame="[MASK] <|endoftext|>"), kind)
    before, after = found.tokenizer.mask_id, found.tokenizer.end_id
    batches = [*found.validation(2), *(found.train(4, seed=0).at(step) for step in range(3))]
    for batch in batches:
        assert batch.places is not None
        for row in range(len(batch.tokens)):
            for number in range(1, batch.segments[row].max() + 1):
                here = batch.segments[row] == number
                assert batch.places[row][here].tolist() == list(range(here.sum()))
                targets = batch.targets[row][here].tolist()
                if kind == "causal":
                    # each foresees the next one of its own text
                    assert batch.tokens[row][here].tolist()[1:] == targets[:-1]
                    assert batch.weights[row][here].tolist() == [1.0] * (here.sum() - 1) + [0.0]
                    continue
                assert (targets[0], targets[-1]) == (before, after)
                text = found.tokenizer.decode(targets[1:-1])
                assert text == "ab" * (len(text) // 2)
                if kind == "encoder":
                    assert batch.tokens[row][here].tolist() == targets
                    assert batch.weights[row][here].all()
    framed = sum(len("ab" * (1 + i % 15)) + 2 for i in range(60))
    assert found.stats["train"].tokens + found.stats["validation"].tokens == framed


def test_texts_that_are_too_long_are_cut_and_counted(lines: DataConfig, capsys):
    found = prepare(lines, 20, "encoder", progress=False)
    told = capsys.readouterr().err
    assert "of 59 texts are longer than model.length = 20 with what stands around them, and were cut to it" in told
    longest = max(int(batch.places.max()) for batch in found.validation(2))
    assert longest <= 19


def test_other_frames_are_other_rows(lines: DataConfig):
    framed = ready(dataclasses.replace(lines, frame="[MASK] [MASK]"), "encoder")
    bare = ready(lines, "encoder")
    stream = ready(dataclasses.replace(lines, rows="stream"), "causal")
    assert framed.stats["train"].tokens == bare.stats["train"].tokens + 2 * bare.stats["train"].documents
    assert "segments" in bare.train_rows[0]
    assert "segments" not in stream.train_rows[0]


@pytest.mark.parametrize(
    ("changes", "length", "message"),
    [
        ({"frame": "[MASK] nowhere"}, LENGTH, 'frame: tokenizer bytes has no token "nowhere"'),
        ({"rows": "stream"}, LENGTH, r'data\.rows = "stream": an encoder reads each text by itself'),
        ({"frame": "[MASK] [MASK]"}, 2, r"model\.length = 2: 2 tokens stand around every text"),
    ],
)
def test_what_whole_texts_refuse(lines: DataConfig, changes, length, message):
    with pytest.raises(UserError, match=message):
        prepare(dataclasses.replace(lines, **changes), length, "encoder", progress=False)


def test_a_text_to_score_is_packed_as_the_corpus_is(lines: DataConfig):
    found = ready(lines, "causal")
    scored = text_batches(["abab", "ab"], found.spec, LENGTH, 1)
    (batch,) = scored.batches
    assert batch.segments[0, :7].tolist() == [1, 1, 1, 1, 2, 2, 0]
    assert batch.places[0, :6].tolist() == [0, 1, 2, 3, 0, 1]
