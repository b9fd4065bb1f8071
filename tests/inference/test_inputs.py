"""What is no list of texts, and a tokenizer that is not the model's, wherever texts go in."""

import dataclasses

import numpy as np
import pytest
from flax import nnx
from tiny_runs import TOKENIZER, model_config

from jaxode.config import UserError
from jaxode.inference import classify_texts, fill, generate, generate_batch, score_texts
from jaxode.model import SequenceClassifier, make_model
from jaxode.model.parameters import split

SMALL = TOKENIZER.vocab_size - 1


@pytest.fixture(scope="module")
def classifier():
    return split(SequenceClassifier(model_config("masked"), 2, rngs=nnx.Rngs(0)))


@pytest.fixture
def several(causal, classifier):
    """Functions of a model, a tokenizer and several texts."""
    return {
        "texts": (lambda texts: score_texts(*causal, TOKENIZER, texts)),
        "classes": (lambda texts: classify_texts(*classifier, TOKENIZER, texts)),
        "prompts": (lambda texts: generate_batch(*causal, TOKENIZER, texts, max_new_tokens=2)),
    }


@pytest.mark.parametrize("name", ["texts", "classes", "prompts"])
@pytest.mark.usefixtures("untyped")
def test_a_string_and_what_holds_no_texts_are_refused(several, name, compilations):
    before = compilations()
    noun = "prompts" if name == "prompts" else "texts"
    for texts in ("good", b"good"):
        with pytest.raises(UserError, match=f"^{noun} is one string: give a list"):
            several[name](texts)
    for texts, kind in (({"good": 1}, "dict"), ({"good"}, "set"), (None, "NoneType"), (np.array("good"), "ndarray")):
        with pytest.raises(UserError, match=f"^{noun} is of type {kind}: give a list"):
            several[name](texts)
    for texts in ([], (), iter([]), np.array([], str)):
        with pytest.raises(UserError, match=f"^no {noun}: give at least one$"):
            several[name](texts)
    second = "prompt 1" if name == "prompts" else "text 2"
    for texts, kind in ((["good", b"bad"], "bytes"), (["good", None], "NoneType"), (["good", 7], "int")):
        with pytest.raises(UserError, match=f"^{second} is of type {kind}: give a"):
            several[name](texts)
    with pytest.raises(UserError, match=f"^{second} is "):
        several[name](["good", ["bad"]])
    assert compilations() == before


@pytest.mark.parametrize("name", ["texts", "classes", "prompts"])
def test_texts_may_come_in_any_order_that_they_have(several, name):
    def numbers(done):
        rows = done if name == "prompts" else done.scores if name == "texts" else done.classes
        return [row.ids if name == "prompts" else row for row in rows]

    expected = numbers(several[name](["good", "bad"]))
    for make in (tuple, iter, np.array):
        assert numbers(several[name](make(["good", "bad"]))) == expected


def test_another_models_tokenizer_is_refused():
    """JAX would read the last row of the embedding for ids beyond it."""
    why = rf"tokenizer bytes has {SMALL + 1} ids, the model model.vocab_size = {SMALL}: give the model's own tokenizer"
    causal, masked = (split(make_model(model_config(kind, vocab_size=SMALL))) for kind in ("causal", "masked"))
    form = dataclasses.replace(model_config("masked"), vocab_size=SMALL)
    classifier = split(SequenceClassifier(form, 2, rngs=nnx.Rngs(0)))
    for refused in (
        lambda: generate(*causal, TOKENIZER, "abc"),
        lambda: score_texts(*causal, TOKENIZER, ["abc"]),
        lambda: score_texts(*masked, TOKENIZER, ["abc"]),
        lambda: classify_texts(*classifier, TOKENIZER, ["abc"]),
        lambda: fill(*masked, TOKENIZER, "a[MASK]"),
    ):
        with pytest.raises(UserError, match=why):
            refused()


@pytest.mark.usefixtures("untyped")
def test_one_text_is_no_list(causal, masked):
    for prompt, why in (
        (["abc"], "^the prompt is a list of several: give one text or one list of token ids, or generate_batch"),
        ([[1, 2]], "^the prompt is a list of several"),
        (np.array([[1, 2]]), "^the prompt is a ndarray of several"),
        (b"abc", "^the prompt is of type bytes: give a text or a list of token ids"),
        (None, "^the prompt is of type NoneType"),
        ("", "^the prompt is empty"),
    ):
        with pytest.raises(UserError, match=why):
            generate(*causal, TOKENIZER, prompt)
    with pytest.raises(UserError, match=r"^text is of type list: give one string"):
        fill(*masked, TOKENIZER, ["a[MASK]"])
