"""Which slot each application of a block reads and writes, and how slots are added to and forgotten."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_runs import model_config

from jaxode.config import DepthConfig, UserError
from jaxode.inference.cache import Layout, Past, applications, bucket, cache_bytes, commit, empty_recent, forget
from jaxode.model import block_evaluations
from jaxode.model.memory import Slot, put

FULL = DepthConfig()


def model(**changes):
    return model_config("causal", steps=12, **changes)


@pytest.mark.parametrize(
    "layout",
    [
        {},
        {"sharing": "sequence", "groups": 2},
        {"sharing": "cycle", "groups": 3},
        {"sharing": "none"},
        {"prelude": 1, "coda": 2, "inner_blocks": 2},
    ],
)
@pytest.mark.parametrize("solver", ["euler", "heun", "rk4"])
def test_as_many_applications_as_block_evaluations(layout, solver):
    config = model(**layout)
    depth = DepthConfig(solver=solver if config.sharing != "none" else "euler")
    found = applications(config, depth)
    assert len(found) == block_evaluations(config, depth)
    assert Layout(depth).order(config) == tuple(range(len(found)))
    assert Layout(depth).order_of(config, depth) == Layout(depth).sources(config, depth) == tuple(range(len(found)))


def test_fewer_steps_find_the_slots_of_their_depth():
    layout = Layout(FULL)
    assert layout.order_of(model(), DepthConfig(steps=3)) == (0, 4, 8)
    assert layout.order_of(model(), DepthConfig(steps=3, schedule="1,4,7")) == (0, 1, 5)
    two = model(sharing="sequence", groups=2)
    assert layout.order_of(two, DepthConfig(steps=4)) == (0, 3, 6, 9)
    around = model(prelude=1, coda=1)
    assert layout.order_of(around, DepthConfig(steps=2)) == (0, 1, 7, 13)


def test_slots_are_filled_from_the_nearest_application():
    assert Layout(FULL).sources(model(), DepthConfig(steps=3)) == (0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 2)
    assert Layout(DepthConfig(steps=3)).sources(model(), FULL) == (0, 4, 8)


def test_shared_slots():
    assert Layout(FULL, share=3).order(model()) == (0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3)
    assert Layout(FULL, share=3).sources(model(), FULL) == (2, 5, 8, 11)
    assert set(Layout(FULL, share=0).order(model())) == {0}
    # neighbours of the same block, whatever lies between them
    assert Layout(FULL, share=2).order(model(sharing="cycle", groups=2))[:8] == (0, 1, 0, 1, 2, 3, 2, 3)
    whole, shared = (cache_bytes(model(), Layout(FULL, share), 2, 100) for share in (1, 3))
    assert whole == 3 * shared == 2 * 12 * 2 * 112 * 16 * 4


def test_an_adaptive_solver_has_no_slots():
    with pytest.raises(UserError, match=r'"dopri5" chooses its own steps, so no cache fits it'):
        applications(model(), DepthConfig(solver="dopri5"))


@given(st.integers(1, 5000))
def test_buckets_are_few_and_large_enough(length):
    size = bucket(length)
    assert size >= length
    assert size - length < max(16, length / 4)
    assert bucket(size) == size


def test_there_are_four_buckets_an_octave():
    assert (
        len({bucket(length) for length in range(129, 257)}) == len({bucket(length) for length in range(513, 1025)}) == 4
    )


def past_of(lengths, capacity):
    """Rows that count their tokens from 100 row on."""
    rows = np.arange(capacity) + 100 * np.arange(len(lengths))[:, None]
    table = jnp.asarray(rows[:, None, :, None], jnp.float32)
    lengths = jnp.asarray(lengths, jnp.int32)
    # buffers of their own, since what is added to is given away
    return Past((Slot(table, table + 0),), lengths, jnp.zeros_like(lengths), jnp.asarray([0, 3], jnp.int32))


def test_recent_tokens_are_put_behind_those_of_their_row():
    past = past_of([2, 5], 12)
    recent = tuple(Slot(slot.keys - 7, slot.values - 8) for slot in empty_recent(past, 4))
    after = commit(past, recent, jnp.array([3, 1]))
    assert after.length.tolist() == [5, 6]
    assert after.slots[0].keys[0, 0, :5, 0].tolist() == [0, 1, -7, -7, -7]
    assert after.slots[0].values[1, 0, :6, 0].tolist() == [100, 101, 102, 103, 104, -8]


def test_forgetting_moves_what_is_left_to_the_front():
    after = forget(past_of([6, 5], 8), jnp.array([4, 0]))
    assert after.length.tolist() == [2, 5]
    assert after.dropped.tolist() == [4, 0]
    assert after.start.tolist() == [0, 3]
    assert after.slots[0].keys[0, 0, :2, 0].tolist() == [4, 5]
    assert after.slots[0].keys[1, 0, :5, 0].tolist() == [100, 101, 102, 103, 104]
    moved = forget(past_of([6, 5], 8), jnp.array([0, 2]))
    assert moved.start.tolist() == [0, 1]


@pytest.mark.parametrize("length", [1, 3])
def test_put_by_row(length):
    old, new = jnp.zeros((2, 1, 6, 1)), jnp.ones((2, 1, length, 1)) * jnp.array([1.0, 2.0]).reshape(2, 1, 1, 1)
    done = put(old, new, jnp.array([0, 2]))[:, 0, :, 0].tolist()
    assert done == [[1.0] * length + [0.0] * (6 - length), [0.0, 0.0] + [2.0] * length + [0.0] * (4 - length)]
