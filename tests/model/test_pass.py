"""One pass of the looped part, and where its state begins, against what they are written out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxode import DepthConfig, make_model
from jaxode.config import ClockConfig, LoopConfig, UserError
from jaxode.model import Context
from jaxode.model.loop import noise
from jaxode.model.parameters import split
from jaxode.model.rotary import rotary_angles
from jaxode.model.stack import Stack

X = jax.random.normal(jax.random.key(0), (2, 8, 32))
CONTEXT = Context(rotary=rotary_angles(8, 8, 10_000.0))


def stack_of(config, lively):
    return lively(Stack(config, rngs=nnx.Rngs(0)))


def through(blocks, x):
    for block in blocks:
        x = x + block.increment(0.0, x, CONTEXT)
    return x


def unit(x):
    return x / jnp.sqrt(jnp.sum(jnp.square(x), axis=-1, keepdims=True) + 1e-6)


def solved(stack, steps=None):
    return stack(X, DepthConfig(steps=steps, schedule="unit" if steps else "auto"), CONTEXT)


@pytest.mark.broad
@pytest.mark.parametrize("loops", [1, 3])
def test_a_boundary_norm_ends_every_pass(loops, tiny, lively):
    config = tiny(steps=3, inner_blocks=2, loop=LoopConfig(boundary="norm"))
    stack, x = stack_of(config, lively), X
    for _ in range(loops):
        x = stack.loop.norm(through(stack.looped, x))
    np.testing.assert_allclose(solved(stack, loops).state, x, rtol=1e-4, atol=1e-4)


def test_concatenation_reads_the_state_first_and_then_what_was_entered(tiny, lively):
    stack = stack_of(tiny(steps=2, prelude=1, loop=LoopConfig(injection="concat", start="zeros")), lively)
    entered = through(stack.prelude, X)
    assert stack.loop.adapter is not None
    first, second = jnp.split(stack.loop.adapter.kernel[...], 2)
    x = jnp.zeros_like(X)
    for _ in range(2):
        x = through(stack.looped, x @ first + entered @ second)
    np.testing.assert_allclose(solved(stack).state, x, rtol=1e-4, atol=1e-4)


def test_a_sum_of_unit_vectors_begins_every_pass(tiny, lively):
    stack = stack_of(tiny(steps=2, prelude=1, loop=LoopConfig(injection="unit_sum")), lively)
    entered = through(stack.prelude, X)
    x = entered
    for _ in range(2):
        x = through(stack.looped, unit(x) + unit(entered))
    np.testing.assert_allclose(solved(stack).state, x, rtol=1e-4, atol=1e-4)


def test_two_states_run_at_two_speeds(tiny, lively):
    stack = stack_of(tiny(steps=2, inner_blocks=2, loop=LoopConfig(low_cycles=3, boundary="norm")), lively)
    low_blocks, high_blocks = stack.looped[:2], stack.looped[2:]
    high, low = X, jnp.broadcast_to(stack.start.low[...], X.shape)
    for _ in range(2):
        for _ in range(3):
            low = stack.loop.norm(through(low_blocks, low + high))
        high = stack.loop.norm(through(high_blocks, high + low))
    out = solved(stack)
    np.testing.assert_allclose(out.state, high, rtol=1e-4, atol=1e-4)
    assert out.block_evaluations == 2 * (3 * 2 + 2)


def test_the_final_norm_before_the_coda_is_the_heads_own(tiny, lively):
    model = lively(make_model(tiny(coda=1, loop=LoopConfig(exit_norm=True))))
    assert model.stack.exit_norm is model.head.norm
    x = model.stack.leave(X, CONTEXT)
    np.testing.assert_allclose(x, through(model.stack.coda, model.head.norm(X)), rtol=1e-5, atol=1e-5)
    # one parameter, not two
    assert [name for name in split(model)[1] if "norm" in name and name.startswith(("head", "stack.exit"))] == [
        "head.norm.bias",
        "head.norm.scale",
    ]


def test_noise_depends_on_seed_and_place_alone(tiny, lively):
    stack = stack_of(tiny(loop=LoopConfig(start="noise", injection="concat")), lively)
    places = jnp.asarray([[3, 4, 5], [5, 3, 9]])
    drawn = stack.start(jnp.zeros((2, 3, 32)), places, 7, False)
    np.testing.assert_array_equal(drawn[0, 0], drawn[1, 1])
    np.testing.assert_array_equal(drawn[0, 2], drawn[1, 0])
    alone = stack.start(jnp.zeros((1, 10, 32)), None, 7, False)
    np.testing.assert_array_equal(alone[0, 3], drawn[0, 0])
    assert jnp.any(stack.start(jnp.zeros((1, 10, 32)), None, 8, False) != alone)
    assert not jnp.any(stack.start(jnp.zeros((1, 10, 32)), None, 7, True))
    many = jax.vmap(lambda place: noise(0, place, 64))(jnp.arange(400))
    assert float(jnp.max(jnp.abs(many))) <= 3.0
    np.testing.assert_allclose(jnp.std(many), 0.9866, atol=0.01)


def test_a_shared_clock_is_one_for_all_blocks(tiny, lively):
    options = {"conditioning": "step", "inner_blocks": 2, "steps": 2}
    own, shared = (tiny(clock=ClockConfig(shared=shared), **options) for shared in (False, True))
    stack = stack_of(shared, lively)
    assert stack.loop.clock is not None
    assert all(block.conditioning.time is None for block in stack.looped)
    # every block with a copy of that clock says the same
    copied = stack_of(own, lively)
    for block, other in zip(copied.looped, stack.looped, strict=True):
        nnx.update(block, nnx.state(other, nnx.Param))
        for name in ("time", "step", "time_output", "step_output"):
            nnx.update(getattr(block.conditioning, name), nnx.state(getattr(stack.loop.clock, name), nnx.Param))
    nnx.update(copied.looped[0].conditioning.output, nnx.state(stack.looped[0].conditioning.output, nnx.Param))
    for steps in (None, 1):
        np.testing.assert_allclose(solved(stack, steps).state, solved(copied, steps).state, rtol=1e-5, atol=1e-5)


@pytest.mark.broad
@pytest.mark.parametrize("kind", ["none", "step"])
def test_streams_are_read_written_and_mixed_as_their_numbers_say(tiny, lively, kind):
    stack = stack_of(tiny(steps=3, loop=LoopConfig(streams=2), conditioning=kind), lively)
    streams = stack.loop.streams
    x = [X, X]
    for t in range(3):
        connections = streams.connections(float(t), 1.0)
        read, write, mix = (np.asarray(part) for part in (connections.read, connections.write, connections.mix))
        assert np.std(mix) > 0
        gathered = read[0] * x[0] + read[1] * x[1]
        step = stack.looped[0].increment(float(t), gathered, CONTEXT)
        x = [x[s] + mix[s, 0] * x[0] + mix[s, 1] * x[1] + write[s] * step for s in range(2)]
    weights = np.asarray(streams.out[...])
    np.testing.assert_allclose(solved(stack).state, weights[0] * x[0] + weights[1] * x[1], rtol=1e-4, atol=1e-4)


@pytest.mark.broad
@pytest.mark.parametrize("kind", ["none", "time"])
@pytest.mark.parametrize("steps", [None, 2, 1])
def test_streams_begin_as_one(tiny, kind, steps):
    one, several = (
        make_model(tiny(steps=4, conditioning=kind, output_init=1.0, loop=LoopConfig(streams=count)))
        for count in (1, 3)
    )
    (_, weights), (architecture, params) = split(one), split(several)
    assert {name.split(".")[2] for name in params if name not in weights} == {"streams"}
    tokens, depth = jnp.arange(8)[None], DepthConfig(steps=steps)
    found = architecture.bind(params | weights)(tokens, depth).logits
    np.testing.assert_allclose(found, one(tokens, depth).logits, atol=1e-5)


def test_no_two_streams_stay_alike(tiny):
    model = make_model(tiny(steps=3, output_init=1.0, loop=LoopConfig(streams=3)))
    architecture, params = split(model)
    slopes = jax.grad(lambda p: jnp.sum(architecture.bind(p)(jnp.arange(8)[None]).logits ** 2))(params)
    # what is read differs from stream to stream, and so does what every other weight of a stream learns
    slope = np.asarray(slopes["stack.loop.streams.read"])
    assert np.min(np.diff(np.sort(slope))) > 1e-3 * np.abs(slope).max()


def test_two_speeds_and_streams_are_not_both():
    with pytest.raises(UserError, match=r"model.loop.low_cycles = 2 with model.loop.streams = 2"):
        LoopConfig(low_cycles=2, streams=2)
    with pytest.raises(UserError, match=r"model.loop.streams = 0: must "):
        LoopConfig(streams=0)


def test_a_splitting_takes_no_pass_with_rules_of_its_own_apart(tiny, lively):
    stack = stack_of(tiny(loop=LoopConfig(boundary="norm")), lively)
    with pytest.raises(UserError, match='solver = "lie": takes a pass apart'):
        stack(X, DepthConfig(solver="lie"), CONTEXT)
