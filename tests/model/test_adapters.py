"""Step adapters: nothing where they are zero, and the block of changed weights where all steps have the same."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxode.config import AttentionConfig, DepthConfig
from jaxode.depth import Coefficients
from jaxode.model import make_model
from jaxode.model.adapters import MANY_ROWS, Adapters, LowRank, wider
from jaxode.model.gains import Gains
from jaxode.model.parameters import calibration_parameters, coefficients, named, split

LAYOUTS = {
    "pre": {},
    "post": {"norm_position": "post", "kind": "masked"},
    "swiglu, gate, fewer key heads": {
        "feed_forward": "swiglu",
        "bias": "none",
        "kv_heads": 2,
        "attention": AttentionConfig(gate=True),
    },
    "cycle": {"sharing": "cycle", "groups": 2},
    "inner blocks": {"inner_blocks": 2},
}
TOKENS = jax.random.randint(jax.random.key(0), (3, 8), 0, 50)


@pytest.fixture(params=LAYOUTS)
def parts(request, tiny, lively):
    model = lively(make_model(tiny(**LAYOUTS[request.param])))
    return (*split(model), model.config)


def solved(parts, gains, steps):
    architecture, params, _ = parts
    own = Coefficients(np.ones((steps, 1), np.float32), gains=gains)
    model = architecture.bind(params | calibration_parameters(steps, own))
    return model(TOKENS, DepthConfig(steps=steps, solver="calibrated")).logits


def count(config):
    return config.steps // (config.groups if config.sharing == "cycle" else 1)


@pytest.mark.broad
def test_an_up_of_zeros_is_the_trained_block(parts):
    architecture, params, config = parts
    steps = count(config)
    full = architecture.bind(params)(TOKENS).logits
    neutral = solved(parts, Gains.neutral(config, steps, 3), config.steps)
    np.testing.assert_allclose(neutral, full, rtol=1e-5, atol=1e-5)
    assert Gains.neutral(config, steps).adapters is None


@pytest.mark.broad
def test_the_same_changes_in_all_steps_are_those_of_the_weights(parts):
    architecture, params, config = parts
    rng, steps = np.random.default_rng(0), count(config)
    neutral = Gains.neutral(config, steps, 2)
    blocks = neutral.scale.shape[1]
    # one step's numbers, in all of them
    one = jax.tree.map(lambda x: 0.2 * rng.normal(size=x.shape[1:]).astype(np.float32), neutral.adapters)
    one = dataclasses.replace(one, scale=1 + one.scale)
    every = jax.tree.map(lambda x: np.broadcast_to(x, (steps, *x.shape)), one)
    changed = dict(params)
    for block in range(blocks):
        names = {"attention.qkv": one.qkv, "attention.output": one.output}
        names |= {"feed_forward.inner": one.inner, "feed_forward.output": one.outer}
        for name, pair in names.items():
            changed[f"stack.looped.{block}.{name}.kernel"] += pair.down[block] @ pair.up[block]
        if config.norm_position == "post":
            for number, name in enumerate(("attention_norm", "feed_forward_norm")):
                place = f"stack.looped.{block}.{name}"
                scale, shift = one.scale[block, number], one.shift[block, number]
                changed[f"{place}.bias"] = changed[f"{place}.bias"] * scale + shift
                changed[f"{place}.scale"] = changed[f"{place}.scale"] * scale
    want = architecture.bind(changed)(TOKENS).logits
    found = solved(parts, dataclasses.replace(neutral, adapters=every), config.steps)
    np.testing.assert_allclose(found, want, rtol=1e-3, atol=1e-3)
    assert not np.allclose(found, architecture.bind(params)(TOKENS).logits, atol=1e-2)


def test_names_and_back(tiny):
    own = Coefficients(np.ones((2, 1), np.float32), gains=Gains.neutral(tiny(), 2, 3))
    flat = named(own)
    assert {"weights", "gains.scale", "gains.adapters.qkv.down", "gains.adapters.shift"} <= flat.keys()
    again = coefficients(flat)
    assert jax.tree.structure(again) == jax.tree.structure(own)
    assert all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(again), jax.tree.leaves(own), strict=True))


def test_more_columns_of_zeros_change_nothing():
    rng = np.random.default_rng(0)
    pair = LowRank(rng.normal(size=(4, 5, 2)), rng.normal(size=(4, 2, 6)))
    ones = np.ones((4, 2, 5))
    wide = wider(Adapters(pair, pair, pair, pair, ones, ones), 3).inner
    assert (wide.down.shape, wide.up.shape) == ((4, 5, 3), (4, 3, 6))
    np.testing.assert_allclose(wide.down @ wide.up, pair.down @ pair.up, rtol=1e-5)


def test_rows_by_their_own():
    rng = np.random.default_rng(0)
    pair = LowRank(rng.normal(size=(3, 5, 2)).astype(np.float32), rng.normal(size=(3, 2, 6)).astype(np.float32))
    x = jnp.asarray(rng.normal(size=(3, 4, 5)), jnp.float32)
    found = pair(x.reshape(12, 5)).reshape(3, 4, 6)
    for row in range(3):
        np.testing.assert_allclose(found[row], x[row] @ pair.down[row] @ pair.up[row], rtol=1e-4, atol=1e-5)


@pytest.mark.broad
@pytest.mark.parametrize("rank", [1, 3, 16, 17])
def test_many_rows_are_changed_as_few_are(rank):
    rng = np.random.default_rng(0)
    pair = LowRank(rng.normal(size=(5, rank)).astype(np.float32), rng.normal(size=(rank, 6)).astype(np.float32))
    x = jnp.asarray(rng.normal(size=(MANY_ROWS, 5)), jnp.float32)
    np.testing.assert_allclose(pair(x), x @ pair.down @ pair.up, rtol=1e-4, atol=1e-5)
    assert pair(x.astype(jnp.bfloat16)).dtype == jnp.bfloat16

    def objective(pair, x):
        return jnp.sum(jnp.sin(pair(x)))

    found = jax.grad(objective, argnums=(0, 1))(jax.tree.map(jnp.asarray, pair), x)
    product = jax.grad(lambda pair, x: jnp.sum(jnp.sin(x @ pair.down @ pair.up)), argnums=(0, 1))(
        jax.tree.map(jnp.asarray, pair), x
    )
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(product), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-3)
