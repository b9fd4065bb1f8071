"""A finished run exported and read back: the same numbers, on its own, and refusals in one line."""

import dataclasses
import json
import re
import shutil

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tiny_runs import fails, model_config, write_run

import jaxode
from jaxode.calibration import Calibration, Origin, load_all, save
from jaxode.checkpoint import load_run
from jaxode.config import Config, DepthConfig, UserError, from_toml
from jaxode.depth import Coefficients
from jaxode.inference.loading import export as exporting
from jaxode.training import train

LAST = 700  # the updates that the config of a tiny run plans
TOKENS = jnp.arange(24).reshape(2, 12)
TWO_STEPS = DepthConfig(steps=2, solver="calibrated")
EULER = DepthConfig(steps=2, solver="euler")
SWEEP = "solver,schedule,steps,nats_per_token,rise,milliseconds\neuler,even,4,4.25,0,1.5\neuler,even,2,4.75,0.5,0.8\n"


def calibrate(run):
    fitted = Calibration(2, (1, 3), Coefficients(np.float32([[1, 0], [2.5, 0.5]])), 100, 1.0, kl=0.125, rise=0.0625)
    trained = load_run(run)
    save(run, fitted, Origin.of(trained.config.model, trained.tokenizer, trained.params))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run at its last update, calibrated and swept; not to be changed."""
    root = tmp_path_factory.mktemp("finished")
    run = write_run(root / "run", model_config("causal"), steps=(LAST,), files="gone/*.txt", root=str(root))
    calibrate(run)
    (run / "sweep.csv").write_text(SWEEP)
    return run


@pytest.fixture(scope="module")
def exported(finished):
    """It as an exported model; not to be changed."""
    trained = load_run(finished)
    (finished.parent / "notes.md").write_text("From the shelf; free.\n")
    notes = str(finished.parent / "notes.md")
    return exporting.export(trained, load_all(finished), finished.parent / "model", notes)


@pytest.fixture
def model(exported, tmp_path):
    """An exported model to damage."""
    return shutil.copytree(exported, tmp_path / "model")


def test_the_exported_model_is_the_run_bit_for_bit(finished, exported):
    run, model = jaxode.load(finished), jaxode.load(str(exported))
    assert model.step == run.step == LAST
    assert model.params.keys() == run.params.keys()
    for name, value in run.params.items():
        np.testing.assert_array_equal(model.params[name], value)
        assert model.params[name].dtype == value.dtype
    assert list(model.model.calibrations) == [2]
    for depth in (DepthConfig(), EULER, TWO_STEPS):
        np.testing.assert_array_equal(model.model(TOKENS, depth).logits, run.model(TOKENS, depth).logits)
    assert np.any(model.model(TOKENS, TWO_STEPS).logits != model.model(TOKENS, EULER).logits)
    assert model.tokenizer.fingerprint == run.tokenizer.fingerprint
    assert model.config.model == run.config.model
    assert (exported / "calibration-2.json").read_bytes() == (finished / "calibration-2.json").read_bytes()


def test_the_folder_holds_no_place_of_the_machine_and_can_be_read_by_all(finished, exported):
    names = {path.name for path in exported.iterdir()}
    assert names == {
        "config.toml",
        "tokenizer",
        "weights.safetensors",
        "calibration-2.json",
        "MODEL_CARD.md",
        "checksums.json",
    }
    config = from_toml(Config, exported / "config.toml")
    assert (config.out, config.data.root, config.data.cache) == ("", "", "")
    assert str(finished.parent) not in (exported / "config.toml").read_text()
    assert all(path.stat().st_mode & 0o044 == 0o044 for path in exported.rglob("*"))
    assert [path.name for path in finished.parent.glob(".*")] == []


def test_the_card(exported):
    card = (exported / "MODEL_CARD.md").read_text()
    run = load_run(exported)
    for part in (
        "# model",
        "GPT-like",
        f"| parameters | {run.model.num_parameters:,}, float32 |",
        "N = 4 steps of one shared block",
        "corpus `files`, 22,400 tokens in 700 updates",
        "From the shelf; free.",
        "| euler | even | 2 | 4.7500 | 0.5000 |",
        "| 2 | 1 3 | 0.0625 | 0.1250 |",
        "reads 16 tokens",
        f"python train.py --config {exported}/config.toml --out runs/model",
        "--checkpoint runs/model --task calibrate --steps 2\n",
        f"--task export --out {exported} --notes {exported.parent}/notes.md\n",
    ):
        assert part in card
    assert "milliseconds" not in card


def test_a_card_says_what_is_not_known(tmp_path):
    run = write_run(tmp_path / "run", model_config("masked"), steps=(LAST,))
    card = (exporting.export(load_run(run), {}, tmp_path / "model") / "MODEL_CARD.md").read_text()
    assert "BERT-like" in card
    assert "ask whoever trained the model" in card
    assert "Not measured" in card
    assert "## Calibrated steps\n\nNone.\n" in card


def test_infer_exports_and_runs_what_it_exported(infer, finished, tmp_path):
    ran = infer("--checkpoint", finished, "--task", "export", "--out", tmp_path / "deep" / "model")
    assert (ran.code, ran.out) == (0, ""), ran.err
    assert f"calibrated for 2 steps; written: {tmp_path / 'deep' / 'model'}" in ran.err
    text = ("--prompt", "abc", "--max-new-tokens", 8, "--budget", 0.5)
    run, model = (infer("--checkpoint", path, *text) for path in (finished, tmp_path / "deep" / "model"))
    assert model.code == 0, model.err
    assert model.out == run.out
    assert "steps 2 (calibrated)" in model.err


@pytest.mark.deep
def test_tasks_of_an_exported_model_need_a_file_where_its_corpus_is_away(infer, model, tmp_path):
    (tmp_path / "text.txt").write_text("Depth is time. " * 9)
    for task in ("score", "sweep"):
        ran = infer("--checkpoint", model, "--task", task, "--file", tmp_path / "text.txt")
        assert ran.code == 0, ran.err
    for task in (("sweep",), ("report",), ("calibrate", "--steps", 3)):
        error = fails(infer("--checkpoint", model, "--task", *task))
        assert "the text of the run is not at hand" in error
        assert "no file matches" in error
        assert error.endswith("or name a text file with --file")
    error = fails(infer("--checkpoint", model, "--max-loss-increase", 0.5))
    assert error.endswith("or choose the depth with --steps or --budget")


def change(**tensors):
    """Rewrite the file with other tensors; None leaves one out. Its metadata stay."""

    def damage(path):
        arrays = load_file(path)
        size = int.from_bytes(path.read_bytes()[:8], "little")
        about = json.loads(path.read_bytes()[8 : 8 + size])["__metadata__"]
        for name, value in tensors.items():
            arrays.pop(name.replace("_", "."), None)
            if value is not None:
                arrays[name.replace("_", ".")] = np.float32(value)
        save_file(arrays, path, metadata=about)

    return damage


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(bytes(content))


DAMAGE = {
    "truncated": (lambda path: path.write_bytes(path.read_bytes()[:999]), "cannot be read as safetensors"),
    "empty": (lambda path: path.write_bytes(b""), "cannot be read as safetensors"),
    "missing": (
        change(head_norm_bias=None),
        "tensor head.norm.bias is missing; the file belongs to another config.toml",
    ),
    "extra": (change(head_more=[1]), "tensor head.more is unknown to the model"),
    "mis-shaped": (change(head_norm_bias=np.zeros(7)), "tensor head.norm.bias has shape [7], the model needs [16]"),
    "other numbers": (change(head_norm_bias=np.ones(16)), "is damaged: its numbers are not those that were written"),
    "one bit": (flip_a_bit, "is damaged: its numbers are not those that were written"),
    "another format": (lambda path: save_file(load_file(path), path), "its format is None, this version reads"),
    "deleted": (lambda path: path.unlink(), "holds no checkpoints yet, nor the weights.safetensors"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_weights_are_named_in_one_line(infer, model, name):
    damage, message = DAMAGE[name]
    damage(model / "weights.safetensors")
    error = fails(infer("--checkpoint", model, "--prompt", "abc"))
    assert message in error
    assert error.startswith(f"error: {model}")


def test_what_cannot_be_exported(infer, runs, finished, exported, tmp_path):
    def refusal(run, folder=tmp_path / "model", *more):
        return fails(infer("--checkpoint", run, "--task", "export", "--out", folder, *more))

    assert "is unfinished, at update 7 of train.updates = 700; finish it" in refusal(runs["causal"])
    assert "already there and not empty; nothing is overwritten" in refusal(finished, exported)
    assert "is an exported model already; copy its folder" in refusal(exported)
    assert "absent.md: cannot be read" in refusal(finished, tmp_path / "model", "--notes", "absent.md")
    (tmp_path / "file").touch()
    assert "file/model: cannot be written" in refusal(finished, tmp_path / "file" / "model")
    other = shutil.copytree(finished, tmp_path / "other")
    (fitted,) = load_all(other).values()
    save(other, fitted, dataclasses.replace(fitted.origin, weights="0"))
    assert "calibration-2.json was made for other weights" in refusal(other)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "other"]
    assert "task = export needs --out" in fails(infer("--checkpoint", finished, "--task", "export"))
    assert 'notes = "a.md" with task = generate: only export reads it; give --task export' in fails(
        infer("--checkpoint", finished, "--notes", "a.md")
    )
    assert "budget = 0.5 with task = export" in refusal(finished, tmp_path / "model", "--budget", 0.5)


def test_an_exported_model_is_neither_trained_on_nor_over(exported):
    config = from_toml(Config, exported / "config.toml")
    config = dataclasses.replace(config, out=str(exported), train=dataclasses.replace(config.train, devices=1))
    with pytest.raises(UserError, match="already holds a run"):
        train(config)
    with pytest.raises(UserError, match="is an exported model and holds no optimizer state"):
        train(dataclasses.replace(config, resume=True))
    assert load_run(exported, LAST).step == LAST
    with pytest.raises(UserError, match="holds one step, 700, and not step 3"):
        load_run(exported, 3)


def test_the_card_of_a_task(tmp_path):
    run = write_run(
        tmp_path / "run", model_config("causal", steps=2), steps=(700,), corpus="tasks/s3", answer_after="="
    )
    (run / "answers.csv").write_text(
        "solver,schedule,steps,block_evaluations,difficulty,trained,exact,tokens,majority\n"
        "euler,even,2,2,1,True,1.0,1.0,0.3\neuler,even,2,2,2,True,0.75,0.9,0.3\n"
        "euler,even,1,1,1,True,0.5,0.6,0.3\neuler,even,1,1,2,True,0.25,0.6,0.3\n"
    )
    card = (exporting.export(load_run(run), {}, tmp_path / "model") / "MODEL_CARD.md").read_text()
    assert "made by the program" in card
    assert "| euler | even | 2 | 2 | 1.0000 | 0.7500 |" in card
    assert "## Loss against depth" not in card
    # a swap of three, and their order after it
    assert re.search(r'--checkpoint model --prompt "[abc]=" --max-new-tokens 3 --temperature 0\n', card)
