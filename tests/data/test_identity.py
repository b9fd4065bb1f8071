"""A resumed run reads the text that it began with, wherever that is by now."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from jaxode.config import Config, DataConfig, UserError
from jaxode.data import prepare
from jaxode.data.identity import PARTS, IdentityCounter, change


def batches(data: DataConfig):
    return prepare(data, 32, "causal", progress=False).train(4, seed=1)


def edit(data: DataConfig, name: str, old: str, new: str) -> None:
    path = Path(data.files).parent / name
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.fixture
def data(corpus: DataConfig) -> DataConfig:
    return replace(corpus, tokenizer="bytes")


def held_out(data: DataConfig) -> set[str]:
    return set(prepare(data, 32, "causal", progress=False).identity["validation"].sources)


def test_a_corpus_that_was_moved_and_touched_is_the_same(data: DataConfig):
    before = batches(data)
    folder = Path(data.files).parent
    moved = shutil.move(folder, folder.parent.parent / f"{folder.parent.name}-moved")
    for path in Path(moved).iterdir():
        os.utime(path, (1e9, 1e9))
    after = batches(replace(data, files=f"{moved}/*.txt"))
    after.set_state(before.get_state())
    for step in (0, 7):
        assert np.array_equal(before.at(step).tokens, after.at(step).tokens)


def test_an_edited_text_is_refused_by_name(data: DataConfig):
    state = batches(data).get_state()
    name = next(f"{i:02}.txt" for i in range(40) if f"{i:02}.txt#0" not in held_out(data))
    # as many bytes, so as many rows
    edit(data, name, "Document", "document")
    after = batches(data)
    assert after.rows == state["rows"]
    with pytest.raises(UserError, match=rf"the train split differs in {name}#0; .*data\.edited = true"):
        after.set_state(state)
    # what one accepts is saved from then on
    accepted = batches(replace(data, edited=True))
    accepted.set_state(state | {"step": 5})
    assert accepted.get_state()["step"] == 5
    after.set_state(accepted.get_state())


def test_text_that_is_validated_on_counts(data: DataConfig):
    state = batches(data).get_state()
    (name, *_) = sorted(held_out(data))
    edit(data, name.removesuffix("#0"), "Document", "document")
    with pytest.raises(UserError, match=f"the validation split differs in {name}"):
        batches(data).set_state(state)


def test_added_text_is_refused_and_can_be_accepted(data: DataConfig):
    state = batches(data).get_state()
    for i in range(40, 60):
        (Path(data.files).parent / f"{i}.txt").write_text(f"document {i} " * 20)
    with pytest.raises(UserError, match=r"the train split has \d+ documents, it had \d+"):
        batches(data).set_state(state)
    batches(replace(data, edited=True)).set_state(state)


def test_a_position_of_an_older_version_names_no_text(data: DataConfig):
    found = batches(data)
    state = found.get_state()
    del state["text"]
    found.set_state(state | {"step": 3})
    assert found.get_state()["step"] == 3


def test_a_run_that_begins_has_no_text_to_differ_from(data: DataConfig):
    with pytest.raises(UserError, match=r"data\.edited = true without resume"):
        Config(data=replace(data, edited=True))


def counted(texts: list[str]):
    counter = IdentityCounter(len(texts), lambda i: f"{i}.txt")
    for text in texts:
        counter.add(text.encode())
    return counter.identity()


def test_a_change_is_placed_among_many_documents():
    texts = [f"text {i}" for i in range(1000)]
    before = counted(texts)
    assert len(before.digests) == PARTS
    texts[500] = "TEXT 500"
    after = counted(texts)
    assert sum(a != b for a, b in zip(before.digests, after.digests, strict=True)) == 1
    assert (
        change({"train": after}, {"train": before.state()})
        == "the text of the train split differs in or soon after 500.txt"
    )
    assert change({"train": before}, {"train": before.state()}) == ""


def test_where_a_document_ends_counts():
    assert counted(["ab", "c"]).digests != counted(["a", "bc"]).digests
    # within one part too
    long = ["x"] * 500
    assert counted([*long, "ab", "c"]).digests != counted([*long, "a", "bc"]).digests
