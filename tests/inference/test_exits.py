"""Early exits of whole models: every layout against truncated solves and read-outs."""

import inspect
import itertools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from adaptive_models import LAYOUTS, SEGMENTS, SIZES, TOKENS
from flax import nnx

from jaxode.config import DepthConfig, ModelConfig, UserError
from jaxode.depth import Acceleration, Coefficients, StateChange, StepError
from jaxode.inference import (
    Confidence,
    Divergence,
    ExitGate,
    Patience,
    error_estimates,
    exit_early,
    read_outs,
    solve_budgets,
)
from jaxode.model import Encoder, SequenceClassifier, make_model
from jaxode.model.parameters import calibration_parameters, split


@pytest.mark.broad
@pytest.mark.parametrize("layout", [*LAYOUTS, "classifier"])
def test_a_row_that_exits_reads_out_its_truncated_solve(models, layout):
    """Rows do not see each other, so an exit after k steps is the full solve's read-out at time k."""
    model = models[layout]
    outs = read_outs(model, TOKENS, segments=SEGMENTS)
    states = np.asarray(model.hidden(TOKENS, segments=SEGMENTS, trace=True).trace.states)
    real = np.asarray(SEGMENTS > 0)
    change = np.linalg.norm(np.diff(states, axis=0), axis=-1) / np.linalg.norm(states[1:], axis=-1)
    mean = (change * real).sum(-1) / real.sum(-1)
    seen = set()
    for threshold in np.sort(mean.ravel()) * (1 + 1e-4):
        found = exit_early(model, TOKENS, StateChange(threshold, "sequence"), segments=SEGMENTS)
        below = mean < threshold
        np.testing.assert_array_equal(found.steps, np.where(below.any(0), below.argmax(0) + 1, len(mean)))
        np.testing.assert_array_equal(found.exited, below.any(0))
        for row, steps in enumerate(np.asarray(found.steps)):
            np.testing.assert_allclose(found.logits[row], outs[steps, row], rtol=1e-5, atol=1e-5)
        seen.add(tuple(np.asarray(found.steps).tolist()))
    # rows of one batch at different depths
    assert any(len(set(steps)) > 1 for steps in seen)
    config = model.config
    each = config.groups if config.sharing == "cycle" else 1
    np.testing.assert_array_equal(found.block_evaluations, config.prelude + config.coda + each * found.steps)


def made_up_landing(steps, seed=0):
    rng = np.random.default_rng(seed)
    shapes = ((steps, 2), (steps, 2, 16, 3), (steps, 3, 16))
    return Coefficients(*((0.3 * rng.normal(size=shape)).astype(np.float32) for shape in shapes))


def test_no_rule_is_another_to_jax():
    """Programs are kept by the structure of their arguments: equal ones are one program."""
    kinds = (StepError, Acceleration, StateChange, Divergence, Confidence, Patience, ExitGate)
    rules = [kind(np.float32(0.5)) for kind in kinds]
    for one, other in itertools.combinations(rules, 2):
        assert jax.tree.structure(one) != jax.tree.structure(other)
    again = [type(rule)(np.float32(0.1)) for rule in rules]
    assert [jax.tree.structure(rule) for rule in again] == [jax.tree.structure(rule) for rule in rules]
    with pytest.raises(UserError, match='Confidence: kind = "Divergence": is the name of the rule'):
        Confidence(0.5, kind="Divergence")


@pytest.mark.parametrize("rule", [StateChange, Divergence])
@pytest.mark.deep
def test_a_landed_exit_is_the_landed_read_out(models, rule, compilations):
    """Through groups, prelude and coda; the rule judges where a row lands. Another landing compiles nothing."""
    model = models["sequence, prelude and coda"]
    seen = set()
    for seed in (0, 1):
        landing = made_up_landing(4, seed)
        outs = read_outs(model, TOKENS, segments=SEGMENTS, landing=landing)
        for threshold in np.geomspace(0.005, 1.0, 12):
            found = exit_early(model, TOKENS, rule(threshold, "sequence"), segments=SEGMENTS, landing=landing)
            exited = np.asarray(found.exited)
            for row, steps in enumerate(np.asarray(found.steps)):
                # who never stops has nothing to land from
                want = outs[steps, row] if exited[row] else model(TOKENS, segments=SEGMENTS).logits[row]
                np.testing.assert_allclose(found.logits[row], want, rtol=1e-4, atol=1e-4)
            seen |= set(np.asarray(found.steps).tolist())
    assert len(seen) > 2
    before = compilations()
    exit_early(model, TOKENS, rule(0.5, "sequence"), segments=SEGMENTS, landing=made_up_landing(4, 2))
    assert compilations() == before


