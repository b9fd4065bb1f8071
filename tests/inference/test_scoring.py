"""Scores of many texts against a plain loop over the model, whatever the batches."""

import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_runs import TOKENIZER, calibrated, model_config
from tqdm import tqdm

from jaxode.config import DepthConfig, UserError
from jaxode.data import Tokenizer
from jaxode.evaluation import Diverged
from jaxode.inference import TextScore, score_texts
from jaxode.inference.texts import batch_pass
from jaxode.model import Encoder, make_model
from jaxode.model.parameters import split

TEXTS = ("one block", "again and again and again", "deep!")
LONGER = {"length": 40, "heads": 4}
POST = {"positions": "learned", "norm_position": "post", "sharing": "sequence", "groups": 2}
TOLERANCE = 1e-5


def well_conditioned(config):
    """Logits that are not flat, and yet a rounding error is not made a hundred times larger, as by `parameters`."""
    architecture, params = split(make_model(config))
    return architecture, {name: 2 * value for name, value in params.items()}


@pytest.fixture(scope="module")
def models():
    """Whose texts fall into buckets of 16, 32 and 40 tokens."""
    return {
        "causal": well_conditioned(model_config("causal", **LONGER)),
        "masked": well_conditioned(model_config("masked", **LONGER)),
        "masked, post-norm": well_conditioned(model_config("masked", **LONGER, **POST)),
    }


def plain(model, text, depth, given=0):
    """Unpadded rows without segments, from logits over every position; in float64 from there."""
    architecture, params = model
    bound = architecture.bind(params)
    ids = TOKENIZER.encode(text)
    if bound.config.kind == "masked":
        rows = [[*ids[:i], TOKENIZER.mask_id, *ids[i + 1 :]] for i in range(len(ids))]
        asked = [(i, i, token) for i, token in enumerate(ids)]
    else:
        rows = [ids if given else [TOKENIZER.end_id, *ids]]
        asked = [(0, i, token) for i, token in enumerate(rows[0][1:])]
    logits = np.asarray(jax.jit(lambda tokens: bound(tokens, depth).logits)(jnp.asarray(rows)), np.float64)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return -sum(log_p[at] for at in asked)


@pytest.mark.broad
@pytest.mark.parametrize(
    ("kind", "depth"),
    [
        ("causal", DepthConfig()),
        ("causal", DepthConfig(steps=2, solver="calibrated")),
        ("masked", DepthConfig()),
        ("masked", DepthConfig(steps=2, solver="calibrated")),
        ("masked, post-norm", DepthConfig(steps=2, solver="secant")),
    ],
)
def test_scores_are_those_of_a_plain_loop(models, kind, depth):
    architecture, params = models[kind]
    params = calibrated(params)
    done = score_texts(architecture, params, TOKENIZER, TEXTS, depth=depth, batch_size=7)
    want = [plain((architecture, params), text, depth) for text in TEXTS]
    assert np.ptp([nats / len(text) for nats, text in zip(want, TEXTS, strict=True)]) > 0.01
    assert [score.nats for score in done.scores] == pytest.approx(want, rel=TOLERANCE)
    assert [score.tokens for score in done.scores] == [len(text) for text in TEXTS]
    assert done.throughput.rows == (3 if kind == "causal" else sum(map(len, TEXTS)))
    assert done.throughput.block_evaluations == (4 if depth.steps is None else 2)


@pytest.mark.parametrize("kind", ["causal", "masked", "masked, post-norm"])
@pytest.mark.broad
def test_a_score_depends_on_its_text_alone(models, kind):
    """Any texts in any order and any batches, each as if it were alone."""
    texts = st.lists(st.text("abc", min_size=1, max_size=40), min_size=1, max_size=4)
    alone = {}

    def one(text):
        if text not in alone:
            (alone[text],) = score_texts(*models[kind], TOKENIZER, [text], batch_size=4).scores
        return alone[text]

    @settings(max_examples=8, deadline=None)
    @given(texts, st.sampled_from([1, 8]))
    def check(texts, batch_size):
        done = score_texts(*models[kind], TOKENIZER, texts, batch_size=batch_size)
        for score, text in zip(done.scores, texts, strict=True):
            want = one(text)
            assert score.nats == pytest.approx(want.nats, rel=TOLERANCE, abs=TOLERANCE)
            assert score.tokens == want.tokens == len(text)

    check()


