"""Block evaluations and FLOPs from the configuration agree with what is run."""

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from jaxode.config import ClockConfig, DepthConfig, LoopConfig, UserError
from jaxode.model import block_evaluations, flops_per_token, make_model, plan, resolve

GROUPED = {"groups": 2, "steps": 8}


@pytest.mark.broad
@pytest.mark.parametrize(
    ("changes", "depth", "want"),
    [
        ({}, {}, 4),
        ({}, {"steps": 3}, 3),
        ({}, {"steps": 3, "solver": "lie"}, 3),
        ({}, {"steps": 3, "solver": "heun"}, 6),
        ({}, {"steps": 3, "solver": "midpoint"}, 6),
        ({}, {"steps": 3, "solver": "rk4"}, 12),
        ({"prelude": 1, "coda": 2}, {"steps": 2, "solver": "heun"}, 7),
        ({"sharing": "sequence", **GROUPED}, {}, 8),
        ({"sharing": "sequence", **GROUPED}, {"steps": 4}, 4),
        ({"sharing": "sequence", **GROUPED}, {"steps": 4, "solver": "rk4"}, 16),
        ({"sharing": "sequence", **GROUPED}, {"steps": 4, "schedule": "unit"}, 4),
        ({"sharing": "cycle", **GROUPED}, {}, 8),
        ({"sharing": "cycle", **GROUPED}, {"steps": 4, "solver": "heun"}, 8),
        ({"sharing": "none", "prelude": 1}, {}, 5),
    ],
)
@pytest.mark.broad
def test_block_evaluations_are_those_of_the_forward_pass(changes, depth, want, tiny):
    model, depth = make_model(tiny(**changes)), DepthConfig(adjoint="unroll", **depth)
    assert model.block_evaluations(depth) == block_evaluations(model.config, depth) == want
    counted = []

    def run(tokens):
        out = model(tokens, depth)
        counted.append(out.block_evaluations)
        return out.logits

    jax.eval_shape(run, jnp.zeros((1, 4), jnp.int32))
    assert counted == [want]


def test_an_adaptive_count_is_known_after_the_solve(tiny):
    depth = DepthConfig(solver="tsit5")
    with pytest.raises(UserError, match=r'depth.solver = "tsit5" chooses its own steps: the count is known after'):
        block_evaluations(tiny(), depth)
    out = make_model(tiny(width=8, ff_width=8))(jnp.zeros((1, 2), jnp.int32), depth)
    assert int(out.block_evaluations) % 6 == 1


@pytest.mark.parametrize(
    ("changes", "depth", "want"),
    [
        ({}, {"steps": 2}, [(0, 2, 4)]),
        ({"sharing": "sequence", **GROUPED}, {"steps": 4}, [(0, 2, 4), (0, 2, 4)]),
        ({"sharing": "sequence", **GROUPED}, {"steps": 4, "schedule": "1,3,2,2"}, [(0, 1, 4), (0, 2, 4)]),
        ({"sharing": "sequence", **GROUPED}, {"steps": 4, "schedule": "unit"}, [(0, 1, 2), (0, 1, 2)]),
        ({}, {"steps": 6, "schedule": "unit"}, [(0, 1, 2, 3, 4, 5, 6)]),
        ({"sharing": "sequence", **GROUPED}, {"steps": 10, "schedule": "unit"}, 2 * [(0, 1, 2, 3, 4, 5)]),
        ({"sharing": "cycle", **GROUPED}, {"steps": 10, "schedule": "unit"}, [(0, 1, 2, 3, 4, 5)]),
        (
            {"sharing": "sequence", "groups": 2, "steps": 5, "group_steps": "3,2"},
            {"steps": 7, "schedule": "unit"},
            [(0, 1, 2, 3, 4), (0, 1, 2, 3)],
        ),
        ({}, {"steps": 6, "schedule": "unit", "solver": "tsit5"}, [(0, 1, 2, 3, 4, 5, 6)]),
        ({"sharing": "cycle", **GROUPED}, {"steps": 4}, [(0, 2, 4)]),
        ({"sharing": "cycle", **GROUPED}, {"steps": 4, "schedule": "1,3"}, [(0, 1, 4)]),
        ({"sharing": "none"}, {}, []),
    ],
)
def test_every_group_has_its_own_depth_time(changes, depth, want, tiny):
    assert [schedule.times for schedule in plan(tiny(**changes), DepthConfig(**depth))] == want


@pytest.mark.parametrize(
    ("depth", "solver"),
    [
        ({"steps": 2}, "calibrated"),
        ({"steps": 3}, "euler"),
        ({}, "euler"),
        ({"steps": 2, "schedule": "geometric:2"}, "euler"),
        ({"steps": 2, "solver": "heun"}, "heun"),
        ({"steps": 3, "solver": "calibrated"}, "calibrated"),
    ],
)
def test_auto_is_calibrated_where_a_calibration_is_at_hand(depth, solver, tiny):
    assert resolve(tiny(), DepthConfig(**depth), {2: "fitted"}).solver == solver


def test_a_calibration_takes_no_other_schedule(tiny):
    with pytest.raises(UserError, match=r'depth.schedule = "unit" with depth.solver = "calibrated": a calibration was'):
        plan(tiny(), DepthConfig(steps=2, solver="calibrated", schedule="unit"))


def test_an_unknown_solver_is_refused_with_auto_among_the_known(tiny):
    with pytest.raises(UserError, match=r'depth.solver = "magic": allowed are euler, .*, dopri5, auto'):
        resolve(tiny(), DepthConfig(solver="magic"))


@pytest.mark.broad
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"kind": "masked", "embedding_width": 16, "prelude": 1, "coda": 1},
        {"sharing": "cycle", "groups": 2, "kv_heads": 2, "feed_forward": "swiglu"},
        {"conditioning": "step", "clock": ClockConfig(rank=16, features=4)},
        {"loop": LoopConfig(injection="concat"), "ff_width": 32},
    ],
    ids=["causal", "masked", "swiglu", "told", "concat"],
)
def test_flops_agree_with_xla(changes, tiny):
    """XLA counts a loop's body once, so the depth is unrolled; it also counts the elementwise work, we do not."""
    length = 32
    model = make_model(tiny(width=64, length=length, vocab_size=200, **changes))
    depth = DepthConfig(steps=2, adjoint="unroll")
    graph, params = nnx.split(model)

    def logits(params, tokens):
        return nnx.merge(graph, params)(tokens, depth).logits

    tokens = jax.ShapeDtypeStruct((2, length), jnp.int32)
    counted = jax.jit(logits).lower(params, tokens).compile().cost_analysis()["flops"]
    assert model.flops_per_token(depth) * 2 * length == pytest.approx(counted, rel=0.15)


def test_flops_scale_with_depth_and_length(tiny):
    config = tiny(width=64)
    one, four = (flops_per_token(config, DepthConfig(steps=steps)) for steps in (1, 4))
    assert four.total - four.head == 4 * (one.total - one.head) == 4 * four.block
    longer = flops_per_token(config, DepthConfig(steps=1), length=32)
    assert longer.block - one.block == 4 * 16 * 64


@pytest.mark.parametrize(
    ("changes", "want"),
    [
        ({}, 2 * 32 * 50),
        ({"kind": "masked"}, 2 * 32 * 32 + 2 * 32 * 50),
        ({"embedding_width": 8}, 2 * (2 * 32 * 8) + 2 * 8 * 50),
    ],
)
def test_the_head_counts_its_projections(changes, want, tiny):
    assert flops_per_token(tiny(**changes)).head == want
