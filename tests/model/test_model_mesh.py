"""A solve over depth on a mesh of emulated devices equals the one on a single device."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxode.config import DepthConfig
from jaxode.model import make_model


def test_eight_devices_are_emulated():
    assert (len(jax.devices()), jax.default_backend()) == (8, "cpu")


@pytest.mark.parametrize("adjoint", ["recursive", pytest.param("unroll", marks=pytest.mark.deep)])
def test_a_sharded_step_equals_a_local_one(adjoint, tiny):
    """Rows over "data", the feed-forward kernels over "model": values and gradients."""
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(AxisType.Auto, AxisType.Auto))
    graph, params = nnx.split(make_model(tiny(steps=3, prelude=1)))
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, 50, (8, 8)))
    depth = DepthConfig(adjoint=adjoint)

    @jax.jit
    def step(params, tokens):
        def loss(params):
            logits = nnx.merge(graph, params)(tokens, depth).logits
            return -jnp.mean(jax.nn.log_softmax(logits)[:, :-1] * jax.nn.one_hot(tokens[:, 1:], 50))

        return jax.value_and_grad(loss)(params)

    def place(path, leaf):
        split = leaf.ndim == 2 and "inner" in jax.tree_util.keystr(path)
        return jax.device_put(leaf, NamedSharding(mesh, PartitionSpec(None, "model") if split else PartitionSpec()))

    sharded = jax.tree_util.tree_map_with_path(place, params)
    assert any(not leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(sharded))
    rows = jax.device_put(tokens, NamedSharding(mesh, PartitionSpec("data")))
    want, found = step(params, tokens), step(sharded, rows)
    np.testing.assert_allclose(found[0], want[0], rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6), found[1], want[1])
