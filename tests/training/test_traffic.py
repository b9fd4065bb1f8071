"""The cost model of what an update sends, beside what was counted in compiled programs."""

import csv
import math
from pathlib import Path

import pytest

from jaxode.config import ModelConfig
from jaxode.model import make_model
from jaxode.model.parameters import split
from jaxode.model.partition import AXES
from jaxode.training.traffic import traffic

COUNTED = Path(__file__).parents[2] / "docs" / "results" / "bench-collectives.csv"
MODEL = ModelConfig(vocab_size=512, width=256, heads=8, length=64, steps=12)
SCALARS = 0.1  # KiB: of losses and norms, which the model leaves out


@pytest.fixture(scope="module")
def shapes():
    return {name: value.shape for name, value in split(make_model(MODEL))[1].items()}


def rows():
    with COUNTED.open() as file:
        return [row for row in csv.DictReader(file) if row["layout"] != "compiler"]


@pytest.mark.parametrize("row", rows(), ids=lambda row: row["layout"])
def test_the_model_is_what_was_counted(row, shapes):
    sizes = dict(zip(AXES, map(int, row["layout"].split(" x ")), strict=True))
    said = traffic(MODEL, shapes, sizes, max(16, math.prod(sizes.values())))
    assert said.a_step / 1024 == float(row["a_step_kib"])
    left = float(row["update_kib"]) - said.update / 1024
    if sizes["tensor"] == 1:
        assert 0 <= left < SCALARS
    else:  # and the fused projection of queries, keys and values, which is dealt out and back once
        kernel, bias = (math.prod(shapes[f"stack.looped.0.attention.qkv.{what}"]) for what in ("kernel", "bias"))
        assert 0 < left < 2 * 4 * (kernel + bias) / 1024
