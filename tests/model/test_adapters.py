"""Step adapters: nothing where they are zero, and the block of changed weights where all steps have the same."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxode.config import AttentionConfig, DepthConfig
from jaxode.depth import Coefficients
from jaxode.model import make_model
from jaxode.model.adapters import MANY_ROWS, Adapters, LowRank, wider
from jaxode.model.gains import Gains
from jaxode.model.layers import adapted
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


@pytest.mark.parametrize(("bias", "groups"), [(True, 1), (False, 2)])
def test_many_rows_meet_a_matrix_that_was_changed_first(bias, groups):
    rng, one = np.random.default_rng(0), nnx.initializers.ones_init()
    pair = LowRank(*(jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((5, 3), (3, 6))))
    x = jnp.asarray(rng.normal(size=(MANY_ROWS, 5)), jnp.float32)

    def changed(kernel, pair, x):
        linear = nnx.Linear(
            5, 6, use_bias=bias, dtype=jnp.float32, kernel_init=lambda *_: kernel, bias_init=one, rngs=nnx.Rngs(0)
        )
        return jnp.sin(adapted(linear, x, pair, (2, 4), groups))

    arguments = (jnp.asarray(rng.normal(size=(5, 6)), jnp.float32), pair, x)
    few = [changed(*arguments[:2], rows) for rows in jnp.split(x, 2)]
    np.testing.assert_allclose(changed(*arguments), jnp.concatenate(few), rtol=1e-4, atol=1e-5)

    def in_two(kernel, pair, x):
        return jnp.mean(jnp.stack([changed(kernel, pair, rows) for rows in jnp.split(x, 2)]))

    apart = jax.grad(in_two, (0, 1, 2))(*arguments)
    for derivative in (jax.grad, jax.jacfwd):
        found = derivative(lambda *given: jnp.mean(changed(*given)), (0, 1, 2))(*arguments)
        for here, there in zip(jax.tree.leaves(found), jax.tree.leaves(apart), strict=True):
            np.testing.assert_allclose(here, there, rtol=1e-3, atol=1e-6)
    # a matrix that stays costs no product of its own: two to apply it, two for each of A and B
    moved = jax.make_jaxpr(jax.grad(lambda pair: jnp.mean(changed(arguments[0], pair, x))))(pair)
    assert str(moved).count("dot_general") == 6
    # 16 bits would round the change away
    assert str(jax.make_jaxpr(changed)(*arguments)).count("dot_general") == 2
    half = pair.merges(x.astype(jnp.bfloat16))
    assert (pair.merges(x), pair.merges(x[1:]), half) == (True, False, False)
