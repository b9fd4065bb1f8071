"""Calibration finds what is planted, is exact where it can be, and repeats itself."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxode.calibration import Fit, calibrate, calibration_batches, with_calibrations
from jaxode.config import ClockConfig, DataConfig, DepthConfig, ModelConfig, TaskConfig, UserError
from jaxode.data import Batch, prepare
from jaxode.depth import secant
from jaxode.evaluation import evaluate
from jaxode.model import Encoder, SequenceClassifier, make_model
from jaxode.model.parameters import split

MODEL = ModelConfig(vocab_size=31, width=16, heads=2, length=8, steps=6)
LAYOUTS = {
    "full": {},
    "masked": {"kind": "masked"},
    "post": {"norm_position": "post"},
    "prelude": {"prelude": 1, "coda": 1},
    "sequence": {"sharing": "sequence", "groups": 2, "steps": 12},
    "cycle": {"sharing": "cycle", "groups": 2, "steps": 12},
}


def batches(count=4, rows=16):
    rng = np.random.default_rng(0)
    made = []
    for _ in range(count):
        tokens = rng.integers(0, 31, (rows, 9)).astype(np.int32)
        ones = np.ones((rows, 8), np.int32)
        made.append(Batch(tokens[:, :-1], tokens[:, 1:], ones.astype(np.float32), ones))
    return made


def model(**changes):
    architecture, params = split(make_model(dataclasses.replace(MODEL, **changes), seed=0))
    # a fresh model's increments are too small to need any care
    return architecture, {name: 3 * value for name, value in params.items()}


def test_of_a_small_text_every_row_is_read_once(tmp_path):
    """The last batches are held out of the fit."""
    task = TaskConfig(difficulty="6", examples=400, tested=20)
    data = prepare(DataConfig(corpus="tasks/s5", tokenizer="bytes", task=task, cache=str(tmp_path)), 16, "causal")
    made = calibration_batches(data)
    rows = [bytes(row.tobytes()) for batch in made for row in batch.tokens]
    assert (len(made), len(rows)) == (20, 20 * (len(data.train_rows) // 20))
    assert len(set(rows)) == len({row["tokens"].tobytes() for row in data.train_rows})
    assert len(calibration_batches(data, batches=1000)) == len(data.train_rows)


@pytest.mark.broad
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_calibrated_solve_is_nearer_to_the_full_one_than_step_rescaling(layout):
    architecture, params = model(**LAYOUTS[layout])
    steps = architecture.bind(params).config.steps // 3
    done = calibrate(architecture.bind(params), batches(), steps, Fit(rank=2, updates=30, candidates=2))
    tokens = jnp.asarray(batches()[-1].tokens)  # held out

    def gap(params, depth):
        bound = architecture.bind(params)
        full, short = (jax.nn.log_softmax(bound(tokens, d).logits) for d in (DepthConfig(), depth))
        return float(jnp.sum(jnp.exp(full) * (full - short), axis=-1).mean())

    rescaled = gap(params, DepthConfig(steps=steps, solver="euler"))
    calibrated = gap(with_calibrations(params, {steps: done}), done.depth)
    assert calibrated < 0.7 * rescaled
    assert sum(done.schedule) * (2 if layout == "cycle" else 1) == architecture.bind(params).config.steps


@pytest.mark.parametrize("kind", ["causal", "masked"])
@pytest.mark.deep
def test_a_classifier_is_calibrated_by_its_classes(kind):
    config = dataclasses.replace(MODEL, kind=kind)
    architecture, params = split(SequenceClassifier(config, 3, rngs=nnx.Rngs(0)))
    params = {name: 3 * value for name, value in params.items()}
    text = batches()
    for batch in text:
        batch.segments[: len(batch.segments) // 2, 5:] = 0
    done = calibrate(architecture.bind(params), text, 2, Fit(rank=2, updates=30, candidates=2))
    held = text[-1]

    def classes(tokens, depth):
        bound = architecture.bind(with_calibrations(params, {2: done}))
        return jax.nn.log_softmax(bound(jnp.asarray(tokens), depth, segments=jnp.asarray(held.segments)).logits)

    def gap(depth):
        full = classes(held.tokens, DepthConfig())
        return float(jnp.sum(jnp.exp(full) * (full - classes(held.tokens, depth)), axis=-1).mean())

    assert gap(done.depth) < 0.7 * gap(DepthConfig(steps=2, solver="euler"))
    # what was fitted and measured is what padding does not touch
    other = [dataclasses.replace(batch, tokens=np.where(batch.segments > 0, batch.tokens, 7)) for batch in text]
    again = calibrate(architecture.bind(params), other, 2, Fit(rank=2, updates=30, candidates=2))
    assert again.kl == pytest.approx(done.kl, rel=1e-3)


@pytest.mark.deep
def test_a_classifier_of_several_labels_is_calibrated_label_by_label():
    config = dataclasses.replace(MODEL, kind="masked")
    classifier = SequenceClassifier(config, 3, problem_type="multi_label_classification", rngs=nnx.Rngs(0))
    architecture, params = split(classifier)
    params = {name: 3 * value for name, value in params.items()}
    text = batches()
    done = calibrate(architecture.bind(params), text, 2, Fit(rank=2, updates=30, candidates=2), held_out=1)
    held = text[-1]

    def chances(depth):
        bound = architecture.bind(with_calibrations(params, {2: done}))
        segments = jnp.minimum(jnp.asarray(held.segments), 1)
        return jax.nn.sigmoid(bound(jnp.asarray(held.tokens), depth, segments=segments).logits)

    def gap(depth):
        full, short = chances(DepthConfig()), chances(depth)
        kl = full * jnp.log(full / short) + (1 - full) * jnp.log((1 - full) / (1 - short))
        return float(kl.mean())

    assert gap(done.depth) < 0.7 * gap(DepthConfig(steps=2, solver="euler"))
    # probabilities of the reference are kept in half precision
    assert done.kl == pytest.approx(gap(done.depth), rel=0.05)


@pytest.mark.parametrize("count", [1, 2])
def test_a_regression_is_calibrated_by_its_numbers(count):
    config = dataclasses.replace(MODEL, kind="masked")
    architecture, params = split(SequenceClassifier(config, count, problem_type="regression", rngs=nnx.Rngs(0)))
    params = {name: 3 * value for name, value in params.items()}
    text = batches()
    done = calibrate(architecture.bind(params), text, 2, Fit(rank=2, updates=100, candidates=2), held_out=1)
    held = text[-1]

    def numbers(depth):
        bound = architecture.bind(with_calibrations(params, {2: done}))
        segments = jnp.minimum(jnp.asarray(held.segments), 1)
        return bound(jnp.asarray(held.tokens), depth, segments=segments).logits

    def distance(depth):
        return float(jnp.sqrt(jnp.mean(jnp.square(numbers(depth) - numbers(DepthConfig())))))

    assert distance(done.depth) < 0.9 * distance(DepthConfig(steps=2, solver="euler"))
    assert done.distance == pytest.approx(distance(done.depth), rel=1e-3)
    assert done.kl is done.rise is done.error is None


def test_a_field_that_a_short_solve_can_follow_is_recovered():
    """Planted: without kernels only biases are left, f is one constant vector, and any step is exact."""
    architecture, params = model()
    params = {name: jnp.zeros_like(value) if name.endswith("kernel") else value for name, value in params.items()} | {
        "stack.looped.0.feed_forward.output.bias": jnp.linspace(-1.0, 1.0, 16)
    }
    done = calibrate(architecture.bind(params), batches(), 2, Fit(memory=1, rank=0, updates=0))
    np.testing.assert_allclose(np.cumsum(done.coefficients.weights[:, 0])[-1], 6.0, rtol=1e-3)
    np.testing.assert_allclose(done.coefficients.weights[:, 0], done.schedule, rtol=1e-3)
    assert done.kl < 1e-4


def test_an_encoder_that_a_short_solve_can_follow_is_recovered():
    """As above, by its states; padding is not among them."""
    architecture, params = split(Encoder(dataclasses.replace(MODEL, kind="masked"), rngs=nnx.Rngs(0)))
    params = {name: jnp.zeros_like(value) if name.endswith("kernel") else value for name, value in params.items()} | {
        "stack.looped.0.feed_forward.output.bias": jnp.linspace(-1.0, 1.0, 16)
    }
    text = batches()
    for batch in text:
        batch.segments[: len(batch.segments) // 2, 5:] = 0
    done = calibrate(architecture.bind(params), text, 2, Fit(memory=1, rank=0, updates=0))
    np.testing.assert_allclose(done.coefficients.weights[:, 0], done.schedule, rtol=1e-3)
    assert done.error < 1e-2
    assert (done.kl, done.rise) == (None, None)


@pytest.mark.broad
@pytest.mark.parametrize("layout", ["post", "sequence", "cycle"])
def test_a_fit_can_begin_at_the_trained_block_itself(layout):
    architecture, params = model(**LAYOUTS[layout])
    steps = architecture.bind(params).config.steps // 3
    done = calibrate(architecture.bind(params), batches(), steps, Fit("unit", memory=2, gains=False, updates=0))
    bound = architecture.bind(with_calibrations(params, {steps: done}))
    tokens = jnp.asarray(batches()[0].tokens)
    truncated = bound(tokens, DepthConfig(steps=steps, solver="euler", schedule="unit"))
    np.testing.assert_allclose(bound(tokens, done.depth).logits, truncated.logits, rtol=1e-4, atol=1e-5)
    assert set(done.schedule) == {1}
    assert done.coefficients.down is None


@pytest.mark.broad
@pytest.mark.parametrize("per_pass", [False, True])
def test_a_fit_of_a_block_that_is_told_begins_at_its_own_steps(per_pass):
    architecture, params = model(norm_position="post", conditioning="step", clock=ClockConfig(per_pass=per_pass))
    bound = architecture.bind(params)
    done = calibrate(bound, batches(), 2, Fit("unit", memory=1, gains=False, updates=0))
    tokens = jnp.asarray(batches()[0].tokens)
    own = bound(tokens, DepthConfig(steps=2, solver="euler", schedule="even"))
    fitted = architecture.bind(with_calibrations(params, {2: done}))(tokens, done.depth)
    np.testing.assert_allclose(fitted.logits, own.logits, rtol=1e-4, atol=1e-5)
    assert done.schedule == (bound.config.steps // 2,) * 2


def test_adapters_follow_what_gains_cannot():
    """A post-norm network in two applications of its block."""
    architecture, params = model(norm_position="post", kind="masked")
    kinds = {"without": Fit("unit", memory=1, updates=60), "with": Fit("unit", memory=1, adapters=4, updates=60)}
    done = {name: calibrate(architecture.bind(params), batches(), 2, fit) for name, fit in kinds.items()}
    assert done["with"].kl < 0.95 * done["without"].kl
    assert done["with"].coefficients.gains.adapters.rank == 4
    # kept with the numbers of a model, and found again
    bound = architecture.bind(with_calibrations(params, {2: done["with"]}))
    np.testing.assert_array_equal(
        bound.calibrations[2].gains.adapters.qkv.up, done["with"].coefficients.gains.adapters.qkv.up
    )


@pytest.mark.parametrize("changes", [{"gains": False}, {"updates": 0}])
def test_adapters_without_what_fits_them_are_refused(changes):
    with pytest.raises(UserError, match="calibration adapters = 2: they are fitted with gains, by updates"):
        Fit(adapters=2, **changes)


def test_adapters_of_a_higher_rank_than_the_matrices_are_refused():
    smallest = min(min(shape) for shape in MODEL.matrices)
    with pytest.raises(UserError, match=rf"adapters = {smallest + 1}: the block's smallest matrix has rank {smallest}"):
        calibrate(make_model(MODEL), batches(), 2, Fit(adapters=smallest + 1))


def test_gradient_updates_lower_the_divergence():
    architecture, params = model()
    before = calibrate(architecture.bind(params), batches(), 2, Fit(memory=1, rank=0, updates=0), held_out=1)
    after = calibrate(architecture.bind(params), batches(), 2, Fit(memory=1, rank=0, updates=40), held_out=1)
    assert after.kl < before.kl
    assert after.schedule == before.schedule


def test_each_form_holds_the_one_before_it():
    """A schedule is a global gain of 0, and weights of their own in each step can be those of any gain."""
    architecture, params = model()
    plain = Fit(rank=0, gains=False, updates=0, candidates=4)
    forms = ("schedule", "global", "step")
    found = {
        form: calibrate(architecture.bind(params), batches(), 3, dataclasses.replace(plain, form=form))
        for form in forms
    }
    np.testing.assert_allclose(found["schedule"].coefficients.weights[:, 0], found["schedule"].schedule)
    assert not found["schedule"].coefficients.weights[:, 1:].any()
    weights, steps = found["global"].coefficients.weights, [float(size) for size in found["global"].schedule]
    assert any(np.allclose(weights, secant(steps, gain / 8)) for gain in range(25))
    assert found["step"].kl < found["global"].kl <= found["schedule"].kl


def test_padding_takes_no_part_in_a_fit():
    """The same text with columns of padding, whatever they hold, gives the same schedule and weights."""
    architecture, params = model(kind="masked")
    fit = Fit(rank=0, gains=False, updates=0, candidates=2)

    def padded(batch, filling):
        def wide(array, value):
            return np.pad(array, ((0, 0), (0, 5)), constant_values=value).astype(array.dtype)

        return Batch(
            wide(batch.tokens, filling), wide(batch.targets, 0), wide(batch.weights, 0), wide(batch.segments, 0)
        )

    plain = calibrate(architecture.bind(params), batches(), 2, fit)
    for filling in (0, 7):
        found = calibrate(architecture.bind(params), [padded(one, filling) for one in batches()], 2, fit)
        assert found.schedule == plain.schedule
        np.testing.assert_allclose(found.coefficients.weights, plain.coefficients.weights, rtol=1e-3)


def test_gains_lower_the_divergence_further():
    architecture, params = model()
    without, with_them = (
        calibrate(architecture.bind(params), batches(), 2, Fit(memory=1, rank=0, updates=40, gains=gains))
        for gains in (False, True)
    )
    assert with_them.kl < 0.95 * without.kl
    assert without.coefficients.gains is None
    assert with_them.coefficients.gains is not None


def test_a_calibrated_model_is_calibrated_from_its_weights_alone():
    architecture, params = model()
    fit = Fit(rank=2, updates=3)
    first = calibrate(architecture.bind(params), batches(), 2, fit)
    bound = architecture.bind(with_calibrations(params, {2: first}))
    again = calibrate(bound, batches(), 2, fit)
    jax.tree.map(np.testing.assert_array_equal, first.coefficients, again.coefficients)
    assert 2 in bound.calibrations


def test_the_same_call_gives_the_same_coefficients():
    architecture, params = model()
    first, second = (calibrate(architecture.bind(params), batches(), 3, Fit(rank=2, updates=3)) for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, first.coefficients, second.coefficients)


def test_nothing_is_weighed_before_the_start():
    architecture, params = model()
    done = calibrate(architecture.bind(params), batches(), 3, Fit(memory=3, rank=2, updates=5))
    for step in range(3):
        assert not done.coefficients.weights[step, step + 1 :].any()


def test_figures_are_those_of_the_evaluation():
    architecture, params = model()
    text = batches()
    done = calibrate(architecture.bind(params), text, 2, Fit(rank=2, updates=3))
    own = with_calibrations(params, {2: done})
    rise = evaluate(architecture, own, text[-2:], done.depth).nats_per_token
    assert done.rise == pytest.approx(
        rise - evaluate(architecture, params, text[-2:], DepthConfig()).nats_per_token, abs=1e-5
    )


def test_a_fit_that_plain_steps_beat_is_not_kept():
    """Updates that are far too long spoil it; beside it one that does not."""
    architecture, params = model()
    bound, text = architecture.bind(params), batches()
    spoilt = calibrate(bound, text, 2, Fit(rank=2, updates=3, candidates=1, learning_rate=0.5), held_out=1)
    fitted = calibrate(bound, text, 2, Fit(rank=2, updates=0, candidates=1), held_out=1)
    tokens, even = jnp.asarray(text[-1].tokens), DepthConfig(steps=2, solver="euler")
    full, short = (jax.nn.log_softmax(bound(tokens, depth).logits) for depth in (DepthConfig(), even))
    plain = float(jnp.sum(jnp.exp(full) * (full - short), axis=-1).mean())
    assert spoilt.kl == spoilt.plain == pytest.approx(plain, rel=2e-3)  # the full depth's are kept in half precision
    assert spoilt.schedule == (3, 3)
    assert (spoilt.keeps_plain, fitted.keeps_plain) == (True, False)
    kept = architecture.bind(with_calibrations(params, {2: spoilt}))(tokens, spoilt.depth).logits
    np.testing.assert_allclose(kept, bound(tokens, even).logits, rtol=1e-5, atol=1e-5)
    assert fitted.plain == pytest.approx(plain, rel=2e-3)
    assert fitted.kl < fitted.plain


def test_what_cannot_be_calibrated_is_refused():
    architecture, params = model()
    with pytest.raises(UserError, match="from 1 to N - 1 = 5"):
        calibrate(architecture.bind(params), batches(), 6)
    with pytest.raises(UserError, match="at least 3 needed"):
        calibrate(architecture.bind(params), batches(2), 2)
    unshared, weights = model(sharing="none")
    with pytest.raises(UserError, match="an unshared model"):
        calibrate(unshared.bind(weights), batches(), 2)
    with pytest.raises(UserError, match="calibrated for no number of steps"):
        architecture.bind(params)(jnp.zeros((1, 8), int), DepthConfig(steps=2, solver="calibrated"))
    with pytest.raises(UserError, match=r"calibration for 2 steps diverged.*lower rank"):
        calibrate(architecture.bind(params), batches(), 2, Fit(rank=2, updates=5, learning_rate=1e6))
    with pytest.raises(UserError, match="held_out = 0"):
        calibrate(architecture.bind(params), batches(), 2, held_out=0)
    silent = dataclasses.replace(batches()[0], weights=np.zeros((16, 8), np.float32))
    with pytest.raises(UserError, match="holds no token to predict"):
        calibrate(architecture.bind(params), [silent, *batches()], 2)
    damaged = {name: value * np.nan for name, value in params.items()}
    with pytest.raises(UserError, match="the solve at full depth is not finite"):
        calibrate(architecture.bind(damaged), batches(), 2)
    with pytest.raises(UserError, match="calibration rank = -1"):
        Fit(rank=-1)
