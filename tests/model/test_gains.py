"""Gains are the weights they stand for, and each step reads its own."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxode.config import DepthConfig, ModelConfig
from jaxode.depth import Coefficients, Schedule
from jaxode.model import make_model
from jaxode.model.gains import Gains
from jaxode.model.parameters import coefficients, named, split
from jaxode.model.steps import StepsOverDepth

MODEL = ModelConfig(vocab_size=31, width=16, heads=2, length=8, steps=4)
LAYOUTS = {
    "full": {},
    "masked": {"kind": "masked"},
    "post": {"norm_position": "post"},
    "prelude": {"prelude": 1, "coda": 1},
    "sequence": {"sharing": "sequence", "groups": 2},
    "cycle": {"sharing": "cycle", "groups": 2},
    "cycle of pairs": {"sharing": "cycle", "groups": 2, "inner_blocks": 2},
    "swiglu": {"feed_forward": "swiglu"},
}
TOKENS = jnp.asarray(np.random.default_rng(0).integers(0, 31, (3, 8)))
CALIBRATED = DepthConfig(solver="calibrated")


def build(**changes):
    architecture, params = split(make_model(dataclasses.replace(MODEL, **changes), seed=0))
    # a fresh model's increments are too small to show anything
    return architecture, {name: 3 * value for name, value in params.items()}


def unit_steps(config):
    """Euler's method with step 1, as coefficients with neutral gains."""
    steps = config.steps // (config.groups if config.sharing == "cycle" else 1)
    return Coefficients(np.ones((steps, 1), np.float32), gains=Gains.neutral(config, steps))


@pytest.mark.broad
@pytest.mark.parametrize("layout", LAYOUTS)
def test_neutral_gains_are_the_trained_network(layout):
    architecture, params = build(**LAYOUTS[layout])
    model = architecture.bind(params)
    own = model(TOKENS, CALIBRATED, coefficients=unit_steps(model.config))
    np.testing.assert_allclose(own.logits, model(TOKENS).logits, atol=1e-5)


@pytest.mark.parametrize("layout", ["full", "post", "cycle", "cycle of pairs", "swiglu"])
def test_gains_of_features_are_rows_of_the_output_projections(layout):
    architecture, params = build(**LAYOUTS[layout])
    model = architecture.bind(params)
    rng = np.random.default_rng(1)
    own = unit_steps(model.config)
    blocks = own.gains.heads.shape[1]
    heads = rng.uniform(0.5, 2.0, (blocks, 16)).astype(np.float32)
    hidden = rng.uniform(0.5, 2.0, (blocks, model.config.hidden_width)).astype(np.float32)
    gains = dataclasses.replace(own.gains, heads=own.gains.heads * heads, hidden=own.gains.hidden * hidden)
    scaled = dict(params)
    for index in range(blocks):
        for name, gain in (("attention", heads[index]), ("feed_forward", hidden[index])):
            scaled[f"stack.looped.{index}.{name}.output.kernel"] *= gain[:, None]
    found = model(TOKENS, CALIBRATED, coefficients=dataclasses.replace(own, gains=gains)).logits
    np.testing.assert_allclose(found, architecture.bind(scaled)(TOKENS).logits, atol=1e-3)
    assert float(jnp.max(jnp.abs(found - model(TOKENS).logits))) > 0.1


def test_scale_and_shift_are_those_of_the_norms():
    architecture, params = build()
    model = architecture.bind(params)
    rng = np.random.default_rng(2)
    scale, shift = rng.uniform(0.5, 2.0, (2, 16)).astype(np.float32), rng.normal(size=(2, 16)).astype(np.float32)
    own = unit_steps(model.config)
    gains = dataclasses.replace(own.gains, scale=own.gains.scale * scale, shift=own.gains.shift + shift)
    changed = dict(params)
    for index, name in enumerate(("attention_norm", "feed_forward_norm")):
        prefix = f"stack.looped.0.{name}"
        changed[f"{prefix}.scale"] = params[f"{prefix}.scale"] * scale[index]
        changed[f"{prefix}.bias"] = params[f"{prefix}.bias"] * scale[index] + shift[index]
    found = model(TOKENS, CALIBRATED, coefficients=dataclasses.replace(own, gains=gains)).logits
    np.testing.assert_allclose(found, architecture.bind(changed)(TOKENS).logits, atol=2e-5)


def test_each_step_reads_its_own_row():
    """A gain in step i alone leaves the states before it, and changes the one after it."""
    architecture, params = build()
    model = architecture.bind(params)
    own = unit_steps(model.config)
    before = model(TOKENS, CALIBRATED, coefficients=own, trace=True).trace.states
    for step in range(4):
        hidden = own.gains.hidden.copy()
        hidden[step] = 2.0
        gains = dataclasses.replace(own.gains, hidden=hidden)
        after = model(TOKENS, CALIBRATED, coefficients=dataclasses.replace(own, gains=gains), trace=True).trace.states
        moved = np.asarray(jnp.max(jnp.abs(after - before), axis=(1, 2, 3))) > 1e-6
        np.testing.assert_array_equal(moved, np.arange(5) > step)


def test_gains_hold_from_the_start_of_their_step_to_its_end():
    rows = np.arange(3, dtype=np.float32)
    table = Gains(*(jnp.broadcast_to(rows[:, None], (3, 1)) for _ in range(4)))
    own = Coefficients(np.ones((3, 1)), gains=table)
    over = StepsOverDepth.over(Schedule((0.0, 1.0, 3.0, 12.0)), own)
    rows = [over.at(t) for t in (0.0, 0.9, 1.0, 2.9, 3.0, 11.0)]
    assert [float(row.gains.heads[0]) for row in rows] == [0, 0, 1, 1, 2, 2]
    assert [float(row.sizes) for row in rows] == [1, 1, 2, 2, 9, 9]
    assert StepsOverDepth.over(Schedule((0.0, 1.0))).gains is None


def test_coefficients_survive_being_named():
    whole = Coefficients(np.ones((3, 2)), np.ones((3, 2, 16, 4)), np.ones((3, 4, 16)), Gains.neutral(MODEL, 3))
    for given in (whole, dataclasses.replace(whole, gains=None), Coefficients(np.ones((3, 2)))):
        back = coefficients(named(given))
        assert jax.tree.structure(back) == jax.tree.structure(given)
        jax.tree.map(np.testing.assert_array_equal, back, given)
    assert sorted(named(whole))[:2] == ["down", "gains.heads"]
