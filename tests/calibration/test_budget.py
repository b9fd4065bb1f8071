"""Budgets: what is chosen, what is refused, and that the confidence is kept."""

import dataclasses
import inspect

import numpy as np
import pytest
from flax import nnx

from jaxode.calibration import budget as module
from jaxode.calibration import p_value, within_flips, within_increase, within_share
from jaxode.config import DepthConfig, ModelConfig, UserError
from jaxode.data import Batch
from jaxode.model import Encoder, SequenceClassifier, TokenClassifier, make_model
from jaxode.model.parameters import split

MODEL = ModelConfig(vocab_size=31, width=16, heads=2, length=8, steps=12)
DEPTHS = [DepthConfig(steps=n, solver="calibrated") for n in (3, 4, 6)]


@pytest.mark.parametrize(("share", "steps"), [(1.0, None), (0.99, 6), (0.5, 6), (0.49, 4), (0.34, 4), (0.25, 3)])
def test_the_most_steps_within_the_share(share, steps):
    assert within_share(MODEL, DEPTHS, share).depth.steps == steps


def test_prelude_and_coda_count_towards_the_share():
    model = dataclasses.replace(MODEL, prelude=1, coda=1)
    assert within_share(model, DEPTHS, 0.5).depth.steps == 4


def test_a_share_below_the_cheapest_is_refused_with_the_cheapest():
    with pytest.raises(UserError, match=r"3 steps \(calibrated\), takes 0.25"):
        within_share(MODEL, DEPTHS, 0.2)
    with pytest.raises(UserError, match="above 0 and at most 1"):
        within_share(MODEL, DEPTHS, 1.5)


@pytest.mark.parametrize("kind", ["normal", "rare"])
def test_a_true_mean_at_the_limit_is_accepted_no_more_often_than_promised(kind):
    """At the edge of the hypothesis the rate of p <= 0.05 must stay below 0.05, whatever the distribution."""
    rng = np.random.default_rng(0)
    accepted = 0
    for _ in range(400):
        # rare: mostly nothing, seldom a lot, which breaks a bound from the variance of a sample
        draws = rng.normal(0.02, 0.05, 200) if kind == "normal" else np.where(rng.random(200) < 0.02, 1.0, 0.0)
        accepted += p_value(draws, 0.02) <= 0.05
    assert accepted <= 400 * 0.05


def test_a_mean_well_below_the_limit_is_accepted():
    draws = np.random.default_rng(0).normal(0.005, 0.05, 512)
    assert p_value(draws, 0.02) < 0.05
    assert p_value(draws, 0.005) > 0.05


@pytest.fixture
def losses(monkeypatch):
    """Stand in for the model: the loss of every row at each depth."""
    noise = np.random.default_rng(0).normal(0, 0.02, 1000)
    rise = {None: 0.0, 6: 0.001, 4: 0.01, 3: 0.4}

    class Bound:
        config = MODEL

        def resolve(self, depth):
            return depth

    class Architecture:
        def bind(self, params):
            return Bound()

    def rows(architecture, params, batches, depth, document_mask):
        return 3.0 + rise[depth.steps] + (noise if depth.steps else 0.0)

    monkeypatch.setattr(module, "_row_losses", rows)
    return Architecture()


def choose(architecture, limit, **kwargs):
    return inspect.unwrap(within_increase)(architecture, {}, [], DEPTHS, limit, **kwargs)


def test_the_fewest_steps_that_keep_the_limit(losses):
    assert choose(losses, 0.05).depth.steps == 4
    assert choose(losses, 0.008).depth.steps == 6
    assert "with confidence 0.95" in choose(losses, 0.05).reason


def test_a_limit_that_cannot_be_kept_names_what_was_reached(losses):
    with pytest.raises(UserError, match=r"cannot be promised.*6 steps \(calibrated\): loss \+0.00"):
        choose(losses, 0.0001)
    with pytest.raises(UserError, match="none is calibrated"):
        inspect.unwrap(within_increase)(losses, {}, [], [], 0.1)


def test_a_limit_that_is_cut_off_anyway_is_refused(losses):
    with pytest.raises(UserError, match=r"max_loss_increase = 1.5: nats per token, above 0 and below 1, where"):
        choose(losses, 1.5)


def test_a_solve_that_is_not_finite_is_not_chosen(losses, monkeypatch):
    finite = module._row_losses

    def rows(architecture, params, batches, depth, document_mask):
        found = finite(architecture, params, batches, depth, document_mask)
        return np.where(np.arange(1000) > 990, np.nan, found) if depth.steps == 4 else found

    monkeypatch.setattr(module, "_row_losses", rows)
    assert choose(losses, 0.05).depth.steps == 6


@pytest.mark.parametrize(
    ("rule", "make", "message"),
    [
        (within_flips, lambda: make_model(MODEL), "CausalLM labels no whole text; use within_increase"),
        (within_flips, lambda: Encoder(MODEL, rngs=nnx.Rngs(0)), "Encoder labels no whole text; use within_error"),
        (within_increase, lambda: Encoder(MODEL, rngs=nnx.Rngs(0)), "Encoder is measured by its states; bound their"),
        (within_increase, lambda: TokenClassifier(MODEL, 3, rngs=nnx.Rngs(0)), "TokenClassifier is measured by its"),
    ],
)
def test_what_a_model_does_not_give_is_not_bounded(rule, make, message):
    with pytest.raises(UserError, match=message):
        rule(*split(make()), [], [], 0.1)


@pytest.mark.parametrize("problem_type", ["multi_label_classification", "regression"])
def test_what_a_classifier_decides_is_what_is_bounded(problem_type):
    architecture, params = split(
        SequenceClassifier(dataclasses.replace(MODEL, kind="masked"), 1, problem_type=problem_type, rngs=nnx.Rngs(0))
    )
    params = {name: 3 * value for name, value in params.items()}
    tokens = np.random.default_rng(0).integers(0, 31, (64, 8)).astype(np.int32)
    ones = np.ones_like(tokens)
    batches = [Batch(tokens, tokens, ones.astype(np.float32), ones)]
    rescaled = DepthConfig(steps=2, solver="euler")
    if problem_type == "regression":
        for rule in (within_flips, within_increase):
            with pytest.raises(
                UserError, match=r"this model gives numbers and no labels; choose the depth with steps or"
            ):
                rule(architecture, params, batches, [rescaled], 0.1)
        return
    logits = [module._class_logits(architecture, params, batches, depth) for depth in (module.FULL_DEPTH, rescaled)]
    # around its middle, so that many change
    middle = np.median(logits[0])
    params["head.classifier.bias"] = params["head.classifier.bias"] - middle
    changed = np.mean((logits[0] > middle) != (logits[1] > middle))
    assert changed > 0.1
    with pytest.raises(UserError, match=rf"2 steps \(euler\): {changed:.2%} of the labels changed on 64 sequences"):
        within_flips(architecture, params, batches, [rescaled], 0.05)
    with pytest.raises(UserError, match=r"loss \+\d\.\d+ nats per sequence"):
        within_increase(architecture, params, batches, [rescaled], 0.001)