@pytest.mark.broad
@pytest.mark.parametrize("layout", [*LAYOUTS, "classifier"])
def test_threshold_zero_is_the_full_solve_and_infinity_the_first_step(models, layout):
    model = models[layout]
    full = model(TOKENS, segments=SEGMENTS).logits
    granularity = "sequence" if layout == "classifier" else "token"
    never = exit_early(model, TOKENS, StateChange(0, granularity), segments=SEGMENTS)
    np.testing.assert_allclose(never.logits, full, rtol=1e-5, atol=1e-5)
    assert not np.asarray(never.exited).any()
    total = model.config.steps // (model.config.groups if model.config.sharing == "cycle" else 1)
    assert (np.asarray(never.steps) == total).all()
    first = exit_early(model, TOKENS, StateChange(np.inf, granularity), segments=SEGMENTS)
    assert (np.asarray(first.steps) == 1).all()
    assert np.asarray(first.exited).all()
    # later groups take no step at all
    assert int(first.loops) == 1


@pytest.mark.parametrize("rule", [StepError, Acceleration, Divergence, Confidence, Patience])
def test_the_other_rules_at_their_limits(models, rule):
    model = models["causal"]
    full = model(TOKENS).logits
    never, always = {Confidence: (1.0, 0.0), Patience: (4, 0)}.get(rule, (0.0, np.inf))
    earliest = {StepError: 2, Acceleration: 3, Divergence: 1, Confidence: 1, Patience: 1}[rule]
    out = exit_early(model, TOKENS, rule(never))
    np.testing.assert_allclose(out.logits, full, rtol=1e-5, atol=1e-5)
    assert (np.asarray(out.steps) == 4).all()
    assert (np.asarray(exit_early(model, TOKENS, rule(always)).steps) == earliest).all()


@pytest.mark.broad
@pytest.mark.parametrize("rule", [Divergence, Confidence])
def test_rules_on_predictions_stop_where_the_read_outs_say(models, rule):
    """By sequence, so that no exit changes what a row's other tokens see; read-outs pass the coda."""
    model = models["sequence, prelude and coda"]
    outs = jax.nn.log_softmax(read_outs(model, TOKENS, segments=SEGMENTS))
    real = np.asarray(SEGMENTS > 0)
    log_p = np.array(outs)
    log_p[0] = -np.log(31)
    if rule is Divergence:
        signal = np.sum(np.exp(log_p[:-1]) * (log_p[:-1] - log_p[1:]), axis=-1)
        # the memory of the prediction starts anew in the second group
        signal[2] = np.sum(np.exp(log_p[0]) * (log_p[0] - log_p[3]), axis=-1)
    else:
        signal = np.exp(log_p[1:]).max(-1)
    mean = (signal * real).sum(-1) / real.sum(-1)
    for threshold in np.sort(mean.ravel())[:-1] * (1 + 1e-3):
        stops = mean < threshold if rule is Divergence else mean > threshold
        want = np.where(stops.any(0), stops.argmax(0) + 1, 4)
        found = exit_early(model, TOKENS, rule(threshold, "sequence"), segments=SEGMENTS)
        np.testing.assert_array_equal(found.steps, want)
        # prelude, coda, and block and coda once a step
        np.testing.assert_array_equal(found.block_evaluations, 2 + 2 * want)


@pytest.mark.broad
@pytest.mark.parametrize("layout", ["masked, post-norm", "sequence, prelude and coda", "classifier"])
def test_patience_counts_agreements_in_a_row(models, layout):
    """Of a sequence all real tokens agree; the count starts anew with a group."""
    model, seen = models[layout], set()
    for seed in range(12):
        tokens = jnp.asarray(np.random.default_rng(seed).integers(0, 31, TOKENS.shape), jnp.int32)
        labels = np.asarray(read_outs(model, tokens, segments=SEGMENTS).argmax(-1))
        same = labels[1:] == labels[:-1]
        if same.ndim > 2:
            same = (same | ~np.asarray(SEGMENTS > 0)).all(-1)
        firsts = (0,) if layout == "masked, post-norm" else (0, 2)
        for patience in (1, 2):
            want, exited = [], []
            for row in same.T:
                counts = [0]
                for i, agreed in enumerate(row):
                    counts.append(counts[-1] + 1 if agreed and i not in firsts else 0)
                exited.append(patience in counts)
                want.append(counts.index(patience) if exited[-1] else len(row))
            found = exit_early(model, tokens, Patience(patience, "sequence"), segments=SEGMENTS)
            np.testing.assert_array_equal(found.steps, want)
            np.testing.assert_array_equal(found.exited, exited)
            seen |= set(want)
    assert len(seen) > 1


