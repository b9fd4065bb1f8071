"""A calibration survives the disk, and a damaged one is named."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from jaxode.calibration import Calibration, load_all, save
from jaxode.config import UserError
from jaxode.depth import Coefficients


def stored(rank=2):
    rng = np.random.default_rng(0)
    halves = (rng.normal(size=(3, 2, 16, rank)), rng.normal(size=(3, rank, 16))) if rank else (None, None)
    halves = tuple(None if half is None else half.astype(np.float16).astype(np.float32) for half in halves)
    weights = rng.normal(size=(3, 2)).astype(np.float32)
    return Calibration(3, (1, 2, 3), Coefficients(weights, *halves), kl=0.1, rise=0.05, tokens=64, seconds=1.0)


@pytest.mark.parametrize("rank", [0, 2])
def test_a_calibration_comes_back_from_its_file(tmp_path, rank):
    calibration = stored(rank)
    path = save(tmp_path, calibration)
    assert path.name == "calibration-3.json"
    (back,) = load_all(tmp_path, width=16).values()
    jax.tree.map(np.testing.assert_array_equal, back.coefficients, calibration.coefficients)
    same = dataclasses.replace(back, coefficients=calibration.coefficients)
    assert same == calibration
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_damaged_calibration_is_named(tmp_path):
    path = save(tmp_path, stored())
    with pytest.raises(UserError, match="made for width 16, the model has 32"):
        load_all(tmp_path, width=32)
    path.write_text(path.read_text()[:100])
    with pytest.raises(UserError, match=r"calibration-3.json: cannot be read as a calibration.*calibrate again"):
        load_all(tmp_path, width=16)
    path.write_text(json.dumps({"format": 99}))
    with pytest.raises(UserError, match="format 99"):
        load_all(tmp_path, width=16)
