"""Tensors known by headers alone, read block by block into their place; what is damaged is refused by name."""

import json
import struct

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from jaxode import UserError
from jaxode.interop import tensor_files
from jaxode.interop.files import SafetensorsShard
from jaxode.interop.tensor_files import copy_rows, open_tensors, same

BFLOAT16 = np.dtype(jnp.bfloat16)


def numbers(*shape, dtype=np.float32, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def parts(folder, **files):
    """Shards by stem with an index."""
    for stem, tensors in files.items():
        save_file(tensors, folder / f"{stem}.safetensors")
    places = {name: f"{stem}.safetensors" for stem, tensors in files.items() for name in tensors}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    return folder


def raw(path, kind, size):
    """A file of one tensor of four numbers of any type."""
    header = json.dumps({"weight": {"dtype": kind, "shape": [4], "data_offsets": [0, size]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(size))


def refused(call, *args):
    with pytest.raises(UserError) as caught:
        call(*args)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_headers_tell_names_shapes_and_types_of_all_shards(tmp_path, monkeypatch):
    monkeypatch.setattr(SafetensorsShard, "rows", None)
    files = open_tensors(
        parts(
            tmp_path,
            a={"x": numbers(3, 4), "count": np.arange(3)},
            b={"y": numbers(5, dtype=BFLOAT16), "z": np.zeros((), np.float16)},
        )
    )
    assert {name: (tensor.shape, tensor.dtype) for name, tensor in files.items()} == {
        "x": ((3, 4), np.float32),
        "count": ((3,), None),
        "y": ((5,), BFLOAT16),
        "z": ((), np.float16),
    }


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, BFLOAT16])
def test_a_tensor_is_read_into_its_place_bit_for_bit(tmp_path, monkeypatch, dtype):
    monkeypatch.setattr(tensor_files, "BLOCK", 64)
    tensors = {"matrix": numbers(13, 7, dtype=dtype), "vector": numbers(200, dtype=dtype)}
    tensors |= {
        "number": np.asarray(2.5, dtype),
        "cube": numbers(5, 3, 4, dtype=dtype),
        "empty": np.zeros((0, 2), dtype),
    }
    save_file(tensors, tmp_path / "model.safetensors")
    files = open_tensors(tmp_path)
    for name, want in tensors.items():
        into = np.empty(want.shape, dtype)
        files.read(name, into)
        assert into.tobytes() == want.tobytes(), name
    wide = np.zeros((7, 20), dtype)
    files.read("matrix", wide[:, 4:17].T)
    assert np.array_equal(wide[:, 4:17], tensors["matrix"].T)
    assert not wide[:, :4].any()
    assert not wide[:, 17:].any()
    some = np.empty((4, 7), dtype)
    files.read("matrix", some, first=6)
    assert np.array_equal(some, tensors["matrix"][6:10])


def test_numbers_are_cast_to_the_type_of_their_place(tmp_path):
    tensors = {"half": numbers(6, 4, dtype=BFLOAT16), "full": numbers(6, 4), "double": np.full(3, 1e300)}
    save_file(tensors, tmp_path / "model.safetensors")
    files = open_tensors(tmp_path)
    full, half = np.empty((6, 4), np.float32), np.empty((4, 6), BFLOAT16)
    files.read("half", full)
    assert np.array_equal(full, tensors["half"].astype(np.float32))
    files.read("full", half.T)
    assert np.array_equal(half.T, tensors["full"].astype(BFLOAT16))
    message = refused(files.read, "double", np.empty(3, np.float32))
    assert "tensor double holds numbers that are too large for float32" in message


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, BFLOAT16])
@pytest.mark.parametrize(("value", "word"), [(np.nan, "NaN"), (-np.inf, "infinite")])
def test_weights_that_are_not_finite_are_named(tmp_path, dtype, value, word):
    bad = numbers(40, 3, dtype=dtype)
    bad[33, 1] = value
    largest = np.full(8, jnp.finfo(dtype).max, dtype)
    save_file({"good": largest, "bad": bad}, tmp_path / "model.safetensors")
    files = open_tensors(tmp_path).renamed(lambda name: f"plain.{name}")
    files.read("plain.good", np.empty(8, dtype))
    message = refused(files.read, "plain.bad", np.empty((40, 3), dtype))
    assert f"{tmp_path / 'model.safetensors'}: tensor bad holds numbers that are {word}" in message


