"""What moves of a model that a run begins with: everything, its norms, low-rank changes, or its clock."""

import dataclasses

import numpy as np
import pytest
from small_runs import TOKENS, change, stop_after

from jaxode import from_pretrained, load, save_pretrained
from jaxode.checkpoint import load_run
from jaxode.config import ClockConfig, ModelConfig, OptimizerConfig, UserError
from jaxode.training import train


def trains(config, what, **fields):
    return change(config, trains=what, **fields)


def test_low_rank_changes_alone(begun, folders, tmp_path):
    told = dataclasses.replace(begun, model=ModelConfig(conditioning="step"))
    result = train(trains(told, "lora", lora_rank=3, lora_matrices="attention.qkv, inner"))
    read, own = load_run(result.run.path), from_pretrained(folders["masked"])
    changed = {"stack.looped.0.attention.qkv.kernel", "stack.looped.0.feed_forward.inner.kernel"}
    assert not [name for name in read.params if name.startswith("lora.")]
    for name, value in read.params.items():
        np.testing.assert_array_equal(value, result.params[name])
        if name in changed:
            change_of = np.asarray(value) - np.asarray(own.params[name])
            sizes = np.linalg.svd(change_of, compute_uv=False)
            assert sizes[0] > 1e-4
            assert sizes[3] < 1e-3 * sizes[0], "of rank 3"
        elif name in own.params:
            np.testing.assert_array_equal(value, own.params[name], err_msg=name)
    assert np.any(read.params["stack.looped.0.conditioning.output.kernel"]), "what is fresh trains as well"


def test_norms_alone(begun, folders):
    result, own = train(trains(begun, "norms")), from_pretrained(folders["masked"])
    for name, value in result.params.items():
        assert np.array_equal(value, own.params[name]) == ("norm" not in name), name


@pytest.mark.deep
def test_what_is_told_alone(begun, folders):
    model = ModelConfig(conditioning="step", clock=ClockConfig(rank=2))
    result, own = train(trains(dataclasses.replace(begun, model=model), "told")), from_pretrained(folders["masked"])
    for name, value in own.params.items():
        np.testing.assert_array_equal(result.params[name], value, err_msg=name)
    moved = {name: value for name, value in result.params.items() if name not in own.params}
    assert all(".conditioning." in name for name in moved)
    assert np.any(moved["stack.looped.0.conditioning.changes.output.kernel"])
    read = load_run(result.run.path)
    for name, value in moved.items():
        np.testing.assert_array_equal(read.params[name], value)


@pytest.mark.parametrize("parallel", ["jit", "pmap"])
@pytest.mark.deep
def test_low_rank_changes_are_continued_and_written_as_one(begun, tmp_path, monkeypatch, parallel):
    begun = trains(dataclasses.replace(begun, out=begun.out + parallel), "lora", parallel=parallel)
    whole = train(begun)
    halved = dataclasses.replace(begun, out=str(tmp_path / "halved"))
    with monkeypatch.context() as patch:
        stop_after(patch, 5, 15)
        train(halved)
    second = train(dataclasses.replace(load_run(tmp_path / "halved").config, out=str(tmp_path / "halved"), resume=True))
    for name, value in whole.params.items():
        np.testing.assert_array_equal(second.params[name], value, err_msg=name)
    trained = load_run(whole.run.path)
    again = from_pretrained(save_pretrained(trained, tmp_path / "albert"))
    np.testing.assert_allclose(again.model(TOKENS).logits, trained.model(TOKENS).logits, rtol=1e-5, atol=1e-5)
    exported = load(load(whole.run.path).save(tmp_path / "exported"))
    np.testing.assert_allclose(exported.model(TOKENS).logits, trained.model(TOKENS).logits, rtol=1e-5, atol=1e-5)


@pytest.mark.deep
def test_without_learning_low_rank_changes_are_nothing(begun, folders):
    still = trains(dataclasses.replace(begun, optimizer=OptimizerConfig(learning_rate=1e-30)), "lora", updates=2)
    result, own = train(still), from_pretrained(folders["masked"])
    for name, value in result.params.items():
        np.testing.assert_allclose(value, own.params[name], atol=1e-7, err_msg=name)


def test_what_cannot_train_alone(begun, config):
    with pytest.raises(UserError, match=r'no matrix of the blocks is called "nowhere"; there are attention\.output, '):
        train(trains(begun, "lora", lora_matrices="qkv,nowhere"))
    with pytest.raises(UserError, match=r'train\.trains = "told": this model has none; choose .* model\.conditioning'):
        train(trains(begun, "told"))
    with pytest.raises(UserError, match=r'train\.trains = "norms" without init'):
        trains(config, "norms")
    with pytest.raises(UserError, match=r'train\.lora_rank = 4 with train\.trains = "all"'):
        trains(begun, "all", lora_rank=4)
    with pytest.raises(
        UserError, match=r"train\.lora_rank = 1000: stack\..* is a matrix of 16 by .*must be at most 16"
    ):
        train(trains(begun, "lora", lora_rank=1000))
    with pytest.raises(UserError, match=r'optimizer\.conditioning_rate = 3 with model\.conditioning = "none"'):
        train(dataclasses.replace(begun, optimizer=OptimizerConfig(conditioning_rate=3.0)))
