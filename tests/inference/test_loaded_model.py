"""One object for what is loaded by name: every function takes it, and it can be saved and loaded again."""

import dataclasses
import re
import shutil

import jax.numpy as jnp
import numpy as np
import pytest
from tiny_runs import TOKENIZER, fails, model_config, write_run

import jaxode
from jaxode.calibration import Calibration, calibrate, fit_landing, within_increase
from jaxode.config import DepthConfig, UserError
from jaxode.data import BatchSpec, text_batches
from jaxode.depth import Coefficients, StepError
from jaxode.evaluation import depth_sweep, evaluate
from jaxode.inference import exit_early, fill, generate, generate_batch, read_outs, score_texts, solve_budgets
from jaxode.model.parameters import without_calibrations

TEXTS = ["depth is time", "one block"]
TWO = DepthConfig(steps=2)
LAST = 700  # the updates that the config of a tiny run plans
FITTED = Calibration(2, (1, 3), Coefficients(np.float32([[1, 0], [2.5, 0.5]])), 100, 1.0, kl=0.125, rise=0.0625)


@pytest.fixture(scope="module")
def loaded(runs):
    return jaxode.load(runs["causal"])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run at its last update; not to be changed."""
    return write_run(tmp_path_factory.mktemp("finished") / "run", model_config("causal"), steps=(LAST,))


def triple(loaded):
    return loaded.architecture, loaded.params, loaded.tokenizer


def batches(loaded, rows=2):
    spec = BatchSpec(loaded.tokenizer, loaded.config.model.kind)
    return list(text_batches("depth is time, one block. " * 12, spec, loaded.config.model.length, rows).batches)


def test_texts_are_predicted_and_continued_as_by_its_parts(loaded, runs):
    assert score_texts(loaded, TEXTS).scores == score_texts(*triple(loaded), TEXTS).scores
    one, same = (generate(*start, "abc", max_new_tokens=4) for start in ((loaded,), triple(loaded)))
    assert one.ids == same.ids
    both = generate_batch(loaded, TEXTS, max_new_tokens=2)
    assert [row.ids for row in both] == [row.ids for row in generate_batch(*triple(loaded), TEXTS, max_new_tokens=2)]
    masked = jaxode.load(runs["masked"])
    assert fill(masked, "a[MASK]").fills == fill(*triple(masked), "a[MASK]").fills


def test_batches_are_measured_as_by_its_parts(loaded):
    text = batches(loaded)
    depth = DepthConfig(steps=2, solver="euler")
    assert evaluate(loaded, text, depth) == evaluate(loaded.architecture, loaded.params, text, depth)
    assert [row.steps for row in depth_sweep(loaded, text, [depth], rounds=1).rows] == [4, 2]
    landing, same = fit_landing(loaded, text, rank=0), fit_landing(loaded.architecture, loaded.params, text, rank=0)
    np.testing.assert_array_equal(landing.weights, same.weights)


def test_adaptive_solves_take_it_for_its_model(loaded):
    tokens = jnp.arange(12).reshape(2, 6)
    budgets = jnp.array([2, 4])
    np.testing.assert_array_equal(
        solve_budgets(loaded, tokens, budgets).logits, solve_budgets(loaded.model, tokens, budgets).logits
    )
    np.testing.assert_array_equal(read_outs(loaded, tokens), read_outs(loaded.model, tokens))
    rule = StepError(0.03)
    np.testing.assert_array_equal(exit_early(loaded, tokens, rule).steps, exit_early(loaded.model, tokens, rule).steps)


def test_what_it_was_trained_with_is_the_default(tmp_path):
    """Attention within documents is a fact of the run, which a bare architecture does not know."""
    run = write_run(tmp_path / "run", model_config("causal"), document_mask=True)
    loaded = jaxode.load(run)
    assert score_texts(loaded, TEXTS).scores == score_texts(*triple(loaded), TEXTS, document_mask=True).scores
    assert score_texts(loaded, TEXTS, document_mask=False).scores == score_texts(*triple(loaded), TEXTS).scores
    prompt = "ab<|endoftext|>cd"
    given, other = (generate(*triple(loaded), prompt, document_mask=mask, max_new_tokens=3) for mask in (True, False))
    assert generate(loaded, prompt, max_new_tokens=3).log_probabilities == given.log_probabilities
    assert given.log_probabilities != other.log_probabilities


def test_a_calibration_of_it_is_what_its_steps_run(loaded):
    fitted = calibrate(loaded, batches(loaded), 2)
    calibrated = loaded.calibrated(fitted)
    assert list(calibrated.calibrations) == list(calibrated.model.calibrations) == [2]
    assert loaded.calibrations == {}
    out = calibrated.model(jnp.arange(8)[None], TWO)
    assert out.solver == "calibrated"
    assert loaded.model(jnp.arange(8)[None], TWO).solver == "euler"
    assert score_texts(calibrated, TEXTS, depth=TWO).solver == "calibrated"
    assert within_increase(calibrated, batches(loaded), [TWO], 0.9, confidence=0.01).depth.solver == "calibrated"


@pytest.mark.broad
@pytest.mark.parametrize("again", [False, True])
def test_saved_and_loaded_it_is_the_same(finished, tmp_path, again):
    loaded = jaxode.load(finished).calibrated(FITTED)
    loaded.save(tmp_path / "saved")
    if again:  # an exported model is saved as a run is
        card = tmp_path / "saved" / "MODEL_CARD.md"
        card.write_text("# Mine\n")
        jaxode.load(tmp_path / "saved").save(tmp_path / "again")
        assert (tmp_path / "again" / "MODEL_CARD.md").read_text() == "# Mine\n"
    found = jaxode.load(tmp_path / ("again" if again else "saved"))
    assert (found.origin, found.task, found.step, list(found.calibrations)) == ("exported", "causal", LAST, [2])
    for name, value in without_calibrations(loaded.params).items():
        np.testing.assert_array_equal(found.params[name], value)
    tokens = jnp.arange(12).reshape(2, 6)
    np.testing.assert_array_equal(found.model(tokens, TWO).logits, loaded.model(tokens, TWO).logits)
    with pytest.raises(UserError, match="already there and not empty"):
        loaded.save(tmp_path / "saved")


def test_an_unfinished_run_is_not_saved(loaded, tmp_path):
    with pytest.raises(UserError, match=r"is unfinished, at update 7 of train\.updates = 700"):
        loaded.save(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


def test_home_is_where_the_shell_says(runs, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    shutil.copytree(runs["causal"], tmp_path / "run")
    assert jaxode.load("~/run").folder == tmp_path / "run"


def test_names_mean_the_same_everywhere(infer, runs):
    """What is loaded, and what infer.py says of it."""
    for name in (str(runs["causal"]), "books-causal"):
        assert jaxode.load(name).folder == jaxode.from_pretrained(name).folder
    assert jaxode.load("books-causal").origin == "shipped"
    for flags in (("--prompt", "a"), ("--task", "export", "--out", "x")):
        message = fails(infer("--checkpoint", "nosuch", *flags))
        assert message.startswith(
            "error: nosuch: no such run folder, and no shipped model of that name (shipped: books-"
        )
        with pytest.raises(UserError) as caught:
            jaxode.load("nosuch")
        assert message == f"error: {caught.value}"
    with pytest.raises(UserError, match='is a causal model: task = "classifier" is for a Hugging Face model'):
        jaxode.load(runs["causal"], task="classifier")


def test_without_a_tokenizer_numbers_alone_are_at_hand(loaded):
    bare = dataclasses.replace(loaded, tokenizer=None)
    assert evaluate(bare, batches(loaded), TWO).tokens > 0
    with pytest.raises(UserError, match="holds no tokenizer"):
        score_texts(bare, TEXTS)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ("--task", "score", "--file", "a", "--prompt", "b"),
            'prompt = "b" with task = score: only generate, fill, bench',
        ),
        (("--task", "sweep", "--prompt", "b"), 'prompt = "b" with task = sweep'),
        (
            ("--task", "generate", "--prompt", "b", "--file", "a"),
            'file = "a" with task = generate: only score, classify',
        ),
        (("--prompt", "b", "--file", "a"), 'file = "a" with task = generate'),
        (
            ("--prompt", "b", "--bound-file", "a"),
            "bound_file = a: tests max_loss_increase, max_label_flips or max_error",
        ),
        (("--prompt", "b", "--max-label-flips", 1), "max_label_flips = 1.0: a share of the labels"),
        (("--prompt", "b", "--max-label-flips", 0.1, "--steps", 2), "steps and max_label_flips both choose the depth"),
    ],
)
def test_what_no_task_reads_is_refused(infer, runs, flags, message):
    ran = infer("--checkpoint", runs["causal"], *flags)
    assert (ran.code, ran.out) == (2, "")
    assert message in re.sub(r"[\s│]+", " ", ran.err)  # the parser may break the line


def test_labels_that_a_language_model_does_not_give_are_not_bounded(infer, runs):
    said = fails(infer("--checkpoint", runs["causal"], "--prompt", "b", "--max-label-flips", 0.1))
    assert f"max_label_flips = 0.1: {runs['causal']} labels no text; bound its loss with max_loss_increase" in said


def test_the_tiny_runs_have_a_tokenizer_of_their_own(loaded):
    assert loaded.tokenizer.fingerprint == TOKENIZER.fingerprint
    assert not loaded.tokenizer.framed