@pytest.mark.broad
@pytest.mark.parametrize("rule", [Confidence, Patience, StateChange])
def test_a_rule_hears_the_tokens_that_count(models, rule):
    """Rows of which the last two tokens alone are heard exit where those do."""
    model, tokens = models["causal"], TOKENS
    weights = np.zeros(tokens.shape, np.float32)
    weights[:, -2:] = 1.0
    outs = np.asarray(jax.nn.softmax(read_outs(model, tokens)))[:, :, -2:]
    states = np.asarray(model.hidden(tokens, trace=True).trace.states)[:, :, -2:]
    change = (np.linalg.norm(np.diff(states, axis=0), axis=-1) / np.linalg.norm(states[1:], axis=-1)).mean(-1)
    sure, labels = outs.max(-1).mean(-1)[1:], outs.argmax(-1)[1:]
    same = np.concatenate([np.zeros((1, 3), bool), (labels[1:] == labels[:-1]).all(-1)])
    stops, threshold = {
        Confidence: (sure > (threshold := float(np.median(sure))), threshold),
        Patience: (same, 1),
        StateChange: (change < (limit := float(np.median(change))), limit),
    }[rule]
    found = exit_early(model, tokens, rule(threshold, "sequence"), weights=weights)
    np.testing.assert_array_equal(found.steps, np.where(stops.any(0), stops.argmax(0) + 1, len(stops)))
    everything = exit_early(model, tokens, rule(threshold, "sequence"))
    assert rule is not Confidence or not np.array_equal(everything.steps, found.steps)


def test_weights_are_one_a_token(models):
    with pytest.raises(UserError, match=r"weights of shape \[3, 5\]: must be one a token, \[3, 6\]"):
        exit_early(models["causal"], TOKENS, Confidence(0.5), weights=np.ones((3, 5), np.float32))


def test_patience_begins_again_where_a_label_changes():
    """Labels of two rows, step by step."""
    rule, carry, stops = Patience(2, "sequence"), None, []
    for labels in ([0, 1], [0, 1], [2, 1], [2, 0], [1, 0], [1, 0], [1, 0]):
        observed = jax.nn.one_hot(jnp.array(labels), 3)
        carry = rule.start(None, observed) if carry is None else carry
        stop, carry = rule(SimpleNamespace(observed=observed, weights=None), carry)
        stops.append(stop.tolist())
    assert stops == [[False, False], [False, False], [False, True], *[[False, False]] * 2, [False, True], [True, True]]


def test_exits_of_tokens_in_a_causal_model_look_at_the_past_only(models):
    """The first tokens of a text exit and predict as they do alone, although later ones exit elsewhere."""
    model = models["causal"]
    for threshold in (0.2, 0.4, 0.6):
        whole = exit_early(model, TOKENS, StateChange(threshold))
        part = exit_early(model, TOKENS[:, :4], StateChange(threshold))
        np.testing.assert_array_equal(whole.steps[:, :4], part.steps)
        np.testing.assert_allclose(whole.logits[:, :4], part.logits, rtol=1e-5, atol=1e-5)
    assert len(np.unique(whole.steps)) > 1