def test_only_a_block_of_a_mapped_tensor_is_held_at_a_time(tmp_path, monkeypatch):
    """And one file is open at a time."""
    monkeypatch.setattr(tensor_files, "BLOCK", 256)
    files = open_tensors(parts(tmp_path, a={"x": numbers(64, 8)}, b={"y": numbers(64, 8)}))
    log, rows = [], SafetensorsShard.rows

    def watched(self, name):
        context = rows(self, name)

        class Watch:
            def __enter__(self):
                log.append(f"open {name}")
                read = context.__enter__()
                return lambda at: log.append((name, at.stop - at.start)) or read(at)

            def __exit__(self, *error):
                log.append(f"close {name}")
                return context.__exit__(*error)

        return Watch()

    monkeypatch.setattr(SafetensorsShard, "rows", watched)
    for name in ("y", "x"):
        files.read(name, np.empty((64, 8), np.float32))
    assert log == [entry for name in ("y", "x") for entry in (f"open {name}", *[(name, 8)] * 8, f"close {name}")]


def test_two_tensors_are_compared_by_their_numbers(tmp_path):
    first = numbers(50, 3)
    other = first.copy()
    other[49, 2] += 1
    half = first.astype(np.float16)
    save_file(
        {"a": first, "b": first.copy(), "c": other, "d": first.T.copy(), "e": half, "f": half.astype(np.float32)},
        tmp_path / "model.safetensors",
    )
    files = open_tensors(tmp_path)
    assert same(files["a"], files["b"])
    assert not same(files["a"], files["c"])
    assert not same(files["a"], files["d"])
    assert same(files["e"], files["f"])


def test_rows_are_copied_out_of_transposed_arrays(monkeypatch):
    monkeypatch.setattr(tensor_files, "BLOCK", 64)
    source = numbers(9, 14, dtype=BFLOAT16)
    into = np.empty((5, 9), BFLOAT16)
    copy_rows(source[:, 3:8].T, into)
    assert into.tobytes() == np.ascontiguousarray(source[:, 3:8].T).tobytes()


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [0, 4, 60, -4])
def test_a_cut_off_shard_is_named(tmp_path, length):
    """In its first bytes, in its header, in its data."""
    folder = parts(tmp_path, a={"x": numbers(8, 4)}, b={"y": numbers(8, 4)})
    path = folder / "b.safetensors"
    path.write_bytes(path.read_bytes()[:length])
    assert f"{path}: cannot be read as safetensors (" in refused(open_tensors, folder)


def test_an_index_that_names_what_its_shard_lacks_is_refused(tmp_path):
    folder = parts(tmp_path, a={"x": numbers(2)}, b={"y": numbers(2)})
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"x": "a.safetensors", "y": "b.safetensors", "z": "b.safetensors"}}))
    assert f"{folder / 'b.safetensors'}: lacks tensor z, which the index names" in refused(open_tensors, folder)


def test_a_tensor_in_two_shards_is_refused(tmp_path):
    folder = parts(tmp_path, a={"x": numbers(2), "y": numbers(2)}, b={"y": numbers(2)})
    assert "tensor y stands twice, in a.safetensors and b.safetensors" in refused(open_tensors, folder)
    save_file({"model.x": numbers(2), "x": numbers(2)}, tmp_path / "model.safetensors")
    files = open_tensors(tmp_path)
    assert "tensor x stands twice, in model.safetensors" in refused(
        files.renamed, lambda name: name.removeprefix("model.")
    )


@pytest.mark.parametrize(("kind", "size"), [("F8_E4M3", 4), ("F8_E5M2", 4), ("I8", 4), ("U8", 4), ("I32", 16)])
def test_types_of_quantised_weights_are_known_but_are_no_weights(tmp_path, kind, size):
    raw(tmp_path / "model.safetensors", kind, size)
    tensor = open_tensors(tmp_path)["weight"]
    assert (tensor.kind, tensor.dtype) == (kind, None)


def test_a_file_that_changes_while_it_is_read_is_named(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file({"x": numbers(8, 4)}, path)
    files = open_tensors(tmp_path)
    save_file({"y": numbers(8, 4)}, path)
    assert f"{path}: cannot be read as safetensors (" in refused(files.read, "x", np.empty((8, 4), np.float32))
