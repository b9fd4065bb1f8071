"""Types of weights from the file to the file: chosen, kept, counted by calibrations; and what no model is read from."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jaxode import UserError, from_pretrained, load, save_pretrained
from jaxode.calibration import Calibration, save
from jaxode.depth import Coefficients
from jaxode.inference.loading.export import write
from jaxode.interop import room
from jaxode.model.parameters import fingerprint, matmul_type
from jaxode.weights import Weights, read_weights, write_weights

GOLDEN = Path(__file__).with_name("golden")
BFLOAT16 = np.dtype(jnp.bfloat16)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache folder of their own."""
    monkeypatch.setenv("JAXODE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def copy(tmp_path):
    """A model to damage."""
    return shutil.copytree(GOLDEN / "groups", tmp_path / "model")


def types(params):
    return {np.dtype(value.dtype) for value in params.values()}


def refused(folder, **options):
    with pytest.raises(UserError) as caught:
        from_pretrained(folder, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_an_albert_in_half_precision_is_read_as_float32_unless_a_type_is_chosen():
    assert types(load_file(GOLDEN / "groups" / "model.safetensors")) == {np.dtype(np.float16)}
    assert types(from_pretrained(GOLDEN / "groups").params) == {np.dtype(np.float32)}
    assert types(from_pretrained(GOLDEN / "groups", dtype="float32").params) == {np.dtype(np.float32)}
    assert types(load(GOLDEN / "groups", dtype="bfloat16").params) == {BFLOAT16}
    assert 'dtype = "int8": allowed are float32, bfloat16, or None' in refused(GOLDEN / "groups", dtype="int8")


def test_the_matmuls_have_the_type_of_the_weights_and_the_state_is_float32():
    """Within what bfloat16 holds of the golden logits."""
    expected = np.load(GOLDEN / "groups" / "expected.npz")
    half = from_pretrained(GOLDEN / "groups", dtype="bfloat16")
    block = half.model.stack.looped[0]
    assert block.attention.qkv.dtype == block.feed_forward.inner.dtype == half.model.head.dtype == jnp.bfloat16
    assert block.attention_norm.dtype == jnp.float32
    out = half.model(
        jnp.asarray(expected["tokens"]),
        segments=jnp.asarray(expected["mask"]),
        token_types=jnp.asarray(expected["types"]),
    )
    assert out.logits.dtype == out.state.dtype == jnp.float32
    distance = np.abs(np.asarray(out.logits) - expected["logits"]).max()
    assert 1e-4 < distance < 0.1 * np.abs(expected["logits"]).max()


def test_tables_of_vectors_are_added_in_float32():
    embedding = from_pretrained(GOLDEN / "square", dtype="bfloat16").model.embedding
    tokens, seen = jnp.asarray([[7, 5, 9]]), []
    embedding.norm, embedding.project = lambda x: seen.append(x) or x, None
    embedding(tokens)
    parts = [embedding.tokens, embedding.positions, embedding.types]
    word, place, kind = (np.asarray(part.embedding[...]).astype(np.float32) for part in parts)
    np.testing.assert_array_equal(seen[0][0], word[[7, 5, 9]] + kind[0] + place[:3])
    # and no table as large as the vocabulary is cast for three tokens
    made = [out.aval for step in jax.make_jaxpr(embedding)(tokens).eqns for out in step.outvars]
    assert not [one for one in made if one.shape == word.shape]


@pytest.mark.parametrize("most", [10**9, 2000])
def test_bfloat16_survives_saving_bit_for_bit(tmp_path, most):
    half = from_pretrained(GOLDEN / "square", dtype="bfloat16")
    out = save_pretrained(half, tmp_path / "out", max_shard_bytes=most)
    shards = sorted(out.glob("*.safetensors"))
    assert [path.name for path in shards] == ["model.safetensors"] or (most == 2000 and len(shards) > 2)
    stored = {name: value for path in shards for name, value in load_file(path).items()}
    assert types(stored) == {BFLOAT16}
    assert json.loads((out / "config.json").read_text())["dtype"] == "bfloat16"
    back = from_pretrained(out, dtype="bfloat16")
    assert back.architecture == half.architecture
    assert back.params.keys() == half.params.keys()
    assert all(
        np.asarray(back.params[name]).tobytes() == np.asarray(half.params[name]).tobytes() for name in back.params
    )
    assert fingerprint(back.params) == fingerprint(half.params)


def test_a_fingerprint_is_the_same_everywhere_and_knows_the_type():
    numbers = np.arange(6, dtype=np.float32).reshape(2, 3)
    full, half = {"a": numbers, "b": numbers[:1]}, {"a": numbers.astype(BFLOAT16), "b": jnp.zeros((), jnp.bfloat16)}
    assert fingerprint(full) == "f68fd9dbfdb2ace84ef1d13229350ac6"
    assert fingerprint(half) == "a5b2dabe0c9a92440e56c8be306c35e4"
    assert fingerprint({name: jnp.asarray(value) for name, value in half.items()}) == fingerprint(half)
    assert fingerprint({"a": np.asfortranarray(numbers), "b": full["b"]}) == fingerprint(full)


def test_an_exported_model_keeps_bfloat16(run, tmp_path):
    half = dataclasses.replace(run, params={name: value.astype(jnp.bfloat16) for name, value in run.params.items()})
    found = load(write(half, {}, tmp_path / "exported", "A card."))
    assert types(found.params) == {BFLOAT16}
    assert fingerprint(found.params) == fingerprint(half.params)
    assert found.model.stack.looped[0].attention.qkv.dtype == jnp.bfloat16
    again = load(found.save(tmp_path / "again"))
    assert fingerprint(again.params) == fingerprint(half.params)
    full = load(write(run, {}, tmp_path / "full", "A card."))
    assert full.architecture == run.architecture
    with pytest.raises(
        UserError, match=r'dtype = "bfloat16" is for a Hugging Face model; what jaxode wrote is read in'
    ):
        load(tmp_path / "full", dtype="bfloat16")


def test_a_weight_without_axes_keeps_its_shape(tmp_path):
    params = {"scale": jnp.asarray(2.5, jnp.bfloat16)}
    write_weights(tmp_path / "weights.safetensors", Weights(params, 1))
    back = read_weights(tmp_path / "weights.safetensors", params).params["scale"]
    assert (back.shape, back.dtype, float(back)) == ((), BFLOAT16, 2.5)


def test_calibrations_of_weights_in_another_type_are_left_out(exported, capfd):
    """Those of the weights as they are stored do not hold for others."""
    found = load(exported)
    fitted = Coefficients(np.ones((2, 1), np.float32))
    made = Calibration(2, (2, 2), fitted, kl=0.0, rise=0.0, tokens=1, seconds=1.0)
    save(exported, made, found.calibration_origin)
    assert list(load(exported).calibrations) == list(load(exported, dtype="float32").calibrations) == [2]
    assert "left out" not in capfd.readouterr().err
    half = load(exported, dtype="bfloat16")
    assert not half.calibrations
    assert "calibration-2.json was made for other weights than these in bfloat16: left out" in capfd.readouterr().err
    # one of its own is kept in the cache, under the fingerprint of its weights
    save(half.calibration_folder, made, half.calibration_origin)
    assert list(load(exported, dtype="bfloat16").calibrations) == [2]
    assert half.calibration_folder != found.calibration_folder


def test_the_type_of_the_matmuls_is_that_of_most_weights():
    few, many = np.zeros(3, np.float32), np.zeros((4, 4), BFLOAT16)
    assert matmul_type({"norm": few, "kernel": many}) == jnp.bfloat16
    assert matmul_type({"norm": few, "calibration.4.weights": many}) == jnp.float32


# --- what is refused --------------------------------------------------------------------------------------------------


def test_weights_that_are_not_finite_are_named(copy):
    path = copy / "model.safetensors"
    tensors = load_file(path)
    name = "albert.embeddings.word_embeddings.weight"
    tensors[name][3, 1] = np.nan
    save_file(tensors, path)
    assert f"{path}: tensor {name} holds numbers that are NaN: the file is damaged" in refused(copy)


def test_a_quantised_release_is_refused_by_its_config(copy):
    path = copy / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"quantization_config": {"quant_method": "fp8"}}))
    assert f"{path}: quantization_config = 'fp8': quantised weights are not read; use a release" in refused(copy)


def test_a_field_that_contradicts_its_tensor_is_named(copy):
    path = copy / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"intermediate_size": 48}))
    message = refused(copy)
    assert "ffn.bias has shape [40], the model needs [48]; config.json says intermediate_size = 48" in message


def test_a_model_that_does_not_fit_says_in_which_type_it_would(copy, monkeypatch):
    size = sum(value.size for value in from_pretrained(copy).params.values())
    monkeypatch.setattr(room, "available_memory", lambda: 3 * size)
    assert "in float32, " in (message := refused(copy))
    assert 'read it with dtype = "bfloat16"' in message
    assert types(from_pretrained(copy, dtype="bfloat16").params) == {BFLOAT16}
