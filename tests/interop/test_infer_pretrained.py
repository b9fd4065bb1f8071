"""infer.py on a Hugging Face folder, and a run of our own in the form of an ALBERT."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from jaxode import UserError, from_pretrained
from jaxode.evaluation.figures import read_csv
from jaxode.inference import fill

TEXT = "Depth is time: one block, applied again and again. " * 12


@pytest.fixture
def text_file(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


@pytest.mark.deep
def test_a_run_of_our_own_survives_export(run, exported):
    found = from_pretrained(exported)
    tokens = jnp.arange(48).reshape(2, 24)
    np.testing.assert_array_equal(found.model(tokens).logits, run.model(tokens).logits)
    ours, theirs = run.tokenizer, found.tokenizer
    assert theirs.encode(TEXT) == ours.encode(TEXT)
    assert (theirs.mask_id, theirs.pad_id, theirs.end_id) == (ours.mask_id, ours.pad_id, ours.end_id)


def test_fill_puts_the_text_within_the_template(exported, infer):
    found = from_pretrained(exported)
    text = "a[MASK]b"
    bare, framed = (fill(found.architecture, found.params, found.tokenizer, text, frame=f) for f in (False, True))
    assert (bare.tokens, framed.tokens) == (3, 5)
    assert (bare.fills[0].position, framed.fills[0].position) == (1, 2)
    assert bare.fills[0].candidates[0].probability != framed.fills[0].candidates[0].probability
    code, out, err = infer("--checkpoint", exported, "--prompt", text, "--top", 1)
    assert code == 0, err
    assert out.splitlines()[0] == framed.text
    assert float(out.split()[-1]) == pytest.approx(framed.fills[0].candidates[0].probability, rel=1e-3)
    assert err.startswith(f"run {exported}, Hugging Face model: masked, ")


@pytest.mark.deep
def test_score_sweep_and_calibrate_read_a_file(exported, infer, text_file, tmp_path, monkeypatch, rescaled_alone):
    """Nothing is written beside weights that jaxode did not make; the cache keeps calibrations by fingerprint."""
    monkeypatch.setenv("JAXODE_CACHE", str(tmp_path / "cache"))
    before = sorted(exported.rglob("*"))
    about = ("--checkpoint", exported, "--file", text_file)
    code, out, err = infer(*about, "--task", "score")
    assert code == 0, err
    assert out.split()[:3] == ["tokens", "nats_per_token", "perplexity"]
    code, out, err = infer(*about, "--task", "calibrate", "--steps", 2, "--batches", 3, "--updates", 10)
    assert code == 0, err
    assert len(list((tmp_path / "cache" / "calibrations").glob("*/calibration-2.json"))) == 1
    code, out, err = infer(*about, "--task", "report", "--batches", 1, "--out", tmp_path / "out")
    assert code == 0, err
    assert "of the measured text itself" in err
    code, out, err = infer(*about, "--task", "sweep", "--batches", 1)
    assert code == 2
    assert "nothing is written beside a model that jaxode did not make; name a folder for the results with --out" in err
    code, out, err = infer(*about, "--task", "sweep", "--batches", 1, "--out", tmp_path / "out")
    assert code == 0, err
    assert sorted(exported.rglob("*")) == before
    rows = read_csv(tmp_path / "out" / "sweep.csv")
    assert [(row["steps"], row["solver"]) for row in rows[:3]] == [(4, "euler"), (2, "euler"), (1, "euler")]
    assert (rows[-1]["steps"], rows[-1]["solver"]) == (2, "calibrated")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--task", "sweep"), "task = sweep: a Hugging Face folder holds no text to measure on; name a text file"),
        (("--task", "calibrate", "--steps", 2), "task = calibrate: a Hugging Face folder holds no text"),
        (("--task", "generate"), "cannot continue text; it is a masked model: use task fill"),
        (("--max-loss-increase", 0.1), "max_loss_increase: a Hugging Face folder holds no validation text"),
    ],
)
def test_what_a_folder_has_no_text_for_is_refused(exported, infer, flags, message):
    code, out, err = infer("--checkpoint", exported, *flags)
    assert (code, out) == (2, "")
    assert message in err
    assert len(err.splitlines()) == 1


def test_tokenizers_that_are_missing_or_do_not_fit(exported, infer):
    config = exported / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"vocab_size": 200}))
    with pytest.raises(UserError, match="its tokenizer has 259 tokens, the model's vocabulary 200"):
        from_pretrained(exported)
    config.write_text(json.dumps(json.loads(config.read_text()) | {"vocab_size": 259}))
    (exported / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match="its tokenizer cannot be loaded") as caught:
        from_pretrained(exported)
    assert "\n" not in str(caught.value)
    for path in exported.glob("*token*"):
        path.unlink()
    assert from_pretrained(exported).tokenizer is None
    code, _, err = infer("--checkpoint", exported, "--prompt", "a[MASK]")
    assert code == 2
    assert "holds no tokenizer" in err
