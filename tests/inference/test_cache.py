"""Which slot each application of a block reads and writes, and how slots are moved and written."""

import jax.numpy as jnp
import numpy as np
import pytest
from tiny_runs import model_config

from jaxode.config import DepthConfig, UserError
from jaxode.inference.generation.cache import Layout, Past, applications, cache_bytes, move
from jaxode.model import block_evaluations
from jaxode.model.memory import ROW_BY_ROW, Slot, put

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


def past_of(ends, capacity):
    """Rows that count their tokens from 100 row on."""
    rows = np.arange(capacity) + 100 * np.arange(len(ends))[:, None]
    table = jnp.asarray(rows[:, :, None], jnp.float32)
    ends = jnp.asarray(ends, jnp.int32)
    return Past((Slot(table, -table),), ends, jnp.asarray([0, 3], jnp.int32), jnp.zeros_like(ends))


def test_moving_forgets_what_lies_before_the_slots():
    after = move(past_of([6, 5], 8), jnp.array(2), capacity=8)
    assert after.end.tolist() == [2, 2]
    assert after.first.tolist() == [4, 3]
    assert after.start.tolist() == [0, 0]
    assert after.slots[0].keys[:, :2, 0].tolist() == [[4, 5], [103, 104]]
    assert after.slots[0].values[:, :2, 0].tolist() == [[-4, -5], [-103, -104]]


def test_moving_makes_room_and_lets_rows_end_together():
    after = move(past_of([6, 5], 8), jnp.array(6), capacity=32)
    assert after.capacity == 32
    assert after.end.tolist() == [6, 6]
    assert after.first.tolist() == [0, -1]
    assert after.start.tolist() == [0, 4]
    assert after.slots[0].keys[:, 4:6, 0].tolist() == [[4, 5], [103, 104]]


@pytest.mark.parametrize("length", [1, 3])
@pytest.mark.parametrize("rows", [2, 2 * ROW_BY_ROW])
def test_put_by_row(length, rows):
    heads, ends = 2, [2 * (row % 2) for row in range(rows)]
    new = jnp.broadcast_to(1.0 + jnp.arange(rows * heads)[:, None, None], (rows * heads, length, 1))
    done = put(jnp.zeros((rows * heads, 6, 1)), new, jnp.array(ends))[..., 0]
    for row, end in enumerate(ends):
        for place in (2 * row, 2 * row + 1):
            assert done[place].tolist() == [0.0] * end + [1.0 + place] * length + [0.0] * (6 - length - end)


def test_put_at_one_place():
    done = put(jnp.zeros((2, 4, 1)), jnp.ones((2, 2, 1)), jnp.array(1))[..., 0]
    assert done.tolist() == [[0.0, 1.0, 1.0, 0.0]] * 2
