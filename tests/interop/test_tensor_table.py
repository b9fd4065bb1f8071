"""A table of names, read both ways: what is fused, transposed, cut, stacked or tied; what does not fit is named."""

import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from test_tensor_files import BFLOAT16, numbers, parts, raw, refused

from jaxode import UserError
from jaxode.interop import room
from jaxode.interop.shard_writer import write_shards
from jaxode.interop.tensor_files import TensorFiles, open_tensors
from jaxode.interop.tensor_table import Copy, Pair, Rows, TensorTable, bias, embedding, kernel, scale

# 4 heads of queries, 2 of keys and values, head width 3, width 8, feed-forward 10, vocabulary 16
TABLE = TensorTable(
    pairs=(
        embedding("tokens", "wte"),
        kernel("qkv", "q", "k", "v", rows=(12, 6, 6)),
        bias("qkv", "q", "k", "v", rows=(12, 6, 6)),
        kernel("inner", "gate", "up"),
        # one of theirs in two of ours
        kernel("output", Rows("fused")),
        kernel("attention.gate", Rows("fused", first=8)),
        scale("norm", "norm"),
        # vectors side by side, and numbers in another shape
        Pair("gains", ("first.gain", "second.gain"), shape=(8,)),
        Pair("query_bias", (Rows("qk_bias", 0),), shape=(1, 1, 4, 3)),
        Pair("key_bias", (Rows("qk_bias", 1),), shape=(1, 1, 4, 3)),
        Pair("temperature", ("temperature",)),
    ),
    copies=(Copy("lm_head.weight", "wte.weight"),),
    ignored=("*.inv_freq",),
)
SHAPES = {
    "tokens.embedding": (16, 8),
    "qkv.kernel": (8, 24),
    "qkv.bias": (24,),
    "inner.kernel": (8, 20),
    "output.kernel": (12, 8),
    "attention.gate.kernel": (12, 5),
    "norm.scale": (8,),
    "gains": (2, 8),
    "query_bias": (12,),
    "key_bias": (12,),
    "temperature": (),
}
THEIRS = {
    "wte.weight": (16, 8),
    "q.weight": (12, 8),
    "k.weight": (6, 8),
    "v.weight": (6, 8),
    "q.bias": (12,),
    "k.bias": (6,),
    "v.bias": (6,),
    "gate.weight": (10, 8),
    "up.weight": (10, 8),
    "fused.weight": (13, 12),
    "norm.weight": (8,),
    "first.gain": (8,),
    "second.gain": (8,),
    "qk_bias": (2, 1, 4, 3),
    "temperature": (),
}


def abstract(dtype=np.float32):
    return {name: jax.ShapeDtypeStruct(shape, dtype) for name, shape in SHAPES.items()}


def tensors(dtype=np.float32):
    return {name: np.asarray(numbers(*shape, seed=i), dtype) for i, (name, shape) in enumerate(THEIRS.items())}


def files(folder, stored):
    save_file(stored, folder / "model.safetensors")
    return open_tensors(folder)


def read(folder, stored, **options):
    return TABLE.read(files(folder, stored), abstract(), **options)


@pytest.fixture(autouse=True)
def memory(monkeypatch):
    """As much as anybody wants."""
    monkeypatch.setattr(room, "available_memory", lambda: None)


def test_shapes_of_theirs_follow_from_ours():
    shapes = TABLE.shapes(abstract(BFLOAT16))
    assert {name: value.shape for name, value in shapes.items()} == THEIRS
    assert {value.dtype for value in shapes.values()} == {BFLOAT16}
    assert TABLE.renamed(lambda name: f"model.{name}").shapes(abstract()).keys() == {f"model.{name}" for name in THEIRS}


@pytest.mark.parametrize("dtype", [np.float32, np.float16, BFLOAT16])
def test_parameters_are_put_together_and_taken_apart_bit_for_bit(tmp_path, dtype):
    stored = tensors(dtype)
    params = read(tmp_path, stored)
    assert {name: value.shape for name, value in params.items()} == SHAPES
    assert {value.dtype for value in params.values()} == {np.dtype(dtype)}
    np.testing.assert_array_equal(params["qkv.kernel"], np.concatenate([stored[f"{name}.weight"] for name in "qkv"]).T)
    np.testing.assert_array_equal(params["qkv.bias"], np.concatenate([stored[f"{name}.bias"] for name in "qkv"]))
    np.testing.assert_array_equal(params["output.kernel"], stored["fused.weight"][:8].T)
    np.testing.assert_array_equal(params["attention.gate.kernel"], stored["fused.weight"][8:].T)
    np.testing.assert_array_equal(params["gains"], np.stack([stored["first.gain"], stored["second.gain"]]))
    np.testing.assert_array_equal(params["key_bias"], stored["qk_bias"][1].reshape(-1))
    for name in THEIRS:
        back = TABLE.tensor(name, params)
        assert (back.shape, back.dtype) == (stored[name].shape, stored[name].dtype)
        assert back.tobytes() == stored[name].tobytes(), name


