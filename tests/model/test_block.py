"""The block is the increment of its formula, and its field draws one dropout mask a time, block and sublayer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxode.depth import Schedule, integrate
from jaxode.model import Block, Context, FieldArgs, block_field, sublayer_fields
from jaxode.model.rotary import rotary_angles


@pytest.fixture
def x():
    return jax.random.normal(jax.random.key(0), (2, 8, 32))


@pytest.fixture
def context(x):
    return Context(rotary=rotary_angles(8, 8, 10_000.0), x0=jax.random.normal(jax.random.key(9), x.shape))


def block_of(config, seed=0, dtype=jnp.float32):
    return Block(config, rngs=nnx.Rngs(seed), dtype=dtype)


def applied(block, x, context):
    """B(x), written out."""
    source = x if block.gate is None else x + block.gate[...] * context.x0

    def attention(x):
        return block.attention(x, mask=context.mask, rotary=context.rotary)

    if block.post:
        middle = block.attention_norm(x + attention(source))
        return block.feed_forward_norm(middle + block.feed_forward(middle))
    middle = x + attention(block.attention_norm(source))
    return middle + block.feed_forward(block.feed_forward_norm(middle))


@pytest.mark.parametrize("norm", ["layer", "rms"])
@pytest.mark.parametrize("inject", [False, True])
@pytest.mark.parametrize("position", ["pre", "post"])
def test_increment_is_the_block_minus_the_identity(position, inject, norm, x, context, tiny, lively):
    block = lively(block_of(tiny(norm_position=position, inject_input=inject, norm=norm)))
    np.testing.assert_allclose(x + block.increment(0.0, x, context), applied(block, x, context), rtol=1e-4, atol=1e-5)


def test_a_post_norm_block_ends_normalised(x, context, tiny):
    end = x + block_of(tiny(norm_position="post")).increment(0.0, x, context)
    np.testing.assert_allclose(jnp.mean(end, -1), 0.0, atol=1e-5)
    np.testing.assert_allclose(jnp.std(end, -1), 1.0, atol=1e-3)


@pytest.mark.parametrize("position", ["pre", "post"])
def test_bfloat16_matmuls_keep_a_float32_state(position, x, context, tiny):
    config = tiny(norm_position=position)
    block, exact = block_of(config, dtype=jnp.bfloat16), block_of(config)
    assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(block, nnx.Param))} == {jnp.dtype("float32")}
    increment = block.increment(0.0, x, context)
    want = exact.increment(0.0, x, context)
    assert increment.dtype == jnp.float32
    assert 0 < float(jnp.linalg.norm(increment - want) / jnp.linalg.norm(want)) < 0.02


def test_norms_see_the_state_unrounded(x, context, tiny):
    """A mean of 300 swallows a spread of 1 in bfloat16: rounded before it is centred, the state would be noise."""
    block, exact = block_of(tiny(), dtype=jnp.bfloat16), block_of(tiny())
    want = exact.attention_increment(0.0, 300 + x, context)
    error = jnp.linalg.norm(block.attention_increment(0.0, 300 + x, context) - want) / jnp.linalg.norm(want)
    assert float(error) < 0.02


def test_a_post_norm_state_is_not_rounded(x, context, tiny):
    end = x + block_of(tiny(norm_position="post"), dtype=jnp.bfloat16).increment(0.0, x, context)
    assert float(jnp.mean(end == end.astype(jnp.bfloat16))) < 0.5


def test_the_input_gate_starts_closed_and_can_open(x, context, tiny):
    injected, plain = block_of(tiny(inject_input=True)), block_of(tiny())
    np.testing.assert_array_equal(injected.increment(0.0, x, context), plain.increment(0.0, x, context))
    gradient = nnx.grad(lambda block: jnp.sum(block.increment(0.0, x, context) ** 2))(injected)
    assert float(jnp.abs(gradient.gate[...]).min()) > 0


# --- fields ---------------------------------------------------------------------------------------------------------


def test_a_cycles_field_is_one_pass_through_its_blocks(x, context, tiny, lively):
    blocks = tuple(lively(block_of(tiny(), seed), seed) for seed in (1, 2))
    field, params = block_field(blocks)
    want = applied(blocks[1], applied(blocks[0], x, context), context)
    np.testing.assert_allclose(x + field(0.0, x, FieldArgs(params, context)), want, rtol=1e-4, atol=1e-5)


def test_sublayer_fields_are_the_sublayers_in_order(x, context, tiny, lively):
    blocks = tuple(lively(block_of(tiny(), seed), seed) for seed in (1, 2))
    fields, params = sublayer_fields(blocks)
    assert len(fields) == 4
    end = x
    for field in fields:
        end = end + field(0.0, end, FieldArgs(params, context))
    want = applied(blocks[1], applied(blocks[0], x, context), context)
    np.testing.assert_allclose(end, want, rtol=1e-4, atol=1e-5)


def test_fields_of_the_same_blocks_are_equal(tiny):
    """Equal fields share a compilation outside jit."""
    blocks = (block_of(tiny()),)
    assert block_field(blocks)[0] == block_field(blocks)[0]
    assert sublayer_fields(blocks)[0] == sublayer_fields(blocks)[0]
    assert block_field(blocks)[0] != block_field((block_of(tiny(kind="masked")),))[0]


# --- dropout --------------------------------------------------------------------------------------------------------


def ones_block(config):
    """Both sublayers add 1 to every unit, whatever they read, so an increment shows its dropout masks."""
    block = block_of(config)
    for layer in (block.attention, block.feed_forward):
        layer.output.kernel[...] = jnp.zeros_like(layer.output.kernel[...])
        layer.output.bias[...] = jnp.ones_like(layer.output.bias[...])
    return block


def test_dropout_needs_a_key(x, tiny):
    block = ones_block(tiny(dropout=0.5))
    np.testing.assert_allclose(block.increment(0.0, x, Context()), 2.0)


def test_a_dropout_mask_is_a_function_of_time_and_sublayer(x, tiny):
    block, context = ones_block(tiny(dropout=0.5)), Context(key=jax.random.key(0))
    attention = block.attention_increment(1.0, x, context)
    np.testing.assert_array_equal(np.unique(attention), [0, 2])
    np.testing.assert_array_equal(attention, block.attention_increment(1.0, x + 1, context))
    agree = [
        float(jnp.mean(attention == other))
        for other in (
            block.attention_increment(2.0, x, context),
            block.attention_increment(1.5, x, context),
            block.feed_forward_increment(1.0, x, context),
            block.attention_increment(1.0, x, Context(key=jax.random.key(1))),
        )
    ]
    np.testing.assert_allclose(agree, 0.5, atol=0.1)


def test_blocks_of_a_cycle_drop_different_units(x, tiny):
    blocks = (ones_block(tiny(dropout=0.5)), ones_block(tiny(dropout=0.5)))
    fields, params = sublayer_fields(blocks)
    first, _, second, _ = (field(0.0, x, FieldArgs(params, Context(key=jax.random.key(0)))) for field in fields)
    assert float(jnp.mean(first == second)) == pytest.approx(0.5, abs=0.1)
    field, params = block_field(blocks)
    total = field(0.0, x, FieldArgs(params, Context(key=jax.random.key(0))))
    # Four independent masks: a sum of 2 from one of them in a quarter of the units.
    assert float(jnp.mean(total == 2)) == pytest.approx(0.25, abs=0.1)


def test_both_adjoints_draw_the_same_masks(x, tiny):
    field, params = block_field((ones_block(tiny(dropout=0.5)),))
    args = FieldArgs(params, Context(key=jax.random.key(0)))
    ends = [integrate(field, x, Schedule.even(4, 3), args=args, adjoint=a).state for a in ("recursive", "unroll")]
    np.testing.assert_allclose(ends[0], ends[1], rtol=1e-5, atol=1e-5)
    assert float(jnp.std(ends[0] - x)) > 0.1
