"""Hugging Face folders by name: what they are, which tasks they can do, how they are calibrated and bounded."""

import dataclasses
import json
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxode
from jaxode import DepthConfig, UserError, classify_texts, from_pretrained, load, score_texts
from jaxode.calibration import within_flips, within_increase
from jaxode.data import Batch
from jaxode.inference import fill
from jaxode.inference.texts.batching import RowBatch, padded, real_tokens
from jaxode.interop import files, pretrained

TEXTS = [f"text {number} of {number * number}" for number in range(60)]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache folder of their own."""
    monkeypatch.setenv("JAXODE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def lines(tmp_path):
    path = tmp_path / "lines.txt"
    path.write_text("\n".join(TEXTS) + "\n")
    return path


def triple(loaded):
    return loaded.architecture, loaded.params, loaded.tokenizer


def test_one_object_says_what_a_folder_is(exported, classifier, encoder):
    kinds = [(found.origin, found.task, found.labels) for found in map(load, (exported, classifier, encoder))]
    assert kinds == [
        ("huggingface", "masked", ()),
        ("huggingface", "classifier", ("bad", "so, so", "good")),
        ("huggingface", "encoder", ()),
    ]
    assert jaxode.from_pretrained is load


def test_the_frame_is_the_models_own_both_ways_in(exported, classifier):
    """With the object and with its parts, for every task."""
    found = load(classifier)
    want = classify_texts(*triple(found), TEXTS[:3], frame=True).classes
    assert classify_texts(found, TEXTS[:3]).classes == classify_texts(*triple(found), TEXTS[:3]).classes == want
    assert classify_texts(found, TEXTS[:3], frame=False).classes != want
    masked = load(exported)
    for scores in (score_texts(masked, TEXTS[:2]), score_texts(*triple(masked), TEXTS[:2])):
        assert scores.scores == score_texts(masked, TEXTS[:2], frame=True).scores
    assert fill(masked, "a[MASK]b").tokens == fill(*triple(masked), "a[MASK]b").tokens == 5


CANNOT = [
    (
        "classifier",
        ("--prompt", "a[MASK]"),
        "reads no prompt; it is a classifier: use task classify, which labels the lines of a file",
    ),
    ("classifier", ("--task", "fill", "--prompt", "a"), "cannot fill in [MASK]; it is a classifier: use task classify"),
    ("classifier", ("--task", "bench"), "cannot continue text; it is a classifier"),
    ("classifier", ("--task", "generate", "--prompt", "a"), "cannot continue text; it is a classifier"),
    ("classifier", ("--task", "score", "--file", "a"), "has no head over the vocabulary; it is a classifier"),
    ("classifier", (), "task = classify needs --file"),
    ("encoder", (), "task = encode needs --file"),
    ("encoder", ("--file", "a"), "task = encode: name the file for the vectors, such as --out vectors.npz"),
    ("encoder", ("--prompt", "a"), "reads no prompt; it is an encoder without a head: use task encode"),
    ("encoder", ("--task", "classify", "--file", "a"), "has no classifier head"),
    ("encoder", ("--task", "score", "--file", "a"), "has no head over the vocabulary; it is an encoder"),
    ("encoder", ("--task", "encode", "--file", "a", "--out", "v.npz", "--frame", "a"), "give two entries"),
    ("encoder", ("--task", "calibrate", "--steps", 4, "--file", "a"), "must be from 1 to N - 1 = 3"),
]


@pytest.mark.parametrize(("kind", "flags", "message"), CANNOT)
def test_a_task_that_a_model_cannot_do_is_refused_by_what_it_is(request, infer, kind, flags, message):
    ran = infer("--checkpoint", request.getfixturevalue(kind), *flags)
    assert (ran.code, ran.out) == (2, "")
    assert message in ran.err
    assert len(ran.err.splitlines()) == 1


def test_a_classifier_labels_where_no_task_is_named(infer, classifier, lines):
    flags = ("--checkpoint", classifier, "--file", lines, "--batch-size", 16)
    assert infer(*flags).out == infer(*flags, "--task", "classify").out != ""


@pytest.mark.deep
def test_a_classifier_is_calibrated_from_lines_and_then_runs_calibrated(infer, classifier, lines, cache):
    before = sorted(classifier.rglob("*"))
    about = ("--checkpoint", classifier, "--file", lines)
    ran = infer(*about, "--task", "calibrate", "--steps", 2, "--batch-size", 8)
    assert ran.code == 0, ran.err
    assert "nats per sequence over the full depth" in ran.err
    assert sorted(classifier.rglob("*")) == before
    (kept,) = (cache / "calibrations").glob("*/calibration-2.json")
    ran = infer(*about, "--steps", 2)
    assert ran.err.splitlines()[-1].startswith("steps 2 (calibrated): 2 block evaluations")
    # in Python as on the command line, and gone with its file
    loaded = load(classifier)
    done = classify_texts(loaded, TEXTS, depth=DepthConfig(steps=2))
    assert done.solver == "calibrated"
    assert [row.split(",")[1] for row in ran.out.splitlines()[1:] if '"' not in row] == [
        loaded.labels[text.label] for text in done.classes if "," not in loaded.labels[text.label]
    ]
    kept.unlink()
    assert infer(*about, "--steps", 2).err.splitlines()[-1].startswith("steps 2 (euler)")


@pytest.mark.deep
def test_a_place_that_is_named_gets_the_calibration(infer, classifier, lines, tmp_path, cache):
    flags = ("--checkpoint", classifier, "--file", lines, "--task", "calibrate", "--steps", 2, "--batch-size", 8)
    assert infer(*flags, "--out", classifier).code == 0
    assert (classifier / "calibration-2.json").is_file()
    assert not cache.exists() or not list(cache.rglob("calibration-2.json"))
    assert load(classifier).model.calibrations.keys() == {2}


@pytest.mark.deep
def test_a_bound_needs_no_other_flag_than_it_names(infer, classifier, lines):
    """No circle: what is refused names what to give, and given that it works."""
    about = ("--checkpoint", classifier, "--file", lines)
    loss, flips = ("--max-loss-increase", 0.9), ("--max-label-flips", 0.9)
    for bound in (loss, flips):
        ran = infer(*about, *bound)
        assert (ran.code, ran.out) == (2, "")
        assert "holds no validation text to promise it on; name one with --bound-file" in ran.err
        assert (
            "none is calibrated; run --task calibrate --steps n first"
            in infer(*about, *bound, "--bound-file", lines).err
        )
    assert infer(*about, "--task", "calibrate", "--steps", 2, "--batch-size", 8).code == 0
    for bound, words in ((loss, "nats per sequence on 60 sequences"), (flips, "of the labels changed on 60 sequences")):
        ran = infer(*about, *bound, "--bound-file", lines)
        assert ran.code == 0, ran.err
        chosen = next(line for line in ran.err.splitlines() if line.startswith("chosen: "))
        assert chosen.startswith("chosen: 2 steps (calibrated): ")
        assert words in chosen
    assert "cannot be promised" in infer(*about, "--max-label-flips", 1e-6, "--bound-file", lines).err


@pytest.mark.deep
def test_a_bound_counts_labels_and_losses_of_the_full_depth(classifier):
    loaded = load(classifier)
    texts = [loaded.tokenizer.encode(text, frame=True) for text in TEXTS]
    shape = RowBatch(np.arange(60), 64, 24)  # four rows of padding, which count for nothing
    tokens, real = padded(texts, shape, loaded.tokenizer.pad_id), real_tokens(texts, shape)
    batch = Batch(tokens, tokens, real.astype(np.float32), real)
    three = DepthConfig(steps=3, solver="euler")
    full, short = (
        np.asarray(jax.nn.log_softmax(loaded.model(jnp.asarray(tokens), depth, segments=jnp.asarray(real)).logits[:60]))
        for depth in (DepthConfig(), three)
    )
    labels = full.argmax(1)
    flips, rise = (short.argmax(1) != labels).mean(), (full - short)[np.arange(60), labels].mean()
    with pytest.raises(UserError, match=f"{flips:.2%} of the labels changed on 60 sequences"):
        within_flips(loaded, [batch], [three], 1e-6)
    with pytest.raises(UserError, match=re.escape(f"loss +{rise:.4f} nats per sequence on 60 sequences")):
        within_increase(loaded, [batch], [three], 1e-6)
    assert within_flips(loaded, [batch], [DepthConfig(steps=4)], 0.1).reason.startswith("4 steps (euler): 0.00% of the")
    with pytest.raises(UserError, match=r"max_label_flips = 1\.5: a share of the labels"):
        within_flips(loaded, [batch], [three], 1.5)


def test_a_calibration_goes_with_its_weights_and_with_no_others(infer, classifier, lines, tmp_path):
    """The cache tells models apart by their numbers, not by where they lie; what is saved takes it along."""
    flags = ("--file", lines, "--task", "calibrate", "--steps", 2, "--batch-size", 8)
    assert infer("--checkpoint", classifier, *flags).code == 0
    moved = shutil.copytree(classifier, tmp_path / "moved")
    assert load(moved).calibrations.keys() == {2}
    loaded = load(moved)
    other = dataclasses.replace(
        loaded, params={name: 2 * value for name, value in loaded.params.items()}, calibrations={}
    )
    assert load(other.save(tmp_path / "other")).calibrations == {}
    found = load(load(classifier).save(tmp_path / "saved"))
    assert (found.labels, list(found.calibrations)) == (("bad", "so, so", "good"), [2])
    assert (tmp_path / "saved" / "calibration-2.json").is_file()
    tokens = jnp.arange(12).reshape(2, 6)
    depth = DepthConfig(steps=2)
    np.testing.assert_array_equal(found.model(tokens, depth).logits, load(classifier).model(tokens, depth).logits)


def test_a_name_in_the_cache_of_the_hub_is_a_checkpoint(infer, classifier, lines, monkeypatch):
    """One resolver for --checkpoint, load and from_pretrained."""
    monkeypatch.setattr(
        "huggingface_hub.snapshot_download", lambda name, **_: str(classifier) if name == "author/clf" else 1 / 0
    )
    monkeypatch.setattr(files, "hub_reachable", lambda: False)
    ran = infer("--checkpoint", "author/clf", "--file", lines)
    assert ran.code == 0, ran.err
    assert load("author/clf").labels == from_pretrained("author/clf").labels == ("bad", "so, so", "good")
    ran = infer("--checkpoint", "author/other", "--file", lines)
    assert "author/other: not on this machine, and the Hugging Face hub cannot be reached" in ran.err
    assert "no run folder is called so either" in ran.err


def test_a_path_below_a_folder_that_is_here_is_no_name_of_the_hub(infer, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    monkeypatch.setattr(files, "hub_reachable", lambda: pytest.fail("asked the hub"))
    assert "runs/typo: no such run folder" in infer("--checkpoint", "runs/typo", "--prompt", "a").err


def test_post_norm_steps_that_are_not_calibrated_are_told(infer, exported, tmp_path):
    (tmp_path / "text.txt").write_text("depth is time " * 20)
    about = ("--checkpoint", exported, "--task", "score", "--file", tmp_path / "text.txt")
    err = infer(*about, "--steps", 2).err
    assert "2 Euler steps through post-norm blocks often diverge" in err
    assert "--task calibrate --steps 2 --file TEXT" in err
    assert "post-norm" not in infer(*about).err


def test_readers_of_lower_rooms_give_the_same_model(classifier):
    loaded, read = load(classifier), pretrained.from_pretrained(classifier)
    np.testing.assert_array_equal(loaded.params["head.classifier.kernel"], read.params["head.classifier.kernel"])
    assert json.loads((classifier / "config.json").read_text()) == loaded.source == read.source
