"""Texts of which a part is read and not predicted: questions before a mark, answers behind it."""

import dataclasses

import numpy as np
import pytest

from jaxode.config import DataConfig, UserError
from jaxode.data import BatchSpec, byte_tokenizer, prepare, text_batches
from jaxode.data.batches import ValidationBatches

TEXTS = ["1+2=3", "10+2=12", "7=7=7"]
TOKENIZER = byte_tokenizer()


def batch(kind="causal", texts=TEXTS, length=32, **options):
    spec = BatchSpec(TOKENIZER, kind, document_mask=True, around=((), ()), answer_after="=", **options)
    (found,) = text_batches(texts, spec, length, 1).batches
    return found


def predicted(found):
    """Of the first row, the characters that count, text by text."""
    parts = {}
    for target, weight, segment in zip(found.targets[0], found.weights[0], found.segments[0], strict=True):
        if weight:
            parts[int(segment)] = parts.get(int(segment), "") + TOKENIZER.decode([int(target)])
    return [parts[key] for key in sorted(parts)]


def test_only_what_is_behind_the_mark_is_predicted():
    assert predicted(batch()) == ["3", "12", "7=7"]


def test_all_of_a_text_is_read():
    found = batch()
    real = found.segments[0] > 0
    assert real.sum() == sum(map(len, TEXTS))


def test_a_masked_model_finds_masks_in_answers_alone():
    found = batch("masked", mask_fraction=0.9)
    assert set("".join(predicted(found))) <= set("3127=")
    hidden = np.flatnonzero(found.weights[0])
    answers = [i for i in range(32) if found.segments[0, i]]
    assert 0 < len(hidden) < len(answers)
    # of every question all is as it was
    text = "".join(TEXTS)
    for place, token in enumerate(found.tokens[0][: len(text)]):
        if place not in hidden:
            assert TOKENIZER.decode([int(token)]) == text[place]


def settings(folder, text, **data):
    (folder / "a.txt").write_text(text)
    return DataConfig(
        files=str(folder / "a.txt"),
        cache=str(folder / "cache"),
        tokenizer="bytes",
        lines=True,
        rows="texts",
        answer_after="=",
        **data,
    )


def test_a_corpus_keeps_what_is_only_read(tmp_path):
    text = "1+1=2\n2+2=4\n3+3=6\n4+4=8\n"
    data = prepare(settings(tmp_path, text, valid_fraction=0.25), 8, "causal")
    rows = [*data.train_rows, *data.validation_rows]
    assert {int(row["given"].sum()) for row in rows} == {4}
    (found,) = ValidationBatches(data.validation_rows, data.spec, 1)
    assert len(predicted(found)[0]) == 1
    # the same text without the mark is another corpus
    whole = dataclasses.replace(settings(tmp_path, text, valid_fraction=0.25), answer_after="")
    other = prepare(whole, 8, "causal")
    assert "given" not in other.train_rows[0]


@pytest.mark.parametrize(
    ("text", "length", "message"),
    [
        ("1+1=2\nno mark\n2+2=4\n", 16, r"a.txt#1: nothing of it is left to predict behind data.answer_after = \"=\""),
        ("1+1=2\n2+2=\n", 16, "a.txt#1: nothing of it is left to predict"),
        ("1+1=2\n123456+1=2\n", 8, "a.txt#1: nothing of it is left to predict"),
    ],
)
def test_texts_without_an_answer_are_named(tmp_path, text, length, message):
    with pytest.raises(UserError, match=message):
        prepare(settings(tmp_path, text), length, "causal")


def test_what_closes_a_text_is_no_answer(tmp_path):
    framed = dataclasses.replace(settings(tmp_path, "1+1=2\n123456+1=2\n"), frame="<|endoftext|> <|endoftext|>")
    with pytest.raises(UserError, match=r"a.txt#1: nothing of it is left to predict"):
        prepare(framed, 10, "causal")
    assert prepare(framed, 16, "causal").bytes_per_token("train") is None  # of answers alone


def test_settings_that_contradict(tmp_path):
    with pytest.raises(UserError, match=r'data.answer_after = "=" with data.rows = "stream": only whole texts'):
        DataConfig(answer_after="=")
    with pytest.raises(UserError, match="an encoder predicts nothing of a text"):
        prepare(settings(tmp_path, "a=b\nc=d\n"), 8, "encoder")
