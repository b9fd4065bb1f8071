"""Blocks that are told where along depth they are, and the scaled-down step."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxode.config import ClockConfig, DepthConfig, LoopConfig, ModelConfig, UserError
from jaxode.depth import Coefficients
from jaxode.inference import solve_budgets
from jaxode.model import make_model
from jaxode.model.parameters import split

MODEL = ModelConfig(vocab_size=31, width=16, heads=2, length=8, steps=6, output_init=1.0)
TOKENS = jnp.asarray(np.random.default_rng(0).integers(0, 31, (3, 8)))
CALIBRATED = DepthConfig(steps=3, solver="calibrated")
LAYOUTS = {
    "full": {},
    "post": {"norm_position": "post"},
    "masked": {"kind": "masked"},
    "sequence": {"sharing": "sequence", "groups": 2},
    "cycle": {"sharing": "cycle", "groups": 2},
    "prelude": {"prelude": 1, "coda": 1},
}


def build(lively=None, **changes):
    model = make_model(dataclasses.replace(MODEL, **changes), seed=0)
    return model if lively is None else lively(model)


def drawn(sizes):
    starts = np.concatenate([[0.0], np.cumsum(sizes)[:-1]]).astype(np.float32)
    return Coefficients(np.asarray(sizes, np.float32)[:, None], starts=starts)


@pytest.mark.broad
@pytest.mark.parametrize("rank", [0, 4])
@pytest.mark.parametrize(("kind", "layout"), [("time", "full"), *(("step", layout) for layout in LAYOUTS)])
def test_begins_as_the_plain_block(kind, layout, rank):
    plain = build(**LAYOUTS[layout])
    told = build(conditioning=kind, clock=ClockConfig(rank=rank), **LAYOUTS[layout])
    architecture, params = split(told)
    _, own = split(plain)
    same = architecture.bind(params | own)
    np.testing.assert_allclose(same(TOKENS).logits, plain(TOKENS).logits, atol=1e-5)
    assert told.num_parameters > plain.num_parameters


@pytest.mark.parametrize("kind", ["time", "step", "loopformer"])
@pytest.mark.broad
def test_unit_steps_beyond_the_trained_ones_are_told_their_own_time(lively, kind):
    model = build(lively, conditioning=kind)
    x, context = model.start(TOKENS)
    for t in range(9):
        x = x + model.stack.looped[0].increment(float(t), x, dataclasses.replace(context, size=1.0))
    found = model(TOKENS, DepthConfig(steps=9, schedule="unit")).state
    np.testing.assert_allclose(found, x, rtol=1e-4, atol=1e-4)


def test_loopformer_begins_with_closed_gates():
    model = build(conditioning="loopformer")
    out = model(TOKENS, trace=True)
    np.testing.assert_array_equal(out.trace.states[-1], out.trace.states[0])


@pytest.mark.parametrize(("kind", "reads_size"), [("time", False), ("step", True), ("loopformer", True)])
def test_reads_time_and_step(lively, kind, reads_size):
    model = build(lively, conditioning=kind)
    block, context = model.stack.looped[0], model.start(TOKENS)[1]
    x = model.start(TOKENS)[0]

    def increment(t, size):
        return np.asarray(block.increment(t, x, dataclasses.replace(context, size=size)))

    assert np.abs(increment(0.0, 1.0) - increment(3.0, 1.0)).max() > 1e-3
    # loopformer's field is the increment over h
    longer = increment(0.0, 2.0) * (2.0 if kind == "loopformer" else 1.0)
    assert (np.abs(increment(0.0, 1.0) - longer).max() > 1e-3) == reads_size


SCHEDULES = {
    "full": ("1,2,3", [0, 1, 3]),
    "prelude": ("1,2,3", [0, 1, 3]),
    "post": ("1,2,3", [0, 1, 3]),
    "masked": ("1,2,3", [0, 1, 3]),
    # each group counts its own time
    "sequence": ("1,2,1,2", [0, 1, 0, 1]),
    # of passes through both blocks
    "cycle": ("1,2", [0, 1]),
}


@pytest.mark.broad
@pytest.mark.parametrize(
    ("kind", "layout"), [("time", "full"), ("loopformer", "full"), *(("step", layout) for layout in LAYOUTS)]
)
@pytest.mark.broad
def test_schedules_with_times_of_their_own_are_those_given_statically(lively, kind, layout):
    """A traced schedule, as training draws them, is the static one of the same sizes."""
    model = build(lively, conditioning=kind, **LAYOUTS[layout])
    static, starts = SCHEDULES[layout]
    sizes = [float(size) for size in static.split(",")]
    own = Coefficients(np.asarray(sizes, np.float32)[:, None], starts=np.asarray(starts, np.float32))
    steps = len(sizes) * (2 if layout == "cycle" else 1)
    given = model(TOKENS, DepthConfig(steps=steps, schedule=static)).logits
    calibrated = DepthConfig(steps=steps, solver="calibrated")
    traced = jax.jit(lambda own: model(TOKENS, calibrated, coefficients=own).logits)(own)
    np.testing.assert_allclose(traced, given, atol=1e-4)
    assert float(jnp.abs(model(TOKENS, DepthConfig(steps=steps)).logits - given).max()) > 1e-3


@pytest.mark.broad
@pytest.mark.parametrize(
    "told",
    [
        *({"conditioning": kind} for kind in ("time", "step", "loopformer")),
        {"conditioning": "step", "clock": ClockConfig(rank=3)},
        {"conditioning": "step", "clock": ClockConfig(rank=3, shared=True), "norm_position": "post"},
        {"conditioning": "step", "loop": LoopConfig(streams=2)},
        {"conditioning": "step", "clock": ClockConfig(rank=3, width=5, anchored=True)},
    ],
    ids=str,
)
@pytest.mark.deep
def test_rows_with_budgets_of_their_own(lively, told):
    model = build(lively, **told)
    model.calibrations = {3: drawn([1.0, 2.0, 3.0]), 2: drawn([2.0, 4.0])}
    depth = DepthConfig(solver="calibrated")
    found = solve_budgets(model, TOKENS, np.asarray([3, 2, 6]), depth).logits
    for row, steps in enumerate((3, 2, 6)):
        alone = dataclasses.replace(depth, steps=steps) if steps < 6 else DepthConfig()
        np.testing.assert_allclose(found[row], model(TOKENS[row : row + 1], alone).logits[0], atol=1e-4)


@pytest.mark.broad
@pytest.mark.parametrize("rule", ["pre", "post"])
def test_matrices_are_changed_as_the_clock_says(lively, rule):
    """As a block with weights W + A diag(s) B, whose own norms are scaled and shifted where they stand behind."""
    model = build(lively, conditioning="step", clock=ClockConfig(rank=3), norm_position=rule)
    x, context = model.start(TOKENS)
    block = model.stack.looped[0]
    context = dataclasses.replace(context, size=2.0)
    told = block.conditioning.adapters(4.0, 2.0)
    other = model.stack.looped[0].conditioning.adapters(5.0, 2.0)
    assert float(jnp.abs(told.qkv.up - other.qkv.up).max()) > 1e-3
    merged, silent = nnx.clone(block), nnx.clone(block)
    for one in (merged, silent):
        one.conditioning.changes = None
    for place, change in (
        (merged.attention.qkv, told.qkv),
        (merged.attention.output, told.output),
        (merged.feed_forward.inner, told.inner),
        (merged.feed_forward.output, told.outer),
    ):
        place.kernel[...] = place.kernel[...] + change.down @ change.up
    for number, norm in enumerate((merged.attention_norm, merged.feed_forward_norm)):
        scale, shift = told.scale[number], told.shift[number]
        norm.scale[...], norm.bias[...] = norm.scale[...] * scale, norm.bias[...] * scale + shift
    found = block.increment(4.0, x, context)
    np.testing.assert_allclose(found, merged.increment(4.0, x, context), rtol=1e-4, atol=1e-4)
    assert float(jnp.abs(found - silent.increment(4.0, x, context)).max()) > 1e-2


@pytest.mark.broad
@pytest.mark.parametrize(
    "changes", [{"norm_position": "post"}, {"loop": LoopConfig(streams=2)}, {"sharing": "cycle", "groups": 2}], ids=str
)
def test_anchored_at_the_trained_step_it_is_told_nothing_there(lively, changes):
    """What moves beside the weights leaves the full depth as it is, to the bit; a step of 2 is told half as much."""
    plain = build(lively, **changes)
    anchored = build(lively, conditioning="step", clock=ClockConfig(rank=3, anchored=True), **changes)
    free = build(lively, conditioning="step", clock=ClockConfig(rank=3), **changes)
    same = split(plain)[1]
    first, second = (split(one)[0].bind(split(one)[1] | same) for one in (anchored, free))
    np.testing.assert_array_equal(first(TOKENS).logits, plain(TOKENS).logits)
    few = DepthConfig(steps=2)
    for one in (first, second):
        assert float(jnp.abs(one(TOKENS, few).logits - plain(TOKENS, few).logits).max()) > 1e-3
    told = [one.stack.looped[0].conditioning(4.0, 2.0, 0).scale for one in (first, second)]
    np.testing.assert_allclose(told[0], 0.5 * told[1], rtol=1e-6)


def test_only_what_is_told_h_is_anchored_at_its_step():
    with pytest.raises(UserError, match=r'model.clock.anchored = true with model.conditioning = "time": it belongs to'):
        build(conditioning="time", clock=ClockConfig(anchored=True))


def test_refuses_a_rank_without_a_clock():
    with pytest.raises(UserError, match=r'model.clock.rank = 4 with model.conditioning = "none": needs a conditioning'):
        build(clock=ClockConfig(rank=4))
    with pytest.raises(UserError, match=r"model.clock.rank = 17 .* must be at most 16"):
        build(clock=ClockConfig(rank=17), conditioning="time")


def per_pass(lively, shared):
    return build(
        lively, conditioning="loopformer", inner_blocks=2, clock=ClockConfig(shared=shared, unit=True, per_pass=True)
    )


@pytest.mark.broad
@pytest.mark.parametrize("shared", [False, True])
def test_a_pass_that_is_divided_by_its_step_runs_in_full_whatever_the_step(lively, shared):
    """Its gates are divided by no size: x + gate * S((1 + scale) norm x), sublayer after sublayer."""
    model = per_pass(lively, shared)
    x, context = model.start(TOKENS)
    for t, size in ((0.0, 1.0), (1.0, 2.0), (3.0, 3.0)):
        here = dataclasses.replace(context, size=size, code=model.stack.loop.code(t, size))
        for block in model.stack.looped:
            x = x + block.increment(t, x, here)
    found = model(TOKENS, DepthConfig(steps=3, schedule="1,2,3")).state
    np.testing.assert_allclose(found, x, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.deep
def test_rows_with_budgets_of_their_own_divide_by_their_own_steps(lively, shared):
    model = per_pass(lively, shared)
    found = solve_budgets(model, TOKENS, np.asarray([3, 2, 6]), DepthConfig()).logits
    for row, steps in enumerate((3, 2, 6)):
        alone = model(TOKENS[row : row + 1], DepthConfig(steps=steps)).logits[0]
        np.testing.assert_allclose(found[row], alone, atol=1e-4)


def test_only_increments_of_whole_steps_are_divided_by_them():
    with pytest.raises(UserError, match=r'model.clock.per_pass = true with model.conditioning = "time": it belongs to'):
        build(conditioning="time", clock=ClockConfig(per_pass=True))


@pytest.mark.broad
@pytest.mark.parametrize("layout", ["full", "sequence", "cycle"])
@pytest.mark.parametrize("solver", ["euler", "lie"])
def test_a_scaled_down_step_is_a_smaller_step(lively, layout, solver):
    """Six trained steps of size 1/2 are the plain model's six steps over half of the interval."""
    scaled, plain = (build(lively, step_size=size, **LAYOUTS[layout]) for size in (0.5, 1.0))
    out = scaled(TOKENS, DepthConfig(solver=solver), trace=True).trace.states
    first = plain(TOKENS, DepthConfig(steps=12, solver=solver), trace=True).trace.states
    # the plain model in twelve halves has the same states, one after the other, until a group ends
    until = {"full": 6, "sequence": 3, "cycle": 3}[layout]
    np.testing.assert_allclose(out[: until + 1], first[: until + 1], atol=1e-4)
    assert (
        float(jnp.abs(out[until] - plain(TOKENS, DepthConfig(solver=solver), trace=True).trace.states[until]).max())
        > 1e-2
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"step_size": 0.0},
        {"step_size": 1.5},
        {"sharing": "none", "step_size": 0.5},
        {"sharing": "none", "conditioning": "time"},
    ],
)
def test_refused(changes):
    with pytest.raises(UserError, match=r"model\.(step_size|conditioning)"):
        dataclasses.replace(MODEL, **changes)
