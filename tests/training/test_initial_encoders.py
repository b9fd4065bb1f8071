"""Encoders that learn from their own full depth."""

import csv
import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest
from small_runs import TOKENS, change, stop_after

from jaxode import Encoder, encode_texts, from_pretrained, load, save_pretrained
from jaxode.checkpoint import load_run
from jaxode.config import (
    ClockConfig,
    DepthConfig,
    ModelConfig,
    ObjectiveConfig,
    OptimizerConfig,
    UserError,
)
from jaxode.data import prepare
from jaxode.evaluation import evaluate_states
from jaxode.model import make_model
from jaxode.model.parameters import split
from jaxode.training import train
from jaxode.training.initial import read_initial


def error(model, own, steps):
    """Relative error of states, written out."""
    want = np.asarray(own.model(TOKENS).state).reshape(-1, 16)
    found = np.asarray(model(TOKENS, DepthConfig(steps=steps, solver="euler")).state).reshape(-1, 16)
    return np.sqrt(np.sum((found - want) ** 2) / np.sum((want - want.mean(0)) ** 2))


def test_an_encoder_begins_as_itself(encoding, folders):
    still = change(dataclasses.replace(encoding, optimizer=OptimizerConfig(learning_rate=1e-30)), updates=2)
    result, own = train(still), from_pretrained(folders["encoder"])
    assert result.config.model == own.config.model
    for name, value in result.params.items():
        np.testing.assert_allclose(value, own.params[name], atol=1e-7, err_msg=name)
    assert result.validation.error < 1e-5
    assert result.validation.tokens > 0


@pytest.mark.deep
def test_an_encoder_learns_from_its_beginning(encoding, folders):
    told = dataclasses.replace(encoding, model=ModelConfig(conditioning="step"))
    result = train(change(told, parallel="pmap", updates=60, accumulate=2))
    own, trained = from_pretrained(folders["encoder"]), load_run(result.run.path)
    assert trained.task == "encoder"
    assert isinstance(trained.model, Encoder)
    assert error(trained.model, own, 2) < 0.6 * error(own.model, own, 2)
    # measured against the model at the beginning, not against itself
    assert error(trained.model, own, 4) > 0
    assert 0 < result.validation.error < 0.5
    records = [json.loads(line) for line in result.run.metrics.read_text().splitlines()]
    assert [record for record in records if "validation_error" in record]


@pytest.mark.deep
def test_a_run_that_is_anchored_stays_at_full_depth_and_is_validated_at_the_fewest_steps(encoding, folders, tmp_path):
    clock = ClockConfig(per_pass=True, anchored=True, rank=2, width=8)
    told = dataclasses.replace(
        encoding,
        model=ModelConfig(conditioning="step", clock=clock, dropout=0.0),
        objective=ObjectiveConfig(steps="uniform:2", short="uniform:1", short_loss=1.0, teacher="init"),
        optimizer=OptimizerConfig(learning_rate=2e-2),
    )
    result = train(change(told, trains="told", updates=40, batch_size=1))
    own, trained = from_pretrained(folders["encoder"]), load_run(result.run.path)
    np.testing.assert_array_equal(trained.model(TOKENS).state, own.model(TOKENS).state)
    assert error(trained.model, own, 2) < 0.9 * error(own.model, own, 2)
    data = prepare(result.config.data, own.config.model.length, "encoder", tokenizer=own.own_tokenizer)
    batches = data.validation(1, None)
    least = DepthConfig(steps=1, solver="euler")
    want = evaluate_states(*split(trained.model), batches, least, split(own.model)).error
    assert result.validation.error == pytest.approx(want, rel=1e-4)
    assert want > 0.01
    # which is told so, and in no other way
    other = dataclasses.replace(told, init=str(result.run.path), model=dataclasses.replace(told.model, clock=clock))
    assert read_initial(other).model.clock == clock
    free = dataclasses.replace(encoding, model=ModelConfig(conditioning="step"), init=str(folders["encoder"]))
    begun = train(change(dataclasses.replace(free, out=str(tmp_path / "free")), updates=1)).run.path
    with pytest.raises(UserError, match=r"model\.clock\.anchored = true: the model in init = .* with false"):
        read_initial(
            dataclasses.replace(
                free, init=str(begun), model=ModelConfig(conditioning="step", clock=ClockConfig(anchored=True))
            )
        )


@pytest.mark.deep
def test_what_an_encoder_learns_nothing_of_stays(encoding, folders):
    decaying = dataclasses.replace(encoding, optimizer=OptimizerConfig(learning_rate=1e-2, weight_decay=1.0))
    result, own = train(decaying), from_pretrained(folders["encoder"])
    for name, value in result.params.items():
        same = name.startswith("head.") or name.endswith(".types.embedding")
        if name.startswith("head."):
            np.testing.assert_array_equal(value, own.params[name], err_msg=name)
        elif same:  # of two kinds of tokens only the first stands in the text
            np.testing.assert_array_equal(value[1], own.params[name][1], err_msg=name)


