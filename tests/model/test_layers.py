"""Attention, feed-forward, norms, rotary positions and dropout against their formulas."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxode.model.attention import Attention
from jaxode.model.layers import FeedForward, dropout, make_norm, output_scale
from jaxode.model.rotary import Rotary, rotary_angles, rotate


@pytest.fixture
def x():
    return jax.random.normal(jax.random.key(0), (2, 8, 32))


def attention_of(config, lively, seed=1):
    return lively(Attention(config, rngs=nnx.Rngs(0), dtype=jnp.float32), seed=seed)


def softmax(scores):
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


# --- attention ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["causal", "masked"])
@pytest.mark.parametrize("kv_heads", [0, 2, 1])
def test_attention_equals_its_formula(kind, kv_heads, x, tiny, lively):
    config = tiny(kind=kind, kv_heads=kv_heads)
    attention = attention_of(config, lively)
    mask = np.ones((2, 1, 8, 8), bool)
    mask[1, :, :, 2:4] = False
    mask |= np.eye(8, dtype=bool)
    heads, groups, width = 4, config.num_kv_heads, 8
    fused = np.asarray(x) @ np.asarray(attention.qkv.kernel[...]) + np.asarray(attention.qkv.bias[...])
    q, k, v = np.split(fused.reshape(2, 8, heads + 2 * groups, width), [heads, heads + groups], axis=2)
    seen = np.tril(mask) if kind == "causal" else mask
    outs = []
    for head in range(heads):
        group = head // (heads // groups)
        scores = np.einsum("bqk,bsk->bqs", q[:, :, head], k[:, :, group]) / math.sqrt(width)
        outs.append(softmax(np.where(seen[:, 0], scores, -np.inf)) @ v[:, :, group])
    joined = np.stack(outs, axis=2).reshape(2, 8, 32)
    want = joined @ np.asarray(attention.output.kernel[...]) + np.asarray(attention.output.bias[...])
    np.testing.assert_allclose(attention(x, mask=jnp.asarray(mask), rotary=None), want, rtol=1e-4, atol=1e-5)


def test_grouped_heads_equal_full_heads_with_repeated_weights(x, tiny, lively):
    grouped = attention_of(tiny(kv_heads=2), lively)
    full = attention_of(tiny(), lively, seed=2)

    def repeat(fused):
        """Columns of q, then every k and v head twice."""
        columns = fused.reshape(*fused.shape[:-1], 8, 8)
        q, k, v = jnp.split(columns, (4, 6), axis=-2)
        return jnp.concatenate([q, jnp.repeat(k, 2, -2), jnp.repeat(v, 2, -2)], -2).reshape(*fused.shape[:-1], -1)

    full.qkv.kernel[...] = repeat(grouped.qkv.kernel[...])
    full.qkv.bias[...] = repeat(grouped.qkv.bias[...])
    full.output.kernel[...], full.output.bias[...] = grouped.output.kernel[...], grouped.output.bias[...]
    rotary = rotary_angles(8, 8, 10_000.0)
    want = full(x, mask=None, rotary=rotary)
    np.testing.assert_allclose(grouped(x, mask=None, rotary=rotary), want, rtol=1e-4, atol=1e-5)


# --- rotary positions -----------------------------------------------------------------------------------------------


def test_rotation_is_multiplication_by_a_complex_phase():
    x = np.asarray(jax.random.normal(jax.random.key(0), (2, 8, 4, 6)))
    frequency = 100.0 ** (-2 * np.arange(3) / 6)
    phase = np.exp(1j * np.arange(8)[:, None] * frequency)[None, :, None, :]
    want = (x[..., :3] + 1j * x[..., 3:]) * phase
    turned = np.asarray(rotate(jnp.asarray(x), rotary_angles(8, 6, 100.0)))
    np.testing.assert_allclose(turned[..., :3] + 1j * turned[..., 3:], want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["causal", "masked"])
def test_rotary_attention_sees_only_relative_positions(kind, x, tiny, lively):
    attention = attention_of(tiny(kind=kind), lively)
    angles = rotary_angles(40, 8, 10_000.0)

    def at(start):
        return attention(x, mask=None, rotary=Rotary(angles.cos[start : start + 8], angles.sin[start : start + 8]))

    np.testing.assert_allclose(at(23), at(0), rtol=1e-3, atol=1e-4)
    assert float(jnp.abs(at(0) - attention(x, mask=None, rotary=None)).max()) > 1e-3


# --- feed-forward, norms, initialisation ----------------------------------------------------------------------------

ACTIVATIONS = {
    "gelu": lambda x: x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2))),
    "gelu_tanh": lambda x: x * 0.5 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "relu": lambda x: np.maximum(x, 0),
    "swiglu": lambda x: x[..., :24] / (1 + np.exp(-x[..., :24])) * x[..., 24:],
}


@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_feed_forward_equals_its_formula(kind, x, tiny, lively):
    feed_forward = lively(FeedForward(tiny(feed_forward=kind, ff_width=24), rngs=nnx.Rngs(0), dtype=jnp.float32))
    inner, output = feed_forward.inner, feed_forward.output
    assert inner.kernel[...].shape == (32, 48 if kind == "swiglu" else 24)
    hidden = np.asarray(x, np.float64) @ np.asarray(inner.kernel[...]) + np.asarray(inner.bias[...])
    want = ACTIVATIONS[kind](hidden) @ np.asarray(output.kernel[...]) + np.asarray(output.bias[...])
    np.testing.assert_allclose(feed_forward(x), want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["layer", "rms"])
def test_norms_equal_their_formulas(kind, x, tiny, lively):
    norm = lively(make_norm(tiny(norm=kind), 32, nnx.Rngs(0)))
    values = np.asarray(x, np.float64)
    if kind == "layer":
        values = values - values.mean(-1, keepdims=True)
    want = values / np.sqrt((values**2).mean(-1, keepdims=True) + 1e-6) * np.asarray(norm.scale[...])
    if kind == "layer":
        want = want + np.asarray(norm.bias[...])
    np.testing.assert_allclose(norm(x), want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "scale"),
    [
        ({"output_init": 0.0}, 1 / 4),
        ({"output_init": 0.0, "sharing": "sequence", "groups": 2}, 1 / 4),
        ({"output_init": 0.0, "sharing": "none"}, 8**-0.5),
        ({"output_init": 0.3}, 0.3),
    ],
)
def test_output_projections_start_small(changes, scale, tiny):
    config = tiny(width=64, **changes)
    assert output_scale(config) == pytest.approx(scale)
    for layer in (Attention, FeedForward):
        output = layer(config, rngs=nnx.Rngs(0), dtype=jnp.float32).output.kernel[...]
        assert float(jnp.std(output)) == pytest.approx(scale * output.shape[0] ** -0.5, rel=0.05)


# --- dropout --------------------------------------------------------------------------------------------------------


def test_dropout_is_the_identity_without_a_key_or_a_rate(x):
    np.testing.assert_array_equal(dropout(x, 0.5, None), x)
    np.testing.assert_array_equal(dropout(x, 0.0, jax.random.key(0)), x)


def test_dropout_drops_its_share_and_keeps_the_mean():
    ones = jnp.ones((200, 200))
    dropped = dropout(ones, 0.3, jax.random.key(0))
    np.testing.assert_array_equal(dropped, dropout(ones, 0.3, jax.random.key(0)))
    assert float(jnp.abs(dropped - dropout(ones, 0.3, jax.random.key(1))).max()) > 0
    assert float(jnp.mean(dropped == 0)) == pytest.approx(0.3, abs=0.01)
    assert float(jnp.mean(dropped)) == pytest.approx(1.0, abs=0.02)
    np.testing.assert_allclose(np.unique(dropped), [0, 1 / 0.7], rtol=1e-6)
