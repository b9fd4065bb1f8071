"""Labels of many texts against the model called directly, whatever the batches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_runs import TOKENIZER, calibrated, model_config

from jaxode.config import DepthConfig, UserError
from jaxode.inference import classify_texts
from jaxode.model import SequenceClassifier
from jaxode.model.parameters import split

CLASSES = 3
TOLERANCE = 5e-5


@pytest.fixture(scope="module")
def models():
    made = {}
    for kind in ("causal", "masked"):
        config = model_config(kind, length=40)
        architecture, params = split(SequenceClassifier(config, CLASSES, rngs=nnx.Rngs(0)))
        made[kind] = architecture, {name: 2 * value for name, value in params.items()}
    return made


@pytest.mark.parametrize(
    ("kind", "depth"),
    [
        ("causal", DepthConfig()),
        ("masked", DepthConfig(steps=2, solver="heun")),
        ("masked", DepthConfig(steps=2, solver="calibrated")),
    ],
)
@pytest.mark.broad
def test_labels_are_those_of_the_model_on_one_unpadded_row(models, kind, depth):
    architecture, params = models[kind]
    params = calibrated(params)
    model = architecture.bind(params)
    texts = ["one block", "a", "again and again and again", "x" * 40]
    run = jax.jit(lambda tokens: model(tokens, depth).logits)
    done = classify_texts(architecture, params, TOKENIZER, texts, depth=depth, batch_size=2)
    for found, text in zip(done.classes, texts, strict=True):
        logits = run(jnp.asarray([TOKENIZER.encode(text)]))
        assert found.probabilities == pytest.approx(np.asarray(jax.nn.softmax(logits)[0]).tolist(), abs=TOLERANCE)
        assert found.label == int(logits.argmax())
    assert np.ptp([found.probabilities for found in done.classes], axis=0).max() > 0.01
    assert done.throughput.rows == done.throughput.texts == 4
    assert done.throughput.block_evaluations == (2 if depth.solver == "calibrated" else 4)


@pytest.mark.parametrize("problem_type", ["multi_label_classification", "regression"])
def test_outputs_that_are_no_choice_of_a_label(problem_type):
    model = SequenceClassifier(model_config("masked"), 1, problem_type=problem_type, rngs=nnx.Rngs(0))
    done = classify_texts(*split(model), TOKENIZER, ["one", "again"])
    assert done.problem_type == problem_type
    for found, text in zip(done.classes, ["one", "again"], strict=True):
        logit = float(model(jnp.asarray([TOKENIZER.encode(text)])).logits[0, 0])
        assert found.label is None
        if problem_type == "regression":
            assert found.scores == pytest.approx([logit], abs=TOLERANCE)
            assert (found.labels, found.probabilities) == ((), ())
        else:
            assert found.probabilities == pytest.approx([1 / (1 + np.exp(-logit))], abs=TOLERANCE)
            assert found.labels == ((0,) if logit > 0 else ())


@pytest.mark.broad
@pytest.mark.parametrize("kind", ["causal", "masked"])
def test_a_label_depends_on_its_text_alone(models, kind):
    alone = {}

    def one(text):
        if text not in alone:
            (alone[text],) = classify_texts(*models[kind], TOKENIZER, [text]).classes
        return alone[text]

    @settings(max_examples=12, deadline=None)
    @given(st.lists(st.text("abc", min_size=1, max_size=40), min_size=1, max_size=9), st.sampled_from([1, 8]))
    def check(texts, batch_size):
        done = classify_texts(*models[kind], TOKENIZER, texts, batch_size=batch_size)
        for found, text in zip(done.classes, texts, strict=True):
            assert found.probabilities == pytest.approx(one(text).probabilities, abs=TOLERANCE)

    check()


def test_other_texts_compile_nothing(models, compilations):
    """One program a bucket, then none."""
    texts = ["x" * n for n in (3, 7, 20, 30, 32, 35, 40)]
    # single operations outside of the programs compile once a process, for whichever model comes first
    classify_texts(*models["causal"], TOKENIZER, texts, batch_size=2)
    before = compilations()
    done = classify_texts(*models["masked"], TOKENIZER, texts, batch_size=2)
    assert compilations() - before <= done.throughput.shapes == 3
    before = compilations()
    classify_texts(*models["masked"], TOKENIZER, ["y" * n for n in (35, 34, 31, 26, 25, 20, 1)], batch_size=2)
    assert compilations() == before


def test_a_language_model_gives_no_label(masked):
    with pytest.raises(UserError, match="MaskedLM has no classifier head: give a SequenceClassifier"):
        classify_texts(*masked, TOKENIZER, ["a"])
