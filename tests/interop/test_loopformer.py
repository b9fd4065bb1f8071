"""LoopFormer: step sizes of any kind, names with and without the prefix, the order of gates and scales."""

import jax.numpy as jnp
import numpy as np
import pytest
from families import CASES
from references import loopformer
from references.folder import write_folder
from safetensors.numpy import load_file

from jaxode import DepthConfig, UserError
from jaxode.interop import from_pretrained, save_pretrained

TOKENS = np.random.default_rng(0).integers(0, 49, (2, 9)).astype(np.int32)
WIDE = loopformer.CONFIG | {"n_head": 2, "intermediate_dim": 32, "n_layer": 3}


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    return from_pretrained(CASES["loopformer"].write(tmp_path_factory.mktemp("loopformer")))


def logits(loaded, depth=None):
    return np.asarray(loaded.model(jnp.asarray(TOKENS), depth or DepthConfig()).logits)


@pytest.mark.parametrize("schedule", ["2,2,4", "4,2,2", "0.5,7.5", "8"])
def test_step_sizes_are_those_of_the_reference(loaded, schedule):
    """Ours sum to N = 8, its own to 1."""
    sizes = [float(size) for size in schedule.split(",")]
    wanted = CASES["loopformer"].logits(TOKENS, steps=[size / 8 for size in sizes])
    found = logits(loaded, DepthConfig(steps=len(sizes), schedule=schedule))
    np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_its_default_is_equal_steps_to_the_end(loaded):
    for steps in (3, 12):
        found = logits(loaded, DepthConfig(steps=steps))
        np.testing.assert_allclose(found, CASES["loopformer"].logits(TOKENS, loops=steps), atol=1e-4)


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ("0.25,0.25,0.5", r'depth.schedule = "0.25,0.25,0.5" sums to 1: must reach the end of the interval, 8'),
        ("2,2,3", r'depth.schedule = "2,2,3" sums to 7: must reach the end of the interval, 8'),
    ],
)
def test_step_sizes_that_do_not_sum_are_refused(loaded, schedule, message):
    with pytest.raises(UserError, match=message):
        loaded.model(jnp.asarray(TOKENS), DepthConfig(steps=3, schedule=schedule))


def test_other_sizes_of_everything(tmp_path):
    tensors = loopformer.random_tensors(WIDE, 1)
    found = from_pretrained(write_folder(tmp_path, WIDE, tensors))
    np.testing.assert_allclose(logits(found), loopformer.forward(WIDE, tensors, TOKENS).logits, atol=1e-4)


@pytest.mark.parametrize("away", [(), ("lm_head.weight",), ("transformer.wte.weight",)])
def test_names_without_the_prefix_and_the_tied_matrix_under_either_name(loaded, tmp_path, away):
    tensors = loopformer.source_tensors(CASES["loopformer"].tensors())
    # its causal mask, where there is no flash attention
    tensors["transformer.h.blocks.0.attn.bias"] = np.tril(np.ones((1, 1, 16, 16), np.float32))
    for name in away:
        del tensors[name]
    found = from_pretrained(write_folder(tmp_path / "source", loopformer.CONFIG, tensors))
    np.testing.assert_array_equal(logits(found), logits(loaded))
    save_pretrained(found, tmp_path / "written")
    written, wanted = load_file(tmp_path / "written" / "model.safetensors"), CASES["loopformer"].tensors()
    assert written.keys() == wanted.keys()
    for name, value in wanted.items():
        np.testing.assert_array_equal(written[name], value)


def test_copies_that_differ_are_refused(tmp_path):
    tensors = loopformer.source_tensors(CASES["loopformer"].tensors())
    tensors["lm_head.weight"] = tensors["lm_head.weight"] + 1
    with pytest.raises(UserError, match="differ, though models of this type tie them; copy the weights again"):
        from_pretrained(write_folder(tmp_path, loopformer.CONFIG, tensors))


def test_biases_are_refused(tmp_path):
    folder = write_folder(tmp_path, loopformer.CONFIG | {"bias": True}, CASES["loopformer"].tensors())
    with pytest.raises(UserError, match="bias = True: only False is read"):
        from_pretrained(folder)


def test_loops_that_were_asked_for_are_kept(loaded, tmp_path):
    folder = CASES["loopformer"].write(tmp_path / "read")
    save_pretrained(from_pretrained(folder, loops=3), tmp_path / "written")
    assert from_pretrained(tmp_path / "written").config.model.steps == 3
