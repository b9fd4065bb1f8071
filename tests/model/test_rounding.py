"""Weights are cast to the type of the matmuls once, and what is computed with them stays as it was."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxode.config import DepthConfig
from jaxode.model import make_model
from jaxode.model.layers import product
from jaxode.model.parameters import split
from jaxode.model.rounding import round_weights, rounded, rounded_copies

KERNELS = {(32, 96), (32, 32), (32, 40), (40, 32)}
LAYOUTS = [{}, {"sharing": "cycle", "groups": 2, "inner_blocks": 2}, {"prelude": 1, "coda": 1, "norm_position": "post"}]


@pytest.fixture
def tokens():
    return jax.random.randint(jax.random.key(0), (3, 16), 0, 50)


def model_of(tiny, lively, dtype=jnp.bfloat16, **changes):
    return lively(make_model(tiny(ff_width=40, **changes), dtype=dtype))


def parts_of(tiny, lively, dtype=jnp.bfloat16, **changes):
    return split(model_of(tiny, lively, dtype, **changes))


@pytest.mark.broad
@pytest.mark.parametrize("adjoint", ["recursive", "remat", "unroll"])
@pytest.mark.parametrize("changes", LAYOUTS)
def test_each_weight_is_cast_once_a_solve_and_not_in_its_loop(changes, adjoint, tokens, tiny, lively, narrowed):
    architecture, params = parts_of(tiny, lively, **changes)

    def loss(params):
        return jnp.sum(architecture.bind(params)(tokens, DepthConfig(adjoint=adjoint)).logits)

    blocks = len({name.rpartition(".attention.")[0] for name in params if ".attention." in name})
    for f in (loss, jax.grad(loss)):
        casts = narrowed(f, params)
        assert not [shape for shape, inside in casts if inside and shape in KERNELS]
        assert {shape: casts[shape, False] for shape in KERNELS} == dict.fromkeys(KERNELS, blocks)


@pytest.mark.broad
@pytest.mark.parametrize("adjoint", ["recursive", "remat", "unroll"])
@pytest.mark.parametrize("solver", ["euler", "lie", "heun"])
def test_gradients_of_a_solve_with_copies_add_up_in_float32_as_without(
    solver, adjoint, tokens, tiny, lively, monkeypatch
):
    architecture, params = parts_of(tiny, lively)
    depth = DepthConfig(solver=solver, adjoint=adjoint)

    @jax.jit
    def loss(params):
        return jnp.sum(jnp.square(architecture.bind(params)(tokens, depth).logits))

    with_copies = jax.value_and_grad(loss)(params)
    loss.clear_cache()
    monkeypatch.setattr("jaxode.model.stack.rounded_copies", lambda block: {})
    value, gradient = jax.value_and_grad(loss)(params)
    np.testing.assert_allclose(with_copies[0], value, rtol=1e-6)
    for name, want in gradient.items():
        # in 16 bits they would differ by a hundredth
        atol = 1e-6 * float(jnp.max(jnp.abs(want)))
        np.testing.assert_allclose(with_copies[1][name], want, rtol=1e-6, atol=atol, err_msg=name)


def test_every_derivative_of_a_rounded_weight_is_that_of_the_cast():
    weight = jax.random.normal(jax.random.key(0), (4,))

    def through_copy(w):
        return jnp.sum(jnp.square(rounded(w, jax.lax.stop_gradient(w).astype(jnp.bfloat16)).astype(jnp.float32)))

    def cast(w):
        return jnp.sum(jnp.square(w.astype(jnp.bfloat16).astype(jnp.float32)))

    for transform in (jax.grad, jax.jacfwd, jax.hessian):
        np.testing.assert_array_equal(transform(through_copy)(weight), transform(cast)(weight))
    assert jax.grad(through_copy)(weight).dtype == jnp.float32


def test_float32_models_have_no_copies(tiny, lively):
    model = model_of(tiny, lively, jnp.float32)
    assert rounded_copies(model) == {}
    before = split(model)[1]
    after = split(round_weights(model))[1]
    assert after.keys() == before.keys()
    jax.tree.map(np.testing.assert_array_equal, after, before)


@pytest.mark.broad
@pytest.mark.parametrize("changes", [{}, {"tied": False}, {"embedding_width": 8}, {"kind": "masked"}])
def test_a_model_for_a_loop_over_tokens_gives_the_same_logits(changes, tokens, tiny, lively, narrowed):
    model = model_of(tiny, lively, **changes)
    ready = round_weights(model)
    np.testing.assert_array_equal(ready(tokens).logits, model(tokens).logits)
    cast = {shape for shape, _ in narrowed(lambda tokens: round_weights(model)(tokens).logits, tokens)}
    inside = {shape for shape, _ in narrowed(lambda tokens: ready(tokens).logits, tokens)}
    weights = {value.shape for name, value in split(model)[1].items() if name.endswith(("kernel", "embedding"))}
    assert not inside & weights
    assert cast & weights


# --- the head's product ----------------------------------------------------------------------------------------------


def test_the_product_of_16_bit_factors_is_exact_and_its_gradient_rounded_once():
    x, table = (jax.random.normal(jax.random.key(i), s).astype(jnp.bfloat16) for i, s in enumerate([(6, 8), (8, 5)]))
    value, pull = jax.vjp(product, x, table)
    wide = [np.asarray(part, np.float64) for part in (x, table)]
    np.testing.assert_allclose(value, wide[0] @ wide[1], rtol=1e-6, atol=1e-6)
    assert value.dtype == jnp.float32
    out = jax.random.normal(jax.random.key(2), (6, 5))
    cut = np.asarray(out.astype(jnp.bfloat16), np.float64)
    for gradient, want in zip(pull(out), (cut @ wide[1].T, wide[0].T @ cut), strict=True):
        assert gradient.dtype == jnp.bfloat16
        np.testing.assert_allclose(np.asarray(gradient, np.float64), want, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("transform", [jax.grad, jax.jacfwd, jax.hessian])
def test_every_derivative_of_a_product_is_near_that_of_float32(transform):
    x, table = jax.random.normal(jax.random.key(0), (3, 4)), jax.random.normal(jax.random.key(1), (4, 5))

    def loss(dtype):
        return lambda x: jnp.mean(jnp.square(product(x.astype(dtype), table.astype(dtype))))

    np.testing.assert_allclose(transform(loss(jnp.bfloat16))(x), transform(loss(jnp.float32))(x), rtol=0.05, atol=0.02)


def test_an_untied_heads_logits_are_not_rounded(tokens, tiny, lively):
    logits = model_of(tiny, lively, tied=False)(tokens).logits
    assert logits.dtype == jnp.float32
    assert float(jnp.mean(logits != logits.astype(jnp.bfloat16).astype(jnp.float32))) > 0.9
