"""Uneven groups, inner blocks, token types and the embedding's norm: what an imported model may need."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxode.config import DepthConfig, UserError
from jaxode.model import Encoder, block_evaluations, make_model, plan
from jaxode.model.block import Context
from jaxode.model.masks import document_mask
from jaxode.model.stack import Stack

UNEVEN = {"sharing": "sequence", "groups": 3, "steps": 7, "group_steps": "4,2,1"}
TOKENS = jnp.arange(16).reshape(2, 8) % 50


@pytest.mark.parametrize(
    ("steps", "want"),
    [
        (None, [(0, 1, 2, 3, 4), (0, 1, 2), (0, 1)]),
        (3, [(0, 4), (0, 2), (0, 1)]),
        (4, [(0, 2, 4), (0, 2), (0, 1)]),
        (6, [(0, 4 / 3, 8 / 3, 4), (0, 1, 2), (0, 1)]),
        (8, [(0, 0.8, 1.6, 2.4, 3.2, 4), (0, 1, 2), (0, 1)]),
    ],
)
def test_uneven_groups_share_the_steps_by_their_length(steps, want, tiny):
    found = plan(tiny(**UNEVEN), DepthConfig(steps=steps))
    assert len(found) == 3
    for schedule, times in zip(found, want, strict=True):
        assert schedule.times == pytest.approx(times)
    assert block_evaluations(tiny(**UNEVEN), DepthConfig(steps=steps)) == (steps or 7)


@pytest.mark.parametrize(
    ("depth", "message"),
    [
        ({"steps": 2}, r"depth.steps = 2: every one of 3 groups needs a step"),
        ({"steps": 3, "schedule": "4,2,1"}, r'depth.schedule = "4,2,1" with model.group_steps = "4,2,1"'),
    ],
)
def test_a_depth_that_uneven_groups_refuse(depth, message, tiny):
    with pytest.raises(UserError, match=message):
        plan(tiny(**UNEVEN), DepthConfig(**depth))


@pytest.mark.parametrize("given", ["4,2", "4,2,2", "4,3,0", "4,2,x"])
def test_group_steps_must_fit_the_groups(given, tiny):
    with pytest.raises(UserError, match=rf'model.group_steps = "{given}": must be'):
        tiny(**(UNEVEN | {"group_steps": given}))


def test_group_steps_belong_to_sequence(tiny):
    with pytest.raises(UserError, match=r'model.group_steps = "4" with model.sharing = "full"'):
        tiny(group_steps="4")


@pytest.mark.broad
@pytest.mark.parametrize(
    ("changes", "order"),
    [
        ({}, [0, 1] * 4),
        ({"sharing": "sequence", "groups": 2, "steps": 3, "group_steps": "2,1"}, [0, 1, 0, 1, 2, 3]),
        ({"sharing": "cycle", "groups": 2}, [0, 1, 2, 3] * 2),
        ({"sharing": "none", "steps": 2}, [0, 1, 2, 3]),
    ],
)
def test_inner_blocks_run_one_after_the_other(changes, order, tiny, lively):
    config = tiny(inner_blocks=2, **changes)
    stack = lively(Stack(config, rngs=nnx.Rngs(0)))
    assert len(stack.looped) == config.distinct_blocks == max(order) + 1
    want = x = jax.random.normal(jax.random.key(0), (2, 8, 32))
    for index in order:
        want = want + stack.looped[index].increment(0.0, want, Context())
    out = stack(x, DepthConfig(adjoint="unroll"), Context())
    assert out.block_evaluations == block_evaluations(config) == len(order)
    np.testing.assert_allclose(out.state, want, rtol=1e-4, atol=1e-4)


def test_token_types_move_the_embedding_and_default_to_0(tiny, lively):
    model = lively(make_model(tiny(kind="masked", token_types=2, embedding_norm=True)))
    zeros, ones = jnp.zeros_like(TOKENS), jnp.ones_like(TOKENS)
    plain = model.embedding(TOKENS)
    np.testing.assert_array_equal(plain, model.embedding(TOKENS, zeros))
    assert float(jnp.abs(plain - model.embedding(TOKENS, ones)).max()) > 1e-2
    by_hand = model.embedding.tokens.embedding[...][TOKENS] + model.embedding.types.embedding[...][1]
    centred = by_hand - by_hand.mean(-1, keepdims=True)
    unit = centred / jnp.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6)
    want = unit * model.embedding.norm.scale[...] + model.embedding.norm.bias[...]
    np.testing.assert_allclose(model.embedding(TOKENS, ones), want, rtol=1e-4, atol=1e-5)
    with pytest.raises(UserError, match=r"token_types were given, but model.token_types = 0"):
        make_model(tiny(kind="masked"))(TOKENS, token_types=zeros)


def test_the_epsilon_of_every_norm_is_that_of_the_configuration(tiny):
    model = make_model(tiny(kind="masked", norm_position="post", embedding_norm=True, norm_epsilon=0.5))
    norms = [module for _, module in nnx.iter_modules(model) if isinstance(module, nnx.LayerNorm)]
    assert len(norms) == 4
    assert {norm.epsilon for norm in norms} == {0.5}


def test_padding_reads_the_last_document_of_a_masked_model_and_padding_of_a_causal_one():
    segments = jnp.array([[1, 2, 0], [0, 0, 0]])
    alone = [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
    assert document_mask(segments, causal=True)[:, 0].astype(int).tolist() == [alone, [[1] * 3] * 3]
    reading = [[1, 0, 0], [0, 1, 0], [0, 1, 0]]
    assert document_mask(segments, causal=False)[:, 0].astype(int).tolist() == [reading, [[1] * 3] * 3]


@pytest.mark.broad
@pytest.mark.parametrize("activation", ["gelu", "relu", "silu", "tanh"])
def test_activations_reach_block_and_head(activation, tiny, lively):
    config = tiny(kind="masked", steps=1)
    usual = lively(make_model(config))
    graph = nnx.split(make_model(dataclasses.replace(config, head_activation=activation)))[0]
    head = nnx.merge(graph, nnx.state(usual, nnx.Param))
    graph = nnx.split(make_model(dataclasses.replace(config, feed_forward=activation)))[0]
    block = nnx.merge(graph, nnx.state(usual, nnx.Param))
    states = [model(TOKENS) for model in (usual, head, block)]
    np.testing.assert_array_equal(states[0].state, states[1].state)
    assert float(jnp.abs(states[0].logits - states[1].logits).max()) > 1e-4
    assert float(jnp.abs(states[0].state - states[2].state).max()) > 1e-4


def test_an_encoder_pools_the_first_token(tiny, lively):
    model = lively(Encoder(tiny(kind="masked", norm_position="post"), rngs=nnx.Rngs(0)))
    out = model(TOKENS)
    np.testing.assert_allclose(out.pooled, jnp.tanh(model.head.pooler(out.state[:, 0])), rtol=1e-5, atol=1e-6)
    assert Encoder(tiny(kind="masked"), pooler=False, rngs=nnx.Rngs(0))(TOKENS).pooled is None
