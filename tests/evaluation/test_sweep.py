"""Depth sweeps: which step counts, what the rows say, what is written."""

import dataclasses
import math
import re

import jax.numpy as jnp
import numpy as np
import pytest

from jaxode.config import DepthConfig, LoopConfig, ModelConfig, UserError
from jaxode.data import Batch
from jaxode.evaluation import Diverged, default_configs, default_steps, depth_sweep, evaluate, save_sweep, sweep
from jaxode.evaluation.figures import read_csv
from jaxode.evaluation.sweep import resolved
from jaxode.model import make_model
from jaxode.model.parameters import split

CONFIG = ModelConfig(vocab_size=11, width=8, heads=2, length=8, steps=2)


def batch(seed=0):
    tokens = np.random.default_rng(seed).integers(0, 11, (2, 8)).astype(np.int32)
    return Batch(tokens, np.roll(tokens, -1, 1), np.ones((2, 8), np.float32), np.ones((2, 8), np.int32))


@pytest.fixture(scope="module")
def model():
    architecture, params = split(make_model(CONFIG))
    return architecture, {name: 4 * value for name, value in params.items()}


@pytest.fixture(scope="module")
def result(model):
    configs = [*default_configs(CONFIG), DepthConfig(steps=1, solver="heun")]
    return depth_sweep(*model, [batch(0), batch(1)], configs, bytes_per_token=2.0, rounds=3)


@pytest.mark.parametrize(
    ("layout", "steps"),
    [
        ({"steps": 12}, (12, 6, 4, 3)),
        ({"steps": 4}, (4, 2, 1)),
        ({"steps": 1}, (1,)),
        ({"steps": 7}, (7,)),
        ({"steps": 12, "sharing": "sequence", "groups": 2}, (12, 6, 4)),
        ({"steps": 12, "sharing": "cycle", "groups": 3}, (12, 6, 3)),
        ({"steps": 12, "sharing": "none"}, (12,)),
    ],
)
def test_default_steps_fit_the_layout(layout, steps):
    assert default_steps(ModelConfig(**layout)) == steps


def test_default_configs_carry_solver_and_schedule():
    model = ModelConfig(steps=4)
    assert default_configs(model, "heun", "geometric:2") == tuple(
        DepthConfig(steps=n, solver="heun", schedule="geometric:2") for n in (4, 2, 1)
    )
    assert default_configs(model, "tsit5") == (DepthConfig(solver="tsit5", schedule="even"),)
    with pytest.raises(UserError, match="unshared"):
        default_configs(ModelConfig(sharing="none"), "heun")


def test_rows_say_what_was_measured(model, result):
    assert [(row.solver, row.steps) for row in result.rows] == [
        ("euler", 2), ("euler", 1), ("heun", 1),
    ]  # fmt: skip
    assert [row.block_evaluations for row in result.rows] == [2, 1, 2]
    full = result.rows[0]
    assert (full.rise, full.relative_time) == (0.0, 1.0)
    assert result.tokens == 32
    for row in result.rows:
        depth = DepthConfig(steps=row.steps, solver=row.solver)
        alone = evaluate(*model, [batch(0), batch(1)], depth, bytes_per_token=2.0)
        assert row.nats_per_token == alone.nats_per_token
        assert row.rise == alone.nats_per_token - full.nats_per_token
        assert (row.perplexity, row.bits_per_byte) == (alone.perplexity, alone.bits_per_byte)
        assert row.milliseconds > 0
        assert row.relative_time == row.milliseconds / full.milliseconds
    assert len({row.nats_per_token for row in result.rows}) == 3


def test_full_depth_is_added_where_missing_and_recognised_by_any_name(model):
    added = depth_sweep(*model, [batch()], [DepthConfig(steps=1)], rounds=1)
    assert [row.steps for row in added.rows] == [2, 1]
    names = [DepthConfig(), DepthConfig(steps=2), DepthConfig(steps=2, schedule="unit")]
    assert [row.steps for row in depth_sweep(*model, [batch()], names, rounds=1).rows] == [2]


