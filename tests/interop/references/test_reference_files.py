"""The references' shapes and folders: published parameter counts, and what is written is what is read."""

import json
import math

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file

from . import huginn, loopformer, nanbeige, ouro, retrofit
from .cases import families
from .folder import write_folder


@pytest.mark.parametrize(
    ("family", "name", "count", "tensors"),
    [
        (ouro, "ByteDance/Ouro-1.4B", 1_434_652_673, 269),
        (ouro, "ByteDance/Ouro-2.6B", 2_667_974_657, 533),
        (nanbeige, "Nanbeige/Nanbeige4.2-3B", 4_169_800_704, 201),
        (huginn, "tomg-group-umd/huginn-0125", 3_564_976_800, 77),
        (retrofit, "smcleish/Recurrent-Llama-3.2-train-recurrence-32", 1_385_228_288, 88),
        (loopformer, "armenjeddi/LoopFormer-3block-8iterations", 278_169_600, 29),
    ],
)
def test_counts_of_released_shapes(family, name, count, tensors):
    # published exactly: both Ouros, Recurrent-Llama, Huginn (below); to four digits: 4.170 B; to three: 0.278 B
    config = family.RELEASED[name]
    assert family.parameters(config) == count
    assert len(family.shapes(config)) == tensors


def test_huginn_files_hold_the_tied_matrix_twice_and_a_buffer():
    (config,) = huginn.RELEASED.values()
    assert sum(math.prod(shape) for shape in huginn.shapes(config).values()) == 3_911_400_096


def test_loopformer_files_hold_the_tied_matrix_once_in_two_bytes():
    # published: 561,169,230 bytes, of which less than 5 MB are the tokenizer's and the code's
    (config,) = loopformer.RELEASED.values()
    size = 2 * sum(math.prod(shape) for shape in loopformer.shapes(config).values())
    assert 0 < 561_169_230 - size < 5_000_000


@families
def test_tensors_have_their_shapes_and_one_seed_gives_the_same(family):
    tensors = family.random_tensors(family.CONFIG, 3)
    assert {name: value.shape for name, value in tensors.items()} == family.shapes(family.CONFIG)
    assert {value.dtype for value in tensors.values()} == {np.dtype(np.float32)}
    again, other = family.random_tensors(family.CONFIG, 3), family.random_tensors(family.CONFIG, 4)
    for name, value in tensors.items():
        assert np.array_equal(value, again[name])
        assert name == "freqs_cis" or not np.array_equal(value, other[name])


@families
@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_folders_hold_what_was_written(family, shards, dtype, tmp_path):
    tensors = family.random_tensors(family.CONFIG, 0)
    folder = write_folder(tmp_path / "model", family.CONFIG, tensors, shards=shards, dtype=dtype)
    assert json.loads((folder / "config.json").read_text()) == family.CONFIG
    files = sorted(path.name for path in folder.glob("*.safetensors"))
    arrays = {name: value for file in files for name, value in load_file(folder / file).items()}
    assert arrays.keys() == tensors.keys()
    for name, value in tensors.items():
        assert arrays[name].dtype == (ml_dtypes.bfloat16 if dtype == "bfloat16" else np.float32)
        assert np.array_equal(arrays[name], value.astype(arrays[name].dtype))
    if shards == 1:
        assert files == ["model.safetensors"]
        return
    assert files == [f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(value.nbytes for value in arrays.values())
    assert index["weight_map"].keys() == tensors.keys()
    for file in files:
        assert {name for name, home in index["weight_map"].items() if home == file} == load_file(folder / file).keys()
