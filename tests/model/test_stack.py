"""The stack at h = 1 is the weight-tied residual network, in values and gradients, for every layout."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxode.config import DepthConfig
from jaxode.model import Context, Stack
from jaxode.model.rotary import rotary_angles

LAYOUTS = {
    "full": {},
    "sequence": {"sharing": "sequence", "groups": 2},
    "cycle": {"sharing": "cycle", "groups": 2},
    "none": {"sharing": "none"},
    "prelude and coda": {"prelude": 1, "coda": 2, "steps": 2},
}


def order(stack):
    """The blocks as the residual network applies them."""
    config, looped = stack.config, list(stack.looped)
    middle = {
        "full": looped * config.steps,
        "sequence": [block for block in looped for _ in range(config.steps // config.groups)],
        "cycle": looped * (config.steps // config.groups),
        "none": looped,
    }[config.sharing]
    return [*stack.prelude, *middle, *stack.coda]


def residual_network(stack, x, context, h=1.0):
    """A plain loop over layers; with h, each sublayer's increment is scaled (pre-norm)."""
    for block in order(stack):
        attention = functools.partial(block.attention, mask=context.mask, rotary=context.rotary)
        source = x + block.gate[...] * context.x0
        if block.post:
            assert h == 1.0
            x = block.attention_norm(x + attention(source))
            x = block.feed_forward_norm(x + block.feed_forward(x))
        else:
            x = x + h * attention(block.attention_norm(source))
            x = x + h * block.feed_forward(block.feed_forward_norm(x))
    return x


@pytest.fixture(scope="module")
def inputs():
    keys = jax.random.split(jax.random.key(0), 3)
    x, x0, weights = (jax.random.normal(key, (2, 8, 32)) for key in keys)
    mask = jnp.ones((2, 1, 8, 8), bool).at[1, :, 4:, :4].set(False)
    return x, Context(mask=mask, rotary=rotary_angles(8, 8, 10_000.0), x0=x0), weights


def stack_of(config, lively):
    return lively(Stack(config, rngs=nnx.Rngs(0)))


def value_and_gradients(stack, run, inputs, jitted):
    """The end state, and the gradients of a weighted sum with respect to parameters, x, injected state and angles."""
    x, context, weights = inputs
    graph, params = nnx.split(stack)

    def loss(params, x, x0, rotary):
        end = run(nnx.merge(graph, params), x, context.replace(x0=x0, rotary=rotary))
        return jnp.sum(weights * end), end

    gradient = jax.value_and_grad(loss, argnums=(0, 1, 2, 3), has_aux=True)
    (_, end), gradients = (jax.jit(gradient) if jitted else gradient)(params, x, context.x0, context.rotary)
    return end, gradients


def agree(found, want):
    def close(found, want):
        assert float(jnp.linalg.norm(found - want)) <= 2e-3 * float(jnp.linalg.norm(want)) + 1e-6

    np.testing.assert_allclose(found[0], want[0], rtol=1e-5, atol=1e-5)
    assert jax.tree.structure(found[1]) == jax.tree.structure(want[1])
    jax.tree.map(close, found[1], want[1])
    assert all(float(jnp.abs(leaf).max()) > 0 for leaf in jax.tree.leaves(want[1]))


@pytest.mark.broad
@pytest.mark.parametrize(
    ("kind", "position"),
    [
        ("causal", "pre"),
        ("masked", "post"),
        # Each costs a compilation; kind and norm do not touch the solver.
        pytest.param("causal", "post", marks=pytest.mark.deep),
        pytest.param("masked", "pre", marks=pytest.mark.deep),
    ],
)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_unit_euler_steps_are_the_residual_network(layout, kind, position, inputs, tiny, lively):
    stack = stack_of(tiny(kind=kind, norm_position=position, inject_input=True, **LAYOUTS[layout]), lively)
    want = value_and_gradients(stack, residual_network, inputs, jitted=False)
    for adjoint in ("recursive", "remat", "unroll"):
        depth = DepthConfig(adjoint=adjoint)
        run = lambda stack, x, context, depth=depth: stack(x, depth, context).state  # noqa: E731
        agree(value_and_gradients(stack, run, inputs, jitted=adjoint == "recursive" and layout != "none"), want)


@pytest.mark.broad
@pytest.mark.parametrize(("layout", "position"), [("full", "post"), ("sequence", "pre"), ("cycle", "pre")])
def test_unit_lie_steps_are_euler_steps(layout, position, inputs, tiny, lively):
    x, context, _ = inputs
    stack = stack_of(tiny(norm_position=position, inject_input=True, **LAYOUTS[layout]), lively)
    want = residual_network(stack, x, context)
    np.testing.assert_allclose(stack(x, DepthConfig(solver="lie"), context).state, want, rtol=1e-5, atol=1e-5)


@pytest.mark.broad
@pytest.mark.parametrize("adjoint", ["recursive", "unroll"])
@pytest.mark.parametrize("layout", ["full", "sequence", "cycle"])
def test_a_longer_lie_step_scales_every_sublayer(layout, adjoint, inputs, tiny, lively):
    """N = 8 in 4 steps of h = 2 visits the blocks of N = 4 in the same order."""
    x, context, _ = inputs
    changes = {"inject_input": True, **LAYOUTS[layout]}
    deep, shallow = (stack_of(tiny(steps=steps, **changes), lively) for steps in (8, 4))
    found = deep(x, DepthConfig(solver="lie", steps=4, adjoint=adjoint), context).state
    np.testing.assert_allclose(found, residual_network(shallow, x, context, h=2.0), rtol=1e-4, atol=1e-5)