def test_documents_that_were_kept_apart_give_their_first_token(models):
    texts = ["abc", "again and again"]
    done = score_texts(*models["causal"], TOKENIZER, texts, document_mask=True)
    want = [plain(models["causal"], text, DepthConfig(), given=1) for text in texts]
    assert [score.nats for score in done.scores] == pytest.approx(want, rel=TOLERANCE)
    assert [score.tokens for score in done.scores] == [2, 14]
    with pytest.raises(UserError, match=r"text 2 has one token, which a model .* is given"):
        score_texts(*models["causal"], TOKENIZER, ["abc", "a"], document_mask=True)
    # every token of a masked text has the others beside it
    assert score_texts(*models["masked"], TOKENIZER, ["a"], document_mask=True).scores[0].tokens == 1


def test_numbers_of_a_text():
    assert TextScore(nats=6.0, tokens=4).nats_per_token == 1.5


def test_the_bar_ends_where_it_was_to_end(models, monkeypatch):
    bars = []

    def seen(**options):
        bars.append(tqdm(**(options | {"disable": False, "file": io.StringIO()})))
        return bars[-1]

    monkeypatch.setattr(batch_pass, "tqdm", seen)
    done = score_texts(*models["masked"], TOKENIZER, TEXTS, batch_size=7, progress="score")
    (bar,) = bars
    # 25 rows of 25 tokens, whose last batch takes in three of the other 14, and two batches of the rest
    assert bar.n == bar.total == 7 * (4 * 32 + 2 * 16)
    assert done.throughput.rows == 39
    assert 0 < done.throughput.seconds_first <= done.throughput.seconds
    assert done.throughput.texts_per_second == 3 / done.throughput.seconds


@pytest.mark.broad
@pytest.mark.parametrize("kind", ["causal", "masked"])
def test_other_texts_compile_nothing(models, kind, compilations):
    """As many programs as bucket lengths, then none: whatever the texts, the order and the weights."""
    architecture, params = well_conditioned(model_config(kind, length=40, heads=1))
    lengths = (1, 16, 17, 20, 30, 32, 33, 40)
    texts = ["x" * n for n in lengths]
    # single operations outside of the programs compile once a process, for whichever model comes first
    score_texts(*models[kind], TOKENIZER, texts, batch_size=2)
    before = compilations()
    done = score_texts(architecture, params, TOKENIZER, texts, batch_size=2)
    assert compilations() - before == done.throughput.shapes <= 3
    middle = compilations()
    halved = {name: value / 2 for name, value in jax.device_get(params).items()}
    score_texts(architecture, halved, TOKENIZER, ["y" * n for n in reversed(lengths)], batch_size=2)
    assert compilations() == middle


def test_what_cannot_be_scored_is_refused(models):
    architecture, params = models["masked"]
    unmasked = Tokenizer(TOKENIZER._prompt, "plain", TOKENIZER.end_id, None, TOKENIZER.pad_id)
    with pytest.raises(UserError, match="tokenizer plain has no mask token"):
        score_texts(architecture, params, unmasked, ["a"])
    with pytest.raises(UserError, match='"tsit5": chooses its steps for a batch as a whole'):
        score_texts(architecture, params, TOKENIZER, ["a"], depth=DepthConfig(solver="tsit5"))
    with pytest.raises(UserError, match="calibrated for no number of steps"):
        score_texts(architecture, params, TOKENIZER, ["a"], depth=DepthConfig(steps=2, solver="calibrated"))
    with pytest.raises(UserError, match="batch_size = 0"):
        score_texts(architecture, params, TOKENIZER, ["a"], batch_size=0)
    with pytest.raises(UserError, match="text 1 has 41 tokens"):
        score_texts(architecture, params, TOKENIZER, ["x" * 41])
    cut = score_texts(architecture, params, TOKENIZER, ["x" * 41], truncate=True)
    assert (cut.truncated, cut.scores[0].tokens) == (1, 40)
    bare = split(Encoder(model_config("masked"), rngs=nnx.Rngs(0)))
    with pytest.raises(UserError, match="Encoder has no head over the vocabulary"):
        score_texts(*bare, TOKENIZER, ["a"])


@pytest.mark.broad
@pytest.mark.parametrize("kind", ["causal", "masked"])
def test_a_solve_that_diverges_is_named(models, kind):
    architecture, params = models[kind]
    params = {name: jnp.zeros_like(value) if name.endswith("kernel") else value for name, value in params.items()}
    params |= {"stack.looped.0.feed_forward.output.bias": jnp.full((16,), 1e19)}
    with pytest.raises(Diverged, match=r"a prediction is not finite .* after step 2 of 2"):
        score_texts(architecture, params, TOKENIZER, ["abc"], depth=DepthConfig(steps=2))
