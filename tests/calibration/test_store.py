"""A calibration survives the disk, a damaged one is named, and it serves what it was made for and nothing else."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from jaxode.calibration import Calibration, Origin, load_all, save, with_calibrations
from jaxode.config import ModelConfig, UserError
from jaxode.data.checksums import sealed
from jaxode.depth import Coefficients
from jaxode.model.gains import Gains

MODEL = ModelConfig(vocab_size=31, width=16, heads=2, length=8, steps=6)
ORIGIN = Origin(dataclasses.asdict(MODEL), "t", "w")


def half(array):
    return array.astype(np.float16).astype(np.float32)


def stored(rank=2, gains=True, adapters=0):
    rng = np.random.default_rng(0)
    halves = (half(rng.normal(size=(3, 2, 16, rank))), half(rng.normal(size=(3, rank, 16)))) if rank else (None, None)
    weights = rng.normal(size=(3, 2)).astype(np.float32)
    own = jax.tree.map(half, Gains.neutral(MODEL, 3, adapters)) if gains else None
    return Calibration(3, (1, 2, 3), Coefficients(weights, *halves, own), kl=0.1, rise=0.05, tokens=64, seconds=1.0)


@pytest.mark.parametrize(
    ("rank", "gains", "adapters"), [(0, False, 0), (2, False, 0), (0, True, 0), (2, True, 0), (2, True, 3)]
)
def test_a_calibration_comes_back_from_its_file(tmp_path, rank, gains, adapters):
    calibration = dataclasses.replace(stored(rank, gains, adapters), kl=None, rise=None, error=0.3)
    path = save(tmp_path, calibration, ORIGIN)
    assert path.name == "calibration-3.json"
    (back,) = load_all(tmp_path).values()
    assert jax.tree.structure(back.coefficients) == jax.tree.structure(calibration.coefficients)
    jax.tree.map(np.testing.assert_array_equal, back.coefficients, calibration.coefficients)
    same = dataclasses.replace(back, coefficients=calibration.coefficients, origin=None)
    assert same == calibration
    assert back.origin == ORIGIN
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def damaged(path, **changes):
    raw = json.loads(path.read_text())
    del raw["checksum"]
    path.write_text(json.dumps(sealed(raw | changes)))


def test_a_damaged_calibration_is_named(tmp_path):
    path = save(tmp_path, stored(), ORIGIN)
    whole = path.read_text()
    for changes, reason in (
        ({"format": 99}, "format 99"),
        ({"steps": 4}, "it holds 4 steps, its name says otherwise"),
        ({"weights": [[1.0, 0.0]] * 2}, "rows for 2 solver steps"),
        ({"weights": [[float("nan"), 0.0]] * 3}, "weights is not finite"),
        ({"arrays": {"sideways": {"shape": [0], "float16": ""}}}, "sideways"),
    ):
        path.write_text(whole)
        damaged(path, **changes)
        with pytest.raises(UserError, match=rf"calibration-3.json: cannot be read as a calibration.*{reason}"):
            load_all(tmp_path)
    path.write_text(whole.replace('"rise": 0.05', '"rise": 0.06'))
    with pytest.raises(UserError, match=r"calibration-3.json: .*\(its checksum is that of other numbers\)"):
        load_all(tmp_path)
    path.write_text(whole[:100])
    with pytest.raises(UserError, match=r"calibration-3.json: cannot be read.*delete it and calibrate again"):
        load_all(tmp_path)


def test_a_calibration_without_a_checksum_is_one_of_an_older_version(tmp_path):
    path = save(tmp_path, stored(), ORIGIN)
    raw = json.loads(path.read_text())
    del raw["checksum"]
    path.write_text(json.dumps(raw))
    with pytest.raises(UserError, match=r"\(its checksum is missing\)"):
        load_all(tmp_path)
    path.write_text(json.dumps(raw | {"format": 2}))
    (back,) = load_all(tmp_path).values()
    np.testing.assert_array_equal(back.coefficients.weights, stored().coefficients.weights)


def test_a_field_that_is_younger_than_the_file_had_its_default_then():
    older = {name: value for name, value in ORIGIN.model.items() if name not in ("sharing", "width")}
    assert dataclasses.replace(ORIGIN, model=older | {"width": 16}).difference(ORIGIN) == ""
    assert dataclasses.replace(ORIGIN, model=older).difference(ORIGIN).startswith("model.width = ")
    # what reads the end is told by the weights
    headless = dataclasses.replace(ORIGIN, model=ORIGIN.model | {"head": "none"})
    older = {name: value for name, value in ORIGIN.model.items() if name != "head"}
    assert dataclasses.replace(ORIGIN, model=older).difference(headless) == ""
    assert ORIGIN.difference(headless).startswith("model.head = 'vocabulary'")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"weights": "v"}, r"other weights \(fingerprint w, at hand v\)"),
        ({"tokenizer": "u"}, r"another tokenizer \(fingerprint t, at hand u\)"),
        ({"model": dataclasses.asdict(dataclasses.replace(MODEL, steps=12))}, "model.steps = 6, the model .* has 12"),
    ],
)
def test_a_calibration_made_for_something_else_is_refused(tmp_path, changes, named):
    save(tmp_path, stored(), ORIGIN)
    read = load_all(tmp_path)
    assert "calibration.3.weights" in with_calibrations({}, read, ORIGIN)
    with pytest.raises(UserError, match=rf"calibration-3.json was made for {named}; calibrate again with --task"):
        with_calibrations({}, read, dataclasses.replace(ORIGIN, **changes))
