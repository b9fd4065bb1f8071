"""Training on from a model that exists."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_runs import TOKENS, change, stop_after

from jaxode import from_pretrained, save_pretrained
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
from jaxode.data import byte_tokenizer
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


@pytest.mark.deep
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
    with pytest.raises(
        UserError, match=r"is a classifier model; .*, or set model\.head = \"classifier\" and data\.train"
    ):
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


def test_another_size_of_vocabulary_is_refused(begun):
    data = dataclasses.replace(begun.data, vocab_size=5000)
    with pytest.raises(UserError, match=r"data\.vocab_size = 5000: .*masked reads with .*, which has 259 tokens"):
        train(dataclasses.replace(begun, data=data))


def test_a_model_that_does_not_exist_is_named(begun):
    with pytest.raises(UserError, match="nowhere-at-all: no such run folder"):
        train(dataclasses.replace(begun, init="./nowhere-at-all"))


@pytest.fixture
def taught(begun):
    objective = ObjectiveConfig(steps="uniform:2,4", distil=1.0, teacher="init", main_loss=0.0)
    return dataclasses.replace(begun, objective=objective)


@pytest.mark.deep
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