@pytest.mark.deep
def test_an_encoders_run_has_a_text_and_a_frame_of_its_own(encoding, infer, tmp_path):
    run = train(encoding).run.path
    ran = infer("--checkpoint", run, "--task", "sweep", "--at", "4,2", "--batches", 2)
    assert ran.code == 0, ran.err
    assert "error" in ran.out
    ran = infer("--checkpoint", run, "--task", "calibrate", "--steps", 2, "--updates", 5)
    assert ran.code == 0, ran.err
    bounded = ("--task", "encode", "--max-error", 0.99, "--batches", 2, "--out", tmp_path / "bounded.npz")
    ran = infer("--checkpoint", run, *bounded, "--truncate", "--file", encoding.data.files)
    assert "chosen: 2 steps (calibrated): relative error" in ran.err
    loaded = load(run)
    framed = encode_texts(loaded, ["depth"])
    assert framed.lengths.tolist() == [len("depth") + 2]
    np.testing.assert_array_equal(
        framed.vectors, encode_texts(loaded, ["depth"], frame=("[MASK]", "<|endoftext|>")).vectors
    )
    assert encode_texts(loaded, ["depth"], frame=False).lengths.tolist() == [len("depth")]
    lines = tmp_path / "two.txt"
    lines.write_text("depth\ntime\n")
    infer("--checkpoint", run, "--task", "encode", "--file", lines, "--out", tmp_path / "v.npz")
    assert np.load(tmp_path / "v.npz")["lengths"].tolist() == [7, 6]
    refused = infer("--checkpoint", run, "--task", "calibrate", "--steps", 2, "--frame", "none")
    assert (refused.code, 'frame = "none" with task = calibrate' in refused.err) == (2, True)


@pytest.mark.deep
def test_a_tuned_encoder_goes_back_to_an_albert(encoding, tmp_path):
    result = train(encoding)
    trained = load_run(result.run.path)
    again = from_pretrained(save_pretrained(trained, tmp_path / "albert"))
    assert again.task == "encoder"
    found, want = again.model(TOKENS), trained.model(TOKENS)
    np.testing.assert_allclose(found.state, want.state, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found.pooled, want.pooled, rtol=1e-5, atol=1e-5)


@pytest.mark.deep
def test_a_tuned_encoder_is_continued(encoding, tmp_path, monkeypatch):
    whole = train(encoding)
    halved = dataclasses.replace(encoding, out=str(tmp_path / "halved"))
    with monkeypatch.context() as patch:
        stop_after(patch, 5, 15)
        train(halved)
    resumed = dataclasses.replace(load_run(tmp_path / "halved").config, out=str(tmp_path / "halved"), resume=True)
    second = train(resumed)
    for name, value in whole.params.items():
        np.testing.assert_array_equal(second.params[name], value, err_msg=name)


def test_a_whole_step_begins_as_the_block_applied_as_it_is(encoding, folders):
    told = dataclasses.replace(encoding, model=ModelConfig(conditioning="step", clock=ClockConfig(per_pass=True)))
    initial, own = read_initial(told), from_pretrained(folders["encoder"]).model
    model = split(make_model(initial.model))[0].bind(initial.params)
    for steps in (4, 2):
        found = model(TOKENS, DepthConfig(steps=steps, solver="euler")).state
        want = own(TOKENS, DepthConfig(steps=steps, solver="euler", schedule="unit")).state
        np.testing.assert_allclose(found, want, rtol=1e-5, atol=1e-5)


@pytest.mark.deep
def test_a_report_sets_a_tuned_encoder_beside_its_beginning(encoding, folders, infer, tmp_path, rescaled_alone):
    tuned = train(encoding).run.path
    (tmp_path / "valid.txt").write_text("depth is time\na block\nfield and\n" * 4)
    about = ("--checkpoint", folders["encoder"], "--task", "report", "--file", tmp_path / "valid.txt")
    ran = infer(*about, "--out", tmp_path / "out", "--tuned", tuned)
    assert ran.code == 0, ran.err
    with open(tmp_path / "out" / "report.csv") as file:
        rows = {row["block_evaluations"]: row for row in csv.DictReader(file) if row["method"] == "tuned"}
    assert sorted(rows) == ["1", "2", "4"]
    own, model = from_pretrained(folders["encoder"]), load_run(tuned).model
    x, y = [], []
    for text in ("depth is time", "a block", "field and"):
        tokens = jnp.asarray([own.own_tokenizer.encode(text, frame=True)], jnp.int32)
        x.append(np.asarray(own.model(tokens).state)[0])
        y.append(np.asarray(model(tokens, DepthConfig(steps=2, solver="euler")).state)[0])
    x, y = np.concatenate(x), np.concatenate(y)
    want = np.sqrt(np.sum((y - x) ** 2) / np.sum((x - x.mean(0)) ** 2))
    np.testing.assert_allclose(float(rows["2"]["error"]), want, rtol=1e-3)
    assert float(rows["4"]["error"]) > 0
    with open(tmp_path / "out" / "report.csv") as file:
        assert {row["numbers"] for row in csv.DictReader(file) if row["method"] != "tuned"} == {"0"}
    assert rows["2"]["numbers"] == str(load_run(tuned).model.num_parameters)
    assert rows["2"]["fit_tokens"] == str(8 * 4 * 16)
    refused = infer("--checkpoint", folders["masked"], *about[2:], "--out", tmp_path / "o", "--tuned", tuned)
    assert (refused.code, "is a masked model, and is measured by its loss" in refused.err) == (2, True)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("objective", ObjectiveConfig(), 'objective.teacher = "main": an encoder predicts nothing'),
        (
            "objective",
            ObjectiveConfig(teacher="init", distil=1.0),
            "objective.distil = 1, .*an encoder predicts nothing",
        ),
        ("data", {"rows": "stream", "frame": ""}, 'data.rows = "stream": an encoder reads each text by itself'),
    ],
)
def test_what_an_encoder_cannot_learn(encoding, field, value, message):
    value = dataclasses.replace(encoding.data, **value) if field == "data" else value
    with pytest.raises(UserError, match=message):
        train(dataclasses.replace(encoding, **{field: value}))
