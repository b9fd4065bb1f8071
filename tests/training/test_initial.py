"""Training on from a model that exists."""

import csv
import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_runs import TOKENS, change, stop_after

from jaxode import Encoder, encode_texts, from_pretrained, load, save_pretrained
from jaxode.checkpoint import load_run
from jaxode.config import (
    ClockConfig,
    DepthConfig,
    LoopConfig,
    ModelConfig,
    ObjectiveConfig,
    OptimizerConfig,
    UserError,
)
from jaxode.data import byte_tokenizer, prepare
from jaxode.evaluation import evaluate_states
from jaxode.model import make_model
from jaxode.model.parameters import split
from jaxode.training import train
from jaxode.training.initial import inherited, read_initial


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"conditioning": "step"},
        {"conditioning": "time", "dropout": 0.1},
        {"conditioning": "step", "clock": ClockConfig(rank=2)},
        # its sums over streams are rounded
        {"loop": LoopConfig(streams=2)},
    ],
    ids=str,
)
@pytest.mark.broad
def test_a_run_begins_as_the_model_itself(begun, folders, changes):
    initial = read_initial(dataclasses.replace(begun, model=ModelConfig(**changes)))
    own, near = from_pretrained(folders["masked"]), 1e-5 if "loop" in changes else 1e-6
    architecture, _ = split(make_model(initial.model))
    for depth in (DepthConfig(), DepthConfig(steps=2, solver="euler")):
        want = own.model(TOKENS, depth).logits
        np.testing.assert_allclose(architecture.bind(initial.params)(TOKENS, depth).logits, want, rtol=near, atol=near)
    plain = {name: getattr(own.config.model, name) for name in ("conditioning", "clock", "dropout", "loop")}
    assert dataclasses.replace(initial.model, **plain) == own.config.model
    assert initial.tokenizer.fingerprint == own.own_tokenizer.fingerprint


@pytest.mark.deep
@pytest.mark.parametrize(("asked", "taken"), [(None, 0.3), (0.0, 0.0), (0.2, 0.2)])
def test_dropout_is_that_of_the_model_unless_one_is_named(asked, taken):
    assert inherited(ModelConfig(dropout=asked), ModelConfig(dropout=0.3), "init").dropout == taken


def test_a_run_from_an_albert_goes_back_to_one(begun, folders, tmp_path):
    result = train(begun)
    trained, own = load_run(result.run.path), from_pretrained(folders["masked"])
    assert trained.config.model == own.config.model
    assert trained.config.init == str(folders["masked"])
    moved = [name for name, value in trained.params.items() if not np.array_equal(value, own.params[name])]
    assert "stack.looped.0.attention.qkv.kernel" in moved
    again = from_pretrained(save_pretrained(trained, tmp_path / "albert"))
    np.testing.assert_allclose(again.model(TOKENS).logits, trained.model(TOKENS).logits, rtol=1e-5, atol=1e-5)


@pytest.mark.deep
def test_without_learning_nothing_changes(begun, folders):
    still = change(dataclasses.replace(begun, optimizer=OptimizerConfig(learning_rate=1e-30)), updates=2)
    result, own = train(still), from_pretrained(folders["masked"])
    for name, value in result.params.items():
        np.testing.assert_allclose(value, own.params[name], atol=1e-7, err_msg=name)


@pytest.mark.deep
def test_a_run_of_ours_is_trained_on(config, tmp_path):
    first = train(config)
    more = dataclasses.replace(config, model=ModelConfig(steps=6), init=str(first.run.path), out=str(tmp_path / "more"))
    second = train(more)
    assert second.config.model == dataclasses.replace(first.config.model, steps=6)
    records = [json.loads(line) for line in (second.run.path / "metrics.jsonl").read_text().splitlines()]
    begun = [json.loads(line) for line in (first.run.path / "metrics.jsonl").read_text().splitlines()]
    assert records[0]["loss"] < begun[0]["loss"]


@pytest.mark.deep
def test_it_is_continued_without_the_model_that_it_began_with(begun, folders, tmp_path, monkeypatch):
    own = shutil.copytree(folders["masked"], tmp_path / "own")
    begun = dataclasses.replace(begun, init=str(own))
    whole = train(begun)
    halved = dataclasses.replace(begun, out=str(tmp_path / "halved"))
    with monkeypatch.context() as patch:
        stop_after(patch, 5, 15)
        train(halved)
    shutil.rmtree(own)
    stored = load_run(tmp_path / "halved").config
    second = train(dataclasses.replace(stored, out=str(tmp_path / "halved"), resume=True))
    for name, value in whole.params.items():
        np.testing.assert_array_equal(second.params[name], value, err_msg=name)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 32}, r"model\.width = 32: the model in init = .*masked has 16; leave it out"),
        ({"kind": "causal", "heads": 8}, r"model\.heads = 8: .* has 2"),
        ({"norm_position": "branch"}, r'model\.norm_position = "branch": .* has "post"'),
        ({"length": 64}, r"model\.length = 64: .* has 16"),
        ({"conditioning": "loopformer"}, r'model\.conditioning = "loopformer": .* has "none", and would not begin'),
    ],
)
def test_settings_that_contradict_the_model_are_refused(begun, changes, message):
    with pytest.raises(UserError, match=message):
        train(dataclasses.replace(begun, model=ModelConfig(**changes)))