def test_an_iterator_is_read_once_for_all(model):
    from_list, from_iterator = (
        depth_sweep(*model, data, rounds=1) for data in ([batch(0), batch(1)], iter([batch(0), batch(1)]))
    )
    assert [row.nats_per_token for row in from_list.rows] == [row.nats_per_token for row in from_iterator.rows]


def test_candidates_take_turns(model, monkeypatch):
    """Warm-up once each, then round by round; each timing waits for the device."""
    seen = []
    step = sweep.evaluation_step
    monkeypatch.setattr(sweep, "evaluation_step", lambda *a, **k: (seen.append(k["depth"].steps), step(*a, **k))[1])
    depth_sweep(*model, [batch()], [DepthConfig(steps=2), DepthConfig(steps=1)], rounds=3)
    assert seen == [2, 1] * 4


def test_a_solve_that_diverges_is_a_row(model, tmp_path):
    """Too few steps can overflow; that is a result, at full depth it is an error."""
    architecture, params = model
    original = sweep.evaluate

    def evaluate_or_diverge(architecture, params, batches, depth, **rest):
        if depth.steps == 1:
            raise Diverged("not finite")
        return original(architecture, params, batches, depth, **rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweep, "evaluate", evaluate_or_diverge)
        result = depth_sweep(architecture, params, [batch()], rounds=1)
    bad = result.rows[-1]
    assert (bad.steps, bad.nats_per_token, bad.rise, bad.block_evaluations) == (1, math.inf, math.inf, None)
    save_sweep(tmp_path, result)
    assert read_csv(tmp_path / "sweep.csv")[-1]["nats_per_token"] == math.inf
    broken = {name: jnp.full_like(value, jnp.nan) for name, value in params.items()}
    with pytest.raises(Diverged, match=r"depth\.steps = 2"):
        depth_sweep(architecture, broken, [batch()], rounds=1)


def test_misfit_is_refused_before_anything_runs(model, monkeypatch):
    monkeypatch.setattr(sweep, "evaluate", lambda *a, **k: pytest.fail("evaluated"))
    with pytest.raises(UserError, match="wavy"):
        depth_sweep(*model, [batch()], [DepthConfig(), DepthConfig(steps=1, schedule="wavy")])


def test_unshared_model_has_one_row():
    architecture, params = split(make_model(dataclasses.replace(CONFIG, sharing="none", steps=2)))
    assert [row.steps for row in depth_sweep(architecture, params, [batch()], rounds=1).rows] == [2]


def test_adaptive_solver_has_no_steps():
    architecture, params = split(make_model(dataclasses.replace(CONFIG, steps=2)))
    depth = DepthConfig(solver="tsit5", tolerance=1e-1, steps=2)
    row = depth_sweep(architecture, params, [batch()], [depth], rounds=1).rows[-1]
    assert row.steps is None
    assert row.block_evaluations is not None
    assert row.block_evaluations >= 6


def test_save_writes_table_and_figure(result, tmp_path):
    text = save_sweep(tmp_path / "new", result)
    assert read_csv(tmp_path / "new" / "sweep.csv") == [dataclasses.asdict(row) for row in result.rows]
    assert (tmp_path / "new" / "sweep.png").read_bytes().startswith(b"\x89PNG")
    lines = text.splitlines()
    assert re.split(r"\s+", lines[0]) == [field.name for field in dataclasses.fields(result.rows[0])]
    assert len(lines) == 2 + len(result.rows)
    assert lines[2].split()[:4] == ["euler", "even", "2", "2"]
    without = dataclasses.replace(
        result, rows=tuple(dataclasses.replace(row, bits_per_byte=None) for row in result.rows)
    )
    assert "bits_per_byte" not in save_sweep(tmp_path, without)


def test_a_folder_that_cannot_be_written(result, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        save_sweep(tmp_path / "file", result)


def test_a_model_of_unit_loops_is_swept_in_unit_loops(tiny):
    model = tiny(steps=4, loop=LoopConfig(boundary="norm", schedule="unit"))
    assert {(depth.steps, depth.schedule) for depth in default_configs(model)} == {
        (4, "unit"),
        (2, "unit"),
        (1, "unit"),
    }
    # all of its loops are even steps as well, and one row
    assert resolved(model, DepthConfig(steps=4)) == resolved(model, DepthConfig(schedule="even", solver="euler"))
