"""Pieces of text: finished characters only, nothing lost, nothing twice."""

import tokenizers as hf
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import decoders, models

from jaxode.data import Tokenizer, byte_tokenizer, train_bpe
from jaxode.inference import TextStream

BYTES = byte_tokenizer()
BPE = train_bpe(["the café, the naïve 北京 🙂 the café"] * 3, 300)


def pieces(tokenizer, ids, prompt=()):
    stream = TextStream(tokenizer, prompt)
    return [*(stream.push(i) for i in ids), stream.finish()]


def test_a_character_appears_with_its_last_byte():
    assert pieces(BYTES, BYTES.encode("aé🙂b")) == ["a", "", "é", "", "", "", "🙂", "b", ""]


@given(st.text(), st.text(max_size=12))
def test_pieces_join_to_the_text_and_show_no_half_characters(text, prompt):
    for tokenizer in (BYTES, BPE):
        got = pieces(tokenizer, tokenizer.encode(text), tokenizer.encode(prompt))
        assert "".join(got) == text
        assert sum("\ufffd" in piece for piece in got) <= text.count("\ufffd")


@given(st.text(), st.lists(st.integers(0, 5)))
def test_many_tokens_at_once_are_the_same_text(text, sizes):
    for tokenizer in (BYTES, BPE):
        stream, ids, got = TextStream(tokenizer), tokenizer.encode(text), ""
        for size in sizes:
            got += stream.push(*ids[:size])
            ids = ids[size:]
        assert got + stream.push(*ids) + stream.finish() == text


@given(st.lists(st.sampled_from(BYTES.ordinary_ids), max_size=40))
def test_broken_bytes_are_shown_as_the_decoder_shows_them(ids):
    assert "".join(pieces(BYTES, ids)) == BYTES.decode(ids)


def test_broken_bytes_do_not_hold_back_what_is_settled():
    (broken,) = BYTES.encode("é")[:1]
    got = pieces(BYTES, [broken, *BYTES.encode("ab"), broken])
    assert got == ["", "\ufffda", "b", "", "\ufffd"]


def test_special_tokens_are_silent():
    assert pieces(BYTES, [BYTES.pad_id, *BYTES.encode("a"), BYTES.end_id, *BYTES.encode("b")]) == [
        "", "a", "", "b", "",
    ]  # fmt: skip


def test_a_space_that_only_a_neighbour_shows_is_kept():
    """Such vocabularies drop the space of a text's first token: decode(["▁world"]) is "world"."""
    vocabulary = {"▁hello": 0, "▁world": 1, "!": 2, "</s>": 3}
    model = hf.Tokenizer(models.WordLevel(vocabulary, unk_token="!"))
    model.decoder = decoders.Metaspace()
    tokenizer = Tokenizer(model, "words", end_id=3, mask_id=None, pad_id=3)
    assert tokenizer.decode([1]) == "world"
    assert pieces(tokenizer, [1, 2, 0], prompt=[0]) == [" world", "!", " hello", ""]
    assert pieces(tokenizer, [0, 1]) == ["hello", " world", ""]