def test_a_type_that_is_asked_for_is_that_of_all(tmp_path):
    stored = tensors(BFLOAT16)
    params = read(tmp_path, stored, dtype="float32")
    assert {value.dtype for value in params.values()} == {np.dtype(np.float32)}
    np.testing.assert_array_equal(params["norm.scale"], stored["norm.weight"].astype(np.float32))
    params = read(tmp_path, tensors(), dtype="bfloat16")
    assert {value.dtype for value in params.values()} == {BFLOAT16}
    np.testing.assert_array_equal(params["tokens.embedding"], tensors()["wte.weight"].astype(BFLOAT16))


def test_types_that_differ_stay_as_they_are(tmp_path):
    """A fused parameter has the type that holds all of its parts; JAX has no float64."""
    half = tensors(BFLOAT16)
    full = tensors()
    mixed = half | {"norm.weight": full["norm.weight"], "q.weight": full["q.weight"], "temperature": np.asarray(2.0)}
    params = read(tmp_path, mixed)
    wide = {name for name, value in params.items() if value.dtype == np.float32}
    assert wide == {"norm.scale", "qkv.kernel", "temperature"}
    np.testing.assert_array_equal(params["qkv.kernel"][:, 12:18], half["k.weight"].astype(np.float32).T)


def test_tensors_are_read_one_after_the_other_once(tmp_path, monkeypatch):
    stored, log, fill = files(tmp_path, tensors()), [], TensorFiles.read

    def watched(self, name, into, first=0):
        log.append((name, first))
        fill(self, name, into, first)

    monkeypatch.setattr(TensorFiles, "read", watched)
    TABLE.read(stored, abstract())
    want = [("wte.weight", 0), *((f"{name}.weight", 0) for name in "qkv"), *((f"{name}.bias", 0) for name in "qkv")]
    assert log[:9] == [*want, ("gate.weight", 0), ("up.weight", 0)]
    assert log[9:11] == [("fused.weight", 0), ("fused.weight", 8)]
    assert len(log) == len(set(log)) == len(THEIRS) + 2


def test_a_tied_matrix_is_kept_once(tmp_path):
    stored = tensors()
    twice = stored | {"lm_head.weight": stored["wte.weight"].copy()}
    np.testing.assert_array_equal(read(tmp_path, twice)["tokens.embedding"], stored["wte.weight"])
    alone = {name: value for name, value in twice.items() if name != "wte.weight"}
    np.testing.assert_array_equal(read(tmp_path, alone)["tokens.embedding"], stored["wte.weight"])
    other = stored["wte.weight"].copy()
    other[15, 7] += 1
    message = refused(read, tmp_path, stored | {"lm_head.weight": other})
    assert "tensors lm_head.weight and wte.weight differ, though config.json ties them" in message
    # and written as often as the family's files hold it
    assert "lm_head.weight" not in TABLE.shapes(abstract())
    both = TensorTable(TABLE.pairs, (Copy("lm_head.weight", "wte.weight", written=True),))
    assert both.shapes(abstract())["lm_head.weight"].shape == (16, 8)
    params = read(tmp_path, twice)
    np.testing.assert_array_equal(both.tensor("lm_head.weight", params), stored["wte.weight"])


def test_harmless_buffers_are_left_out_and_nothing_else(tmp_path):
    stored = tensors()
    read(tmp_path, stored | {"layers.0.rotary.inv_freq": np.ones(3, np.float32), "x.inv_freq": np.arange(3)})
    message = refused(read, tmp_path, stored | {"adapter.weight": np.ones(3, np.float32)})
    assert "tensor adapter.weight is unknown to the model; the weights do not fit config.json" in message


def test_what_does_not_fit_is_told_before_a_number_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(TensorFiles, "read", None)
    stored = tensors()
    message = refused(read, tmp_path, {name: value for name, value in stored.items() if name != "v.bias"})
    assert f"{tmp_path}: tensor v.bias is missing; the weights do not fit config.json" in message
    wrong = files(tmp_path, stored | {"up.weight": numbers(9, 8)})
    with pytest.raises(UserError) as caught:
        TABLE.read(wrong, abstract(), fields={"intermediate_size": 10, "hidden_size": 8, "layers": 9, "tied": True})
    assert "tensor up.weight has shape [9, 8], the model needs [10, 8]; config.json says intermediate_size = 10" in str(
        caught.value
    )
    assert "hidden_size" not in str(caught.value)
    assert "tensor fused.weight has shape [12, 12], the model needs [13, 12]" in refused(
        read, tmp_path, stored | {"fused.weight": numbers(12, 12)}
    )