def test_a_longer_euler_step_scales_the_blocks_increment(inputs, tiny, lively):
    x, context, _ = inputs
    stack = stack_of(tiny(inject_input=True), lively)
    found = stack(x, DepthConfig(schedule="1,3", steps=2), context).state
    want = x
    for h in (1.0, 3.0):
        want = want + h * stack.looped[0].increment(0.0, want, context)
    np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-5)


def test_truncation_stops_every_group_early(inputs, tiny, lively):
    x, context, _ = inputs
    stack = stack_of(tiny(steps=6, inject_input=True, **LAYOUTS["sequence"]), lively)
    short = stack_of(tiny(steps=4, inject_input=True, **LAYOUTS["sequence"]), lively)
    found = stack(x, DepthConfig(schedule="unit", steps=4), context).state
    np.testing.assert_allclose(found, residual_network(short, x, context), rtol=1e-5, atol=1e-5)


@pytest.mark.broad
@pytest.mark.parametrize("layout", ["full", "sequence", "cycle"])
def test_more_unit_steps_go_on_with_the_loop(layout, inputs, tiny, lively):
    x, context, _ = inputs
    stack, long = (stack_of(tiny(steps=steps, inject_input=True, **LAYOUTS[layout]), lively) for steps in (4, 10))
    found = stack(x, DepthConfig(schedule="unit", steps=10), context)
    np.testing.assert_allclose(found.state, residual_network(long, x, context), rtol=1e-4, atol=1e-4)
    assert found.block_evaluations == 10


# --- trace, dropout, memory -----------------------------------------------------------------------------------------


@pytest.mark.broad
@pytest.mark.parametrize("adjoint", ["recursive", "unroll"])
@pytest.mark.parametrize("layout", ["full", "sequence", "cycle"])
def test_the_trace_is_the_looped_parts_trajectory(layout, adjoint, inputs, tiny, lively):
    x, context, _ = inputs
    stack = stack_of(tiny(inject_input=True, **LAYOUTS[layout]), lively)
    out = stack(x, DepthConfig(adjoint=adjoint), context, trace=True)
    states = [x]
    for block in order(stack):
        states.append(states[-1] + block.increment(0.0, states[-1], context))
    if layout == "cycle":
        states = states[::2]
    np.testing.assert_allclose(out.trace.states, jnp.stack(states), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(out.trace.times, np.arange(len(states)))
    np.testing.assert_array_equal(out.trace.states[-1], out.state)


def test_one_step_a_group_has_a_trace(inputs, tiny, lively):
    x, context, _ = inputs
    stack = stack_of(tiny(inject_input=True, **LAYOUTS["sequence"]), lively)
    trace = stack(x, DepthConfig(steps=2), context, trace=True).trace
    np.testing.assert_allclose(trace.times, [0, 2, 4])
    assert trace.cosine.shape == (1,)


@pytest.mark.deep
def test_dropout_has_the_same_gradient_for_every_adjoint(inputs, tiny, lively):
    """The recomputed forward pass draws the masks of the first one."""
    x, context, weights = inputs
    stack = stack_of(tiny(dropout=0.3, inject_input=True, prelude=1, steps=3), lively)
    context = context.replace(key=jax.random.key(5))

    def run(depth, stack, x, context):
        return stack(x, depth, context).state

    recursive, remat, nested, want = (
        value_and_gradients(stack, functools.partial(run, DepthConfig(adjoint=adjoint)), (x, context, weights), jitted)
        for adjoint, jitted in (("recursive", True), ("remat", False), ("nested", False), ("unroll", False))
    )
    agree(recursive, want)
    agree(remat, want)
    agree(nested, want)
    assert float(jnp.abs(want[0] - residual_network(stack, x, context)).max()) > 0.1


@pytest.fixture
def temporary(tiny):
    """Temporary memory of the gradient at so many steps."""

    def measured(steps, adjoint="recursive"):
        stack = Stack(tiny(width=64, ff_width=256, steps=steps), rngs=nnx.Rngs(0))
        graph, params = nnx.split(stack)

        def loss(params, x):
            return jnp.sum(nnx.merge(graph, params)(x, DepthConfig(adjoint=adjoint), Context()).state ** 2)

        x = jax.ShapeDtypeStruct((4, 64, 64), jnp.float32)
        return jax.jit(jax.grad(loss)).lower(params, x).compile().memory_analysis().temp_size_in_bytes

    return measured


def test_the_recursive_adjoint_keeps_one_state_a_step(temporary):
    recursive, unroll = ([temporary(steps, name) for steps in (4, 12)] for name in ("recursive", "unroll"))
    assert recursive[1] < 0.7 * unroll[1], f"at N = 12: {recursive[1]} against {unroll[1]} bytes"
    assert recursive[1] - recursive[0] < 0.3 * (unroll[1] - unroll[0])


def test_memory_of_a_nested_solve_hardly_grows_with_depth(temporary):
    least = temporary(12, "nested")
    assert least < temporary(12)
    assert temporary(48, "nested") <= 1.2 * least
