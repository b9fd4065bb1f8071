"""Pairs of texts in a row: what stands around them, and what is cut."""

import json

import pytest
import tokenizers as hf
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import models, pre_tokenizers, processors

from jaxode.config import UserError
from jaxode.data import Tokenizer, byte_tokenizer
from jaxode.data.pairs import PairTemplate, pair_template

BERT = PairTemplate((101,), (102,), (102,), ((0,), 0, (0,), 1, (1,)))
ids = st.lists(st.integers(1, 9), min_size=1, max_size=12)


def framing(pair):
    model = hf.Tokenizer(models.WordLevel({"[CLS]": 0, "[SEP]": 1, "?": 2, "a": 3, "b": 4}, unk_token="?"))
    model.pre_tokenizer = pre_tokenizers.Whitespace()
    model.add_special_tokens(["[CLS]", "[SEP]"])
    special = [("[CLS]", 0), ("[SEP]", 1)]
    model.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", pair=pair, special_tokens=special)
    return model


@given(ids, ids, st.integers(5, 30))
def test_the_longer_text_loses_its_end_first(first, second, length):
    row, kinds = BERT.row(first, second, length)
    assert len(row) == len(kinds) == min(length, len(first) + len(second) + 3)
    one, two = row[1 : row.index(102)], row[row.index(102) + 1 : -1]
    assert one == first[: len(one)]
    assert two == second[: len(two)]
    assert one
    assert two
    cut = len(one) < len(first), len(two) < len(second)
    if cut == (True, True):
        assert len(one) - len(two) in (0, 1)
    elif cut[0]:
        assert len(one) >= len(two)
    elif cut[1]:
        assert len(two) >= len(one)
    assert kinds == [0] * (len(one) + 2) + [1] * (len(two) + 1)


def test_the_template_is_that_of_the_tokenizer():
    model = framing("[CLS] $A [SEP] $B:1 [SEP]:1")
    found = pair_template(model, "bert")
    assert found == PairTemplate((0,), (1,), (1,), ((0,), 0, (0,), 1, (1,)))
    tokenizer = Tokenizer(model, "bert", end_id=1, mask_id=None, pad_id=1, framed=True)
    assert tokenizer.pair_template(None) == found
    encoded = model.encode("a b a", "b b")
    row = found.row(
        model.encode("a b a", add_special_tokens=False).ids, model.encode("b b", add_special_tokens=False).ids, 99
    )
    assert row == (encoded.ids, encoded.type_ids)


def test_without_a_template_the_end_token_divides():
    tokenizer = byte_tokenizer()
    end = tokenizer.end_id
    assert tokenizer.pair_template(None).row([1], [2], 9) == ([1, end, 2], [0, 0, 1])
    bert = Tokenizer(framing("[CLS] $A [SEP] $B:1 [SEP]:1"), "bert", end_id=1, mask_id=None, pad_id=1, framed=True)
    assert bert.pair_template(("[SEP]", "[CLS]")).row([3], [4], 9) == ([1, 3, 0, 4, 0], [0, 0, 0, 1, 1])
    assert bert.pair_template(False).row([3], [4], 9) == ([3, 1, 4], [0, 0, 1])


def test_a_template_without_a_second_text_is_refused():
    raw = json.loads(framing("[CLS] $A [SEP] $B [SEP]").to_str())
    raw["post_processor"]["pair"] = raw["post_processor"]["single"]
    with pytest.raises(UserError, match="tokenizer odd: its template has no place for a second text"):
        pair_template(hf.Tokenizer.from_str(json.dumps(raw)), "odd")