def test_exits_beyond_the_trained_depth_read_out_their_truncated_solve(models):
    model, depth = models["causal"], DepthConfig(steps=7, schedule="unit")
    outs = read_outs(model, TOKENS, depth)
    assert len(outs) == 8
    found = exit_early(model, TOKENS, StateChange(0.0, "sequence"), depth)
    np.testing.assert_array_equal(found.steps, [7, 7, 7])
    np.testing.assert_allclose(found.logits, outs[-1], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(outs[4], model(TOKENS).logits, rtol=1e-5, atol=1e-5)


def test_token_types_reach_every_way_of_solving(lively):
    model = lively(make_model(ModelConfig(**SIZES | {"kind": "masked", "token_types": 2})))
    types = jnp.ones_like(TOKENS)
    want = model(TOKENS, token_types=types).logits
    assert float(jnp.max(jnp.abs(want - model(TOKENS).logits))) > 1e-3
    ways = {
        "exits": exit_early(model, TOKENS, StateChange(0), token_types=types).logits,
        "budgets": solve_budgets(model, TOKENS, np.array([4, 4, 4]), token_types=types).logits,
        "read-outs": read_outs(model, TOKENS, token_types=types)[-1],
    }
    for logits in ways.values():
        np.testing.assert_allclose(logits, want, rtol=1e-5, atol=1e-5)
    one, other = (error_estimates(model, TOKENS, token_types=kind).token for kind in (None, types))
    assert float(jnp.max(jnp.abs(one - other))) > 1e-6


def test_thresholds_and_budgets_do_not_compile_again(models, compilations):
    model = models["causal"]
    exit_early(model, TOKENS, StateChange(0.1))
    budgets = np.array([1, 2, 3])
    solve_budgets(model, TOKENS, budgets)
    jnp.asarray(budgets, jnp.int32)
    before = compilations()
    for threshold, order in zip((0, 0.5, np.float64(0.7), np.inf), itertools.permutations(budgets), strict=False):
        exit_early(model, TOKENS, StateChange(threshold))
        solve_budgets(model, TOKENS, np.array(order))
    assert compilations() == before


def test_a_classifier_that_makes_no_choice_has_no_prediction_to_exit_by():
    for problem_type in ("multi_label_classification", "regression"):
        numbers = SequenceClassifier(ModelConfig(**SIZES), 1, problem_type=problem_type, rngs=nnx.Rngs(0))
        with pytest.raises(UserError, match=f'Divergence: problem_type = "{problem_type}": such a classifier makes no'):
            exit_early(numbers, TOKENS, Divergence(0.1, "sequence"))


def test_exits_that_cannot_be_are_refused_before_compilation(models, compilations):
    unshared = make_model(ModelConfig(**SIZES, sharing="none"))
    before = compilations()
    with pytest.raises(UserError, match="an unshared model has no field"):
        exit_early(unshared, TOKENS, StateChange(0.1))
    with pytest.raises(UserError, match='"dopri5" chooses its own steps'):
        exit_early(models["causal"], TOKENS, StateChange(0.1), DepthConfig(solver="dopri5"))
    with pytest.raises(UserError, match="a classifier predicts once a sequence"):
        exit_early(models["classifier"], TOKENS, Confidence(0.5, "token"))
    forgetful = models["causal"]
    architecture, params = split(forgetful)
    own = Coefficients(np.ones((2, 1), np.float32))
    with pytest.raises(UserError, match='"calibrated": these steps remember no evaluation'):
        exit_early(
            architecture.bind(params | calibration_parameters(2, own)),
            TOKENS,
            StepError(0.1),
            DepthConfig(steps=2, solver="calibrated"),
        )
    with pytest.raises(UserError, match="an encoder without a task predicts nothing"):
        exit_early(Encoder(ModelConfig(**SIZES, kind="masked"), rngs=nnx.Rngs(0)), TOKENS, Confidence(0.5, "sequence"))
    with pytest.raises(UserError, match="these steps remember no evaluation"):
        exit_early(models["causal"], TOKENS, StepError(0.1), DepthConfig(solver="secant"))
    with pytest.raises(UserError, match="does not fit 2 groups"):
        exit_early(models["cycle, injected"], TOKENS, StateChange(0.1), DepthConfig(steps=3))
    with pytest.raises(UserError, match="a landing for 3 steps, but the solve takes 4"):
        exit_early(models["causal"], TOKENS, StateChange(0.1), landing=made_up_landing(3))
    with pytest.raises(UserError, match="a landing for 4 steps, but the solve takes 2"):
        read_outs(models["cycle, injected"], TOKENS, landing=made_up_landing(4))
    assert compilations() == before


def test_what_is_no_rule_is_refused(models):
    with pytest.raises(UserError, match=r"rule = 0\.1: give one of StepError, Acceleration"):
        inspect.unwrap(exit_early)(models["causal"], TOKENS, 0.1)