@pytest.mark.parametrize(("kind", "size"), [("F8_E4M3", 4), ("I8", 4), ("I32", 16)])
def test_quantised_weights_are_refused_by_name(tmp_path, kind, size):
    raw(tmp_path / "model.safetensors", kind, size)
    table = TensorTable((Pair("weight", ("weight",)),))
    with pytest.raises(UserError) as caught:
        table.read(open_tensors(tmp_path), {"weight": jax.ShapeDtypeStruct((4,), np.float32)})
    assert f"model.safetensors: tensor weight is stored as {kind}: quantised weights are not read" in str(caught.value)
    # what is ignored may have any type
    rest = TensorTable((), ignored=("weight",))
    assert rest.read(open_tensors(tmp_path), {}) == {}


def test_what_the_memory_does_not_hold_is_refused_with_the_type_that_fits(tmp_path, monkeypatch):
    count = sum(int(np.prod(shape)) for shape in SHAPES.values())
    monkeypatch.setattr(room, "available_memory", lambda: 4 * count)
    read(tmp_path, tensors())
    monkeypatch.setattr(TensorFiles, "read", None)
    monkeypatch.setattr(room, "available_memory", lambda: 4 * count - 1)
    message = refused(read, tmp_path, tensors())
    assert f"{tmp_path}: its weights take " in message
    assert "in float32, " in message
    assert 'read it with dtype = "bfloat16"' in message
    monkeypatch.setattr(room, "available_memory", lambda: 2 * count - 1)
    assert "too much as well" in refused(read, tmp_path, tensors())
    message = refused(read, tmp_path, tensors(BFLOAT16))
    assert "in bfloat16" in message
    assert message.endswith("use another machine")


@pytest.mark.parametrize(
    "table",
    [
        TensorTable(TABLE.pairs[:-1]),
        TensorTable((*TABLE.pairs, TABLE.pairs[0])),
        TensorTable((*TABLE.pairs, Pair("more", ("more",)))),
        TensorTable((*TABLE.pairs[:-1], Pair("temperature", (Rows("norm.weight", 9),)))),
        TensorTable((*TABLE.pairs[:5], kernel("attention.gate", Rows("fused", first=9)), *TABLE.pairs[6:])),
    ],
    ids=["too few", "twice", "too many", "no rows", "a gap"],
)
def test_a_table_that_does_not_cover_the_model_is_a_mistake(table):
    with pytest.raises((AssertionError, TypeError)):
        table.shapes(abstract())


# --- written ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("most", "shards"), [(10**9, 1), (500, 4), (1, len(THEIRS))])
def test_shards_hold_everything_once_and_come_back_bit_for_bit(tmp_path, most, shards):
    stored = tensors(BFLOAT16)
    params = read(tmp_path, stored)
    out = tmp_path / "out"
    out.mkdir()
    log = []
    write_shards(out, TABLE.shapes(params), lambda name: log.append(name) or TABLE.tensor(name, params), most)
    assert log == list(THEIRS)
    names = [f"model-{number:05d}-of-{shards:05d}.safetensors" for number in range(1, shards + 1)]
    names = ["model.safetensors"] if shards == 1 else [*names, "model.safetensors.index.json"]
    assert sorted(path.name for path in out.iterdir()) == names
    sizes = [[value.nbytes for value in load_file(path).values()] for path in out.glob("*.safetensors")]
    assert all(sum(size) <= most or len(size) == 1 for size in sizes)
    back = TABLE.read(open_tensors(out), abstract())
    for name, value in params.items():
        assert np.asarray(back[name]).tobytes() == np.asarray(value).tobytes(), name


def test_the_shape_of_an_index_is_that_of_transformers(tmp_path):
    parts(tmp_path, a=tensors())
    params = TABLE.read(open_tensors(tmp_path), abstract())
    out = tmp_path / "out"
    out.mkdir()
    write_shards(out, TABLE.shapes(params), lambda name: TABLE.tensor(name, params), 2000)
    index = json.loads((out / "model.safetensors.index.json").read_text())
    assert index["metadata"] == {"total_size": sum(value.nbytes for value in tensors().values())}
    assert index["weight_map"].keys() == THEIRS.keys()
    with pytest.raises(UserError, match="max_shard_bytes = 0: must be at least 1"):
        write_shards(out, {}, lambda name: None, 0)
