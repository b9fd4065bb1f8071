"""jit over a mesh and pmap on 8 emulated devices equal the single device."""

import jax
import numpy as np
import pytest
from test_step import MODEL, make_batch

from jaxode.config import DepthConfig, OptimizerConfig, TrainConfig, UserError
from jaxode.model import make_model
from jaxode.model.parameters import split
from jaxode.training import init_state, make_optimizer, make_parallel, make_train_step


def losses(parallel: str, devices: int, updates: int = 20, accumulate: int = 1):
    config = TrainConfig(batch_size=16, devices=devices, parallel=parallel, accumulate=accumulate)
    ways = make_parallel(config)
    architecture, params = split(make_model(MODEL))
    optimizer = make_optimizer(OptimizerConfig(learning_rate=1e-2), updates)
    depth = DepthConfig(adjoint="remat" if parallel == "pmap" else "recursive")
    step = ways.compile(lambda axis: make_train_step(architecture, depth, optimizer, accumulate=accumulate, axis=axis))
    state = ways.place_state(init_state(params, optimizer))
    result = []
    for seed in range(updates):
        state, metrics = step(state, ways.place_batch(make_batch(16, seed % 2, ragged=True)), jax.random.key(0))
        result.append(float(metrics.loss))
    return np.array(result), jax.device_get(state.params)


@pytest.fixture(scope="module")
def single():
    return losses("jit", devices=1)


@pytest.mark.parametrize(("parallel", "devices", "accumulate"), [("jit", 8, 1), ("pmap", 8, 1), ("jit", 4, 2)])
def test_many_devices_equal_one(single, parallel, devices, accumulate):
    assert len(jax.devices()) >= 8, "tests run on 8 emulated devices"
    many, params = losses(parallel, devices, accumulate=accumulate)
    np.testing.assert_allclose(many, single[0], atol=1e-5)
    assert single[0][-1] < single[0][0]
    for name, value in single[1].items():
        np.testing.assert_allclose(params[name], value, atol=1e-4, err_msg=name)


def test_batches_are_spread_over_the_mesh():
    ways = make_parallel(TrainConfig(batch_size=16, devices=8))
    batch = ways.place_batch(make_batch(16))
    assert {shard.data.shape for shard in batch.tokens.addressable_shards} == {(2, MODEL.length)}


def test_refuses_a_batch_that_devices_do_not_divide():
    with pytest.raises(UserError, match=r"train\.batch_size = 12 .* 8 devices do not divide: .* multiple of 8"):
        make_parallel(TrainConfig(batch_size=12, devices=8))


def test_refuses_more_devices_than_there_are():
    with pytest.raises(UserError, match=r"train\.devices = 4096: only \d+ cpu device"):
        make_parallel(TrainConfig(batch_size=4096, devices=4096))