def test_a_classifier_is_refused(begun, folders):
    with pytest.raises(UserError, match=r"is a classifier; train on from a language model or an encoder"):
        train(dataclasses.replace(begun, init=str(folders["classifier"])))


def test_another_tokenizer_is_refused(begun, tmp_path):
    folder = tmp_path / "other"
    byte_tokenizer().save_model(folder)
    text = (folder / "tokenizer.json").read_text().replace('"[MASK]"', '"[HOLE]"')
    (folder / "tokenizer.json").write_text(text)
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>"})
    )
    data = dataclasses.replace(begun.data, tokenizer=str(folder))
    with pytest.raises(UserError, match=r"data\.tokenizer = .*other.* \(fingerprint .*\): the model in init"):
        train(dataclasses.replace(begun, data=data))


def test_a_model_that_does_not_exist_is_named(begun):
    with pytest.raises(UserError, match="nowhere-at-all: no such run folder"):
        train(dataclasses.replace(begun, init="./nowhere-at-all"))


@pytest.fixture
def taught(begun):
    objective = ObjectiveConfig(steps="uniform:2,4", distil=1.0, teacher="init", main_loss=0.0)
    return dataclasses.replace(begun, objective=objective)


def test_a_run_that_its_beginning_teaches(taught, folders):
    taught = dataclasses.replace(taught, optimizer=OptimizerConfig(learning_rate=2e-3))
    result = train(change(taught, updates=40))
    records = [json.loads(line) for line in result.run.metrics.read_text().splitlines()]
    losses = [record["distil"] for record in records if "distil" in record]
    # at full depth there is nothing to learn at first, in half of the steps there is
    assert min(losses) < 0.1 * max(losses)
    own = from_pretrained(folders["masked"])
    short, full = DepthConfig(steps=2, solver="euler"), DepthConfig()
    tokens = jnp.asarray([list(b"depth is a field"), list(b"and block time a")], jnp.int32)

    def gap(model):
        wanted = jax.nn.log_softmax(own.model(tokens, full).logits)
        found = jax.nn.log_softmax(model(tokens, short).logits)
        return float(jnp.sum(jnp.exp(wanted) * (wanted - found), axis=-1).mean())

    assert gap(load_run(result.run.path).model) < gap(own.model)


@pytest.mark.deep
def test_it_is_continued_with_the_same_teacher_or_not_at_all(taught, folders, tmp_path, monkeypatch):
    own = shutil.copytree(folders["masked"], tmp_path / "own")
    taught = dataclasses.replace(taught, init=str(own))
    whole = train(taught)
    halved = dataclasses.replace(taught, out=str(tmp_path / "halved"))
    with monkeypatch.context() as patch:
        stop_after(patch, 5, 15)
        train(halved)
    resumed = dataclasses.replace(load_run(tmp_path / "halved").config, out=str(tmp_path / "halved"), resume=True)
    shutil.move(own, tmp_path / "away")
    with pytest.raises(UserError, match="no such run folder"):
        train(resumed)
    other = from_pretrained(folders["masked"])
    other = dataclasses.replace(other, params={name: 2 * value for name, value in other.params.items()})
    save_pretrained(other, own)
    with pytest.raises(UserError, match=r"has other weights .* than the run began with"):
        train(resumed)
    shutil.rmtree(own)
    shutil.move(tmp_path / "away", own)
    second = train(resumed)
    for name, value in whole.params.items():
        np.testing.assert_array_equal(second.params[name], value, err_msg=name)


@pytest.mark.broad
@pytest.mark.parametrize("of", ["taught", "encoding"])
def test_a_teacher_that_is_not_finite_teaches_nothing(request, of, folders, tmp_path):
    run = request.getfixturevalue(of)
    own = from_pretrained(folders["masked" if of == "taught" else "encoder"])
    name = "stack.looped.0.attention.qkv.kernel"
    # large numbers pass as weights, and overflow in the solve
    own = dataclasses.replace(own, params=own.params | {name: np.full_like(own.params[name], 3e38)})
    damaged = dataclasses.replace(run, init=str(save_pretrained(own, tmp_path / "damaged")))
    with pytest.raises(UserError, match=r"init = .*damaged: cannot teach: the state is not finite"):
        train(damaged)
    assert not (tmp_path / "run").exists()


def test_who_is_taught_by_its_beginning_has_one(config):
    with pytest.raises(UserError, match=r'objective\.teacher = "init" without init'):
        dataclasses.replace(config, objective=ObjectiveConfig(distil=1.0, teacher="init"))


@pytest.fixture
def encoding(begun, folders, tmp_path):
    """A bare ALBERT that learns to be solved in fewer steps, on lines of some words."""
    words, rng = ["depth", "is", "time", "and", "a"], np.random.default_rng(0)
    path = tmp_path / "lines.txt"
    path.write_text("\n".join(" ".join(rng.choice(words, size)) for size in rng.integers(1, 4, 300)))
    data = dataclasses.replace(
        begun.data, files=str(path), lines=True, rows="texts", frame="[MASK] <|endoftext|>", tokenizer="bpe"
    )
    return dataclasses.replace(
        begun,
        init=str(folders["encoder"]),
        data=data,
        objective=ObjectiveConfig(steps="uniform:2,4", teacher="init"),
        optimizer=OptimizerConfig(learning_rate=2e-3),
    )


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
    assert (refused.code, "frame = none with task = calibrate" in refused.err) == (2, True)


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
