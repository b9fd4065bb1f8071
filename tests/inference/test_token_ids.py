"""Texts as ids within the tokenizer's template, cut or refused where they are too long."""

import json

import numpy as np
import pytest
import tokenizers as hf
from tiny_runs import TOKENIZER

from jaxode.config import UserError
from jaxode.data import Tokenizer
from jaxode.data.tokenizers import Template
from jaxode.inference.texts.token_ids import as_texts, token_rows

END, PAD, MASK = TOKENIZER.end_id, TOKENIZER.pad_id, TOKENIZER.mask_id


@pytest.fixture(scope="module")
def framing():
    """Puts two tokens before a text and one after it."""
    names = {token: {"id": token, "ids": [TOKENIZER.token_id(token)], "tokens": [token]} for token in SPECIAL}
    end, pad = ({"SpecialToken": {"id": token, "type_id": 0}} for token in SPECIAL)
    pieces = [end, pad, {"Sequence": {"id": "A", "type_id": 0}}, end]
    template = {"type": "TemplateProcessing", "single": pieces, "pair": pieces, "special_tokens": names}
    raw = json.loads(TOKENIZER._json) | {"post_processor": template}
    return Tokenizer(hf.Tokenizer.from_str(json.dumps(raw)), "framing", END, MASK, PAD)


SPECIAL = ("<|endoftext|>", "<|pad|>")


def test_the_template_is_what_a_frame_adds(framing):
    assert framing.template == Template((END, PAD), (END,))
    assert TOKENIZER.template == Template()
    before, after = framing.template.before, framing.template.after
    for text in ("abc", "a[MASK]"):
        assert framing.encode(text, frame=True) == [*before, *framing.encode(text), *after]


def test_the_frame_is_the_tokenizers_own_unless_said(framing):
    bare, framed = ("abc",), ((END, PAD, *framing.encode("abc"), END),)
    own = Tokenizer(hf.Tokenizer.from_str(framing._json), "framing", END, MASK, PAD, framed=True)
    for tokenizer, frame, want in (
        (framing, None, False),
        (framing, True, True),
        (own, None, True),
        (own, False, False),
    ):
        ids = token_rows(tokenizer, bare, 8, frame=frame).ids
        assert ids == (framed if want else (tuple(framing.encode("abc")),))


def test_framed_and_cut(framing):
    done = token_rows(framing, ["abc", "abcdefgh"], 8, frame=True, truncate=True)
    assert done.ids == tuple((END, PAD, *TOKENIZER.encode(text), END) for text in ("abc", "abcde"))
    assert (done.before, done.after, done.truncated) == (2, 1, 1)
    assert done.lengths.tolist() == [6, 8]
    assert done.own.tolist() == [3, 5]
    bare = token_rows(framing, ["abcdefgh"], 8)
    assert (bare.ids, bare.truncated) == ((tuple(TOKENIZER.encode("abcdefgh")),), 0)


def test_two_named_tokens_are_a_frame(framing):
    for tokenizer in (framing, TOKENIZER):
        done = token_rows(tokenizer, ["abcdef"], 6, frame=("[MASK]", "<|pad|>"), truncate=True)
        assert done.ids == ((MASK, *TOKENIZER.encode("abcd"), PAD),)
        assert (done.before, done.after) == (1, 1)
    with pytest.raises(UserError, match=r'frame: tokenizer bytes has no token "\[CLS\]": name two that it has'):
        token_rows(TOKENIZER, ["a"], 8, frame=("[CLS]", "<|pad|>"))


def test_what_a_tokenizer_does_not_know_is_counted():
    """One token stands for the unknown, for padding, and for itself, as in phonemes of a speech model."""
    model = hf.Tokenizer(hf.models.WordLevel({"$": 0, "a": 1, "b": 2}, unk_token="$"))
    model.pre_tokenizer = hf.pre_tokenizers.Split("", "isolated")
    letters = Tokenizer(model, "letters", 0, None, 0)
    done = token_rows(letters, ["ab", "axyb", "$a$", "x"], 8)
    assert done.ids == ((1, 2), (1, 0, 0, 2), (0, 1, 0), (0,))
    assert done.unknown == 3
    assert (letters.unknown_id, TOKENIZER.unknown_id) == (0, None)
    assert token_rows(TOKENIZER, ["\u20ac"], 8).unknown == 0


def test_special_tokens_written_out_are_plain_text():
    assert token_rows(TOKENIZER, ["[MASK]"], 8).own.tolist() == [6]


def test_bad_texts_are_named(framing):
    with pytest.raises(UserError, match="no texts: give at least one"):
        token_rows(TOKENIZER, [], 8)
    with pytest.raises(UserError, match="text 2 holds no token that tokenizer bytes knows"):
        token_rows(TOKENIZER, ["a", ""], 8)
    with pytest.raises(
        UserError, match=r"^text 2 has 9 tokens, the model reads at most model.length = 8; 2 of 3 texts are too long"
    ):
        token_rows(TOKENIZER, ["a", "a" * 9, "b" * 10], 8)
    with pytest.raises(UserError, match=r"^f: line 7 has 9 tokens, 3 of them around every text, the model reads"):
        token_rows(framing, ["a" * 6], 8, frame=True, names=["f: line 7"])


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize(
    ("texts", "why"),
    [
        ("abc", "^texts is one string: give a list$"),
        (b"abc", "^texts is one string: give a list$"),
        (None, "^texts is of type NoneType: give a list of strings$"),
        (7, "^texts is of type int"),
        ({"abc": 1}, "^texts is of type dict"),
        ({"abc"}, "^texts is of type set"),
        (np.array("abc"), "^texts is of type ndarray"),
        (np.array([["abc", "d"]]), "^texts is of type ndarray"),
        (["abc", b"d"], "^text 2 is of type bytes: give a string$"),
        (["abc", None], "^text 2 is of type NoneType"),
        (["abc", ["d"]], "^text 2 is of type list"),
        ([["abc", "d"]], "^text 1 is of type list"),
        (np.array([1, 2]), "^text 1 is of type int64"),
    ],
    ids=repr,
)
def test_what_is_no_list_of_texts_is_refused(texts, why):
    """One string would be taken apart into its letters, and a dictionary into its keys."""
    with pytest.raises(UserError, match=why):
        as_texts(texts)


@pytest.mark.parametrize("make", [list, tuple, iter, np.array, lambda texts: (text for text in texts)])
def test_several_texts_come_in_any_order_that_they_have(make):
    assert as_texts(make(["ab", "c"])) == ["ab", "c"]
    assert token_rows(TOKENIZER, make(["ab", "c"]), 8) == token_rows(TOKENIZER, ["ab", "c"], 8)


@pytest.mark.usefixtures("untyped")
def test_texts_that_are_none_are_called_by_their_names():
    with pytest.raises(UserError, match=r"^f: line 9 is of type bytes: give a string$"):
        token_rows(TOKENIZER, ["a", b"b"], 8, names=["f: line 7", "f: line 9"])
    with pytest.raises(UserError, match=r"^names: 1 of them for 2 texts"):
        token_rows(TOKENIZER, ["a", "b"], 8, names=["f: line 7"])
