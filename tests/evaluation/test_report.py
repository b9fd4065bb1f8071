"""The report against `evaluate` and NumPy: one row a method, at its own cost, and what is written."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxode.config import DepthConfig, ModelConfig, UserError
from jaxode.data import Batch
from jaxode.depth import Coefficients
from jaxode.evaluation import (
    Diverged,
    Method,
    comparators,
    evaluate,
    evaluation_counts,
    report,
    save_report,
    work_precision,
)
from jaxode.evaluation.figures import read_csv
from jaxode.model import make_model
from jaxode.model.parameters import calibration_parameters, split

CONFIG = ModelConfig(vocab_size=11, width=8, heads=2, length=8, steps=4)


def batch(seed=0):
    tokens = np.random.default_rng(seed).integers(0, 11, (2, 8)).astype(np.int32)
    weights = np.ones((2, 8), np.float32)
    weights[1, 5:] = 0
    return Batch(tokens, np.roll(tokens, -1, 1), weights, np.ones((2, 8), np.int32))


BATCHES = [batch(0), batch(1)]
EULER = Coefficients(np.full((2, 1), 2.0, np.float32))
METHODS = [
    Method("step rescaling", DepthConfig(steps=2)),
    Method("Heun", DepthConfig(steps=1, solver="heun")),
    Method("calibrated", DepthConfig(steps=2, solver="calibrated"), calibration_parameters(2, EULER)),
]


@pytest.fixture(scope="module")
def model():
    architecture, params = split(make_model(CONFIG))
    return architecture, {name: 4 * value for name, value in params.items()}


@pytest.fixture(scope="module")
def forward(model):
    architecture, params = model
    return jax.jit(lambda tokens, depth: architecture.bind(params)(tokens, depth, trace=True), static_argnums=1)


@pytest.fixture(scope="module")
def found(model):
    return work_precision(*model, iter(BATCHES), METHODS, rounds=2)


def test_rows_are_those_of_evaluate(model, found):
    assert [row.method for row in found.rows] == ["full depth", "step rescaling", "Heun", "calibrated"]
    assert [(row.solver, row.steps) for row in found.rows] == [
        ("euler", 4), ("euler", 2), ("heun", 1), ("calibrated", 2),
    ]  # fmt: skip
    assert [row.block_evaluations for row in found.rows] == [4, 2, 2, 2]
    assert found.tokens == 26
    full = found.rows[0]
    assert (full.rise, full.perplexity_rise, full.relative_time) == (0.0, 0.0, 1.0)
    for row in found.rows[:3]:
        alone = evaluate(*model, BATCHES, DepthConfig(steps=row.steps, solver=row.solver))
        assert row.nats_per_token == pytest.approx(alone.nats_per_token, rel=1e-5)
        assert row.rise == pytest.approx(row.nats_per_token - full.nats_per_token)
        expected = 100 * (alone.perplexity / math.exp(full.nats_per_token) - 1)
        assert row.perplexity_rise == pytest.approx(expected, abs=1e-2)
        assert row.relative_time == row.milliseconds / full.milliseconds
    assert len({row.nats_per_token for row in found.rows[:3]}) == 3


def test_coefficients_of_eulers_method_are_eulers_method(found):
    rescaling, calibrated = found.rows[1], found.rows[3]
    assert calibrated.nats_per_token == pytest.approx(rescaling.nats_per_token, rel=1e-5)
    assert calibrated.kl == pytest.approx(rescaling.kl, rel=1e-3)


def test_divergence_is_that_of_numpy(forward, found):
    total = 0.0
    for one in BATCHES:
        p, q = (jax.nn.softmax(forward(one.tokens, DepthConfig(steps=n)).logits) for n in (4, 2))
        p, q = np.asarray(p, np.float64), np.asarray(q, np.float64)
        total += ((p * np.log(p / q)).sum(-1) * one.weights).sum()
    assert found.rows[1].kl == pytest.approx(total / 26, rel=1e-3)
    assert found.rows[0].kl == pytest.approx(0.0, abs=1e-6)
    assert found.rows[1].kl > 1e-3


def test_even_solves_are_followed_along_depth(forward, found):
    assert [(one.method, one.steps) for one in found.profiles] == [("full depth", 4), ("step rescaling", 2)]
    traces = [forward(one.tokens, DepthConfig(steps=2)).trace for one in BATCHES]
    profile = found.profiles[1]
    assert profile.times == (0.0, 2.0, 4.0)
    for name in ("state_norm", "field_norm", "cosine"):
        expected = np.mean([getattr(trace, name) for trace in traces], axis=0)
        np.testing.assert_allclose(getattr(profile, name), expected, rtol=1e-5)


def test_a_methods_calibration_is_not_mixed_with_the_models_own(model):
    """The correction of another calibration for as many steps must not be added."""
    architecture, params = model
    own = Coefficients(np.ones((2, 1), np.float32), np.ones((2, 1, 8, 1), np.float32), np.ones((2, 1, 8), np.float32))
    mixed = work_precision(architecture, params | calibration_parameters(2, own), BATCHES, METHODS[2:], rounds=1)
    plain = work_precision(architecture, params, BATCHES, METHODS[2:], rounds=1)
    assert [row.nats_per_token for row in mixed.rows] == [row.nats_per_token for row in plain.rows]


@pytest.fixture(scope="module")
def huge():
    """F is a constant of 4e18: the full depth ends at 1.6e19, which a norm can just square; ten times f it cannot."""
    architecture, params = split(make_model(CONFIG))
    params = {name: jnp.zeros_like(value) if name.endswith("kernel") else value for name, value in params.items()}
    return architecture, params | {"stack.looped.0.feed_forward.output.bias": jnp.full((8,), 4e18)}


def test_a_solve_that_diverges_is_a_row(huge, tmp_path):
    ten = Coefficients(np.full((1, 1), 10.0, np.float32))
    far = Method("far", DepthConfig(steps=1, solver="calibrated"), calibration_parameters(1, ten))
    found = work_precision(*huge, BATCHES, [far], rounds=1)
    full, bad = found.rows
    assert math.isfinite(full.nats_per_token)
    assert (bad.nats_per_token, bad.rise, bad.perplexity_rise, bad.kl) == (math.inf,) * 4
    assert (bad.steps, bad.block_evaluations) == (1, 1)
    assert bad.milliseconds > 0
    assert "far" in save_report(tmp_path, found).splitlines()[-1]
    assert read_csv(tmp_path / "report.csv")[-1]["nats_per_token"] == math.inf


def test_a_full_depth_that_diverges_is_an_error_with_its_step(huge):
    architecture, params = huge
    params = params | {"stack.looped.0.feed_forward.output.bias": jnp.full((8,), 1e19)}
    with pytest.raises(Diverged, match=r"the loss is not finite .* after step 3 of 4"):
        work_precision(architecture, params, BATCHES, METHODS, rounds=1)


def test_misfit_and_emptiness_are_refused(model, monkeypatch):
    empty = dataclasses.replace(batch(), weights=np.zeros((2, 8), np.float32))
    with pytest.raises(UserError, match="nothing to report on"):
        work_precision(*model, [empty], [], rounds=1)
    monkeypatch.setattr(report, "solve_step", lambda *a, **k: pytest.fail("solved"))
    with pytest.raises(UserError, match="unshared"):
        work_precision(*split(make_model(dataclasses.replace(CONFIG, sharing="none"))), BATCHES, [])
    with pytest.raises(UserError, match="wavy"):
        work_precision(*model, BATCHES, [Method("x", DepthConfig(steps=1, schedule="wavy"))])


def test_methods_take_turns_on_the_first_batch(model, monkeypatch):
    timed = {}

    def median_times(candidates, rounds, tick, enough):
        timed.update(rounds=rounds, tick=tick)
        timed["losses"] = [float(run()[1].nats) for run in candidates.values()]
        return dict.fromkeys(candidates, 2.0)

    monkeypatch.setattr(report, "median_times", median_times)
    found = work_precision(*model, BATCHES, METHODS[:1], rounds=5)
    assert timed["rounds"] == 5
    first = [evaluate(*model, BATCHES[:1], DepthConfig(steps=n)) for n in (4, 2)]
    assert timed["losses"] == pytest.approx([one.nats_per_token * one.tokens for one in first], rel=1e-5)
    assert [row.milliseconds for row in found.rows] == [2.0, 2.0]


def test_the_bar_counts_every_measurement(model, monkeypatch):
    bars = []

    class Bar:
        def __init__(self, **kwargs):
            self.total, self.count = kwargs["total"], 0
            bars.append(self)

        def update(self):
            self.count += 1

        def set_description(self, text):
            pass

        __enter__ = lambda self: self  # noqa: E731
        __exit__ = lambda *_: None  # noqa: E731

    monkeypatch.setattr(report, "tqdm", Bar)
    work_precision(*model, BATCHES, METHODS, rounds=3)
    (bar,) = bars
    # 4 solves of 2 batches, 2 profiles of 2, 3 rounds of 4
    assert bar.total == bar.count == 4 * 2 + 2 * 2 + 3 * 4


@pytest.mark.broad
@pytest.mark.slow
@pytest.mark.parametrize(
    "layout",
    [
        {"kind": "masked", "norm_position": "post"},
        {"sharing": "sequence", "groups": 2, "prelude": 1},
        {"sharing": "cycle", "groups": 2, "coda": 1},
    ],
)
def test_every_method_runs_on_every_layout(layout, tmp_path):
    config = dataclasses.replace(CONFIG, **layout)
    methods = comparators(config, evaluation_counts(config))
    found = work_precision(*split(make_model(config)), BATCHES, methods, document_mask=True, rounds=1)
    assert len(found.rows) == 1 + len(methods)
    assert all(math.isfinite(row.nats_per_token) and row.kl > -1e-6 for row in found.rows)
    for profile in found.profiles:
        units = 2 if config.sharing == "cycle" else 4
        assert profile.times == pytest.approx(np.linspace(0, units, len(profile.times)))
    save_report(tmp_path, found)


def test_save_writes_tables_and_figures(found, tmp_path):
    text = save_report(tmp_path / "new", found)
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == [
        "report.csv", "report.png", "trace.csv", "trace.png",
    ]  # fmt: skip
    assert read_csv(tmp_path / "new" / "report.csv") == [dataclasses.asdict(row) for row in found.rows]
    assert text.splitlines()[0].split() == [field.name for field in dataclasses.fields(found.rows[0])]
    assert len(text.splitlines()) == 2 + len(found.rows)
    trace = read_csv(tmp_path / "new" / "trace.csv")
    assert [(row["method"], row["steps"], row["time"]) for row in trace[5:]] == [
        ("step rescaling", 2, 0.0), ("step rescaling", 2, 2.0), ("step rescaling", 2, 4.0),
    ]  # fmt: skip
    profile = found.profiles[1]
    assert [row["state_norm"] for row in trace[5:]] == list(profile.state_norm)
    assert [row["field_norm"] for row in trace[5:]] == [*profile.field_norm, None]
    assert [row["cosine"] for row in trace[5:]] == [None, *profile.cosine, None]


def test_a_folder_that_cannot_be_written(found, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="the report cannot be written there"):
        save_report(tmp_path / "file", found)
