"""Weights that PyTorch wrote: mapped, in their own type, and refused as safetensors are."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from jaxode import UserError
from jaxode.interop.tensor_files import open_tensors, same

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.slow
BIN = "pytorch_model.bin"


@pytest.fixture
def tensors():
    torch.manual_seed(0)
    return {
        "matrix": torch.randn(9, 5).bfloat16(),
        "turned": torch.randn(4, 6).t(),
        "half": torch.randn(7).half(),
        "number": torch.tensor(2.5),
        "count": torch.arange(3),
    }


@pytest.mark.parametrize("archive", [True, False], ids=["mapped", "old"])
def test_every_type_is_read_as_it_is(tmp_path, tensors, archive):
    torch.save(tensors, tmp_path / BIN, _use_new_zipfile_serialization=archive)
    files = open_tensors(tmp_path)
    assert {name: tensor.dtype for name, tensor in files.items()} == {
        "matrix": np.dtype(jnp.bfloat16),
        "turned": np.float32,
        "half": np.float16,
        "number": np.float32,
        "count": None,
    }
    for name, tensor in tensors.items():
        if name != "count":
            into = np.empty(tensor.shape, files[name].dtype)
            files.read(name, into)
            np.testing.assert_array_equal(into.astype(np.float32), tensor.float().numpy(), err_msg=name)
    rows = np.empty((5, 3), jnp.bfloat16)
    files.read("matrix", rows.T, first=4)
    np.testing.assert_array_equal(rows.T.astype(np.float32), tensors["matrix"][4:7].float().numpy())


def test_shards_are_checked_as_those_of_safetensors(tmp_path, tensors):
    torch.save({"a": tensors["matrix"], "b": tensors["matrix"].clone()}, tmp_path / "1.bin")
    torch.save({"c": tensors["half"]}, tmp_path / "2.bin")
    index = tmp_path / f"{BIN}.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "1.bin", "b": "1.bin", "c": "2.bin"}}))
    files = open_tensors(tmp_path)
    assert same(files["a"], files["b"])
    index.write_text(json.dumps({"weight_map": {"a": "1.bin", "d": "2.bin"}}))
    with pytest.raises(UserError, match=r"2\.bin: lacks tensor d, which the index names"):
        open_tensors(tmp_path)
    (tmp_path / "2.bin").write_bytes((tmp_path / "2.bin").read_bytes()[:-40])
    with pytest.raises(UserError, match=r"2\.bin: cannot be read as PyTorch tensors alone"):
        open_tensors(tmp_path)


def test_what_is_no_weight_is_named(tmp_path):
    torch.save({"a": torch.tensor([1.0, torch.nan]), "b": torch.zeros(2).to(torch.float8_e4m3fn)}, tmp_path / BIN)
    files = open_tensors(tmp_path)
    assert (files["b"].kind, files["b"].dtype) == ("float8_e4m3fn", None)
    with pytest.raises(UserError, match=f"{BIN}: tensor a holds numbers that are NaN"):
        files.read("a", np.empty(2, np.float32))
