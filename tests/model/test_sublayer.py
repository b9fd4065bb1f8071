"""Residual rules against their formulas, written out; what stands around a branch is the same for both sublayers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxode.config import AttentionConfig, SphereConfig
from jaxode.model import Block, Context
from jaxode.model.rotary import rotary_angles

X = jax.random.normal(jax.random.key(0), (2, 8, 32))
SPHERE = {"norm": "unit", "bias": "none", "feed_forward": "swiglu", "attention": AttentionConfig(norm="unit")}


def unit(x):
    return x / np.sqrt(np.sum(np.square(x), axis=-1, keepdims=True))


def rms(x, norm):
    return x / np.sqrt(np.mean(np.square(x), axis=-1, keepdims=True) + 1e-6) * np.asarray(norm.scale[...])


def rules(block):
    """For each sublayer: branch, its norm, its second norm, and its rate."""
    context = Context(rotary=rotary_angles(8, 8, 10_000.0))
    yield (
        lambda read: np.asarray(block.attention(jnp.asarray(read, jnp.float32), mask=None, rotary=context.rotary)),
        block.attention_norm,
        block.attention_output_norm,
        block.attention_rate,
    )
    yield (
        lambda read: np.asarray(block.feed_forward(jnp.asarray(read, jnp.float32))),
        block.feed_forward_norm,
        block.feed_forward_output_norm,
        block.feed_forward_rate,
    )


WRITTEN_OUT = {
    "sandwich": lambda x, branch, norm, out, rate: x + rms(branch(rms(x, norm)), out),
    "branch": lambda x, branch, norm, out, rate: x + rms(branch(x), norm),
    "sum": lambda x, branch, norm, out, rate: rms(x + branch(rms(x, norm)), out),
    "sphere": lambda x, branch, norm, out, rate: (
        unit(x) + np.abs(np.asarray(rate.stored[...]) * 0.4 / 0.1) * (unit(branch(unit(x))) - unit(x))
    ),
}


@pytest.mark.parametrize("rule", WRITTEN_OUT)
def test_a_block_is_its_rule_twice(rule, tiny, lively):
    parts = SPHERE | {"sphere": SphereConfig(size=0.1, rate=0.4)} if rule == "sphere" else {"norm": "rms"}
    block = lively(Block(tiny(norm_position=rule, **parts), rngs=nnx.Rngs(0)))
    want = np.asarray(X, np.float64)
    for branch, norm, out, rate in rules(block):
        want = WRITTEN_OUT[rule](want, branch, norm, out, rate)
    end = X + block.increment(0.0, X, Context(rotary=rotary_angles(8, 8, 10_000.0)))
    np.testing.assert_allclose(end, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rule", WRITTEN_OUT)
def test_the_state_stays_float32_in_bfloat16(rule, tiny):
    parts = SPHERE if rule == "sphere" else {"norm": "rms"}
    config, context = tiny(norm_position=rule, **parts), Context(rotary=rotary_angles(8, 8, 10_000.0))
    half, exact = (Block(config, rngs=nnx.Rngs(0), dtype=dtype) for dtype in (jnp.bfloat16, jnp.float32))
    found, want = half.increment(0.0, X, context), exact.increment(0.0, X, context)
    assert found.dtype == jnp.float32
    assert 0 < float(jnp.linalg.norm(found - want) / jnp.linalg.norm(want)) < 0.03


def test_a_stored_scale_begins_at_its_value(tiny):
    block = Block(tiny(norm_position="sphere", sphere=SphereConfig(size=0.02, rate=0.3), **SPHERE), rngs=nnx.Rngs(0))
    np.testing.assert_allclose(block.attention_rate.stored[...], 0.02)
    np.testing.assert_allclose(block.attention_rate(), 0.3, rtol=1e-6)
