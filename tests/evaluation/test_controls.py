"""What a claim about depth is held against, each control against the loop written out."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from jaxode import make_model
from jaxode.config import ClockConfig, DepthConfig, LoopConfig, ModelConfig, UserError
from jaxode.data import Batch
from jaxode.evaluation import evaluate
from jaxode.evaluation.controls import _fitted, depth_controls, save_controls
from jaxode.evaluation.loss import token_loss
from jaxode.model.parameters import split

MODEL = ModelConfig(vocab_size=31, width=16, heads=2, length=8, steps=4, output_init=1.0)
N = MODEL.steps
VARIANTS = {
    "plain": {},
    "told": {"conditioning": "step"},
    "cycle": {"sharing": "cycle", "groups": 2, "steps": 8, "conditioning": "time"},
    "sandwich": {"prelude": 1, "coda": 1, "conditioning": "time", "clock": ClockConfig(rank=2)},
    "streams": {"loop": LoopConfig(streams=2), "conditioning": "time"},
    "masked": {"kind": "masked", "conditioning": "time"},
    "injected": {"loop": LoopConfig(injection="concat"), "conditioning": "time"},
}


def batch(seed):
    rng = np.random.default_rng(seed)
    tokens, targets = (rng.integers(0, 31, (3, 8)).astype(np.int32) for _ in range(2))
    segments = np.ones((3, 8), np.int32)
    segments[2, 5:] = 0
    return Batch(tokens, targets, segments.astype(np.float32), segments)


def built(lively, name="plain"):
    return lively(make_model(dataclasses.replace(MODEL, **VARIANTS[name])))


def by_hand(model, one, applications):
    """Loss of a solve that makes the passes of these times, each by how many increments it is moved on."""
    depth = DepthConfig(solver="euler", schedule="unit")
    segments = jnp.minimum(one.segments, 1) if model.config.kind == "masked" else None
    x, context = model.start(jnp.asarray(one.tokens), segments=segments)
    x, context = model.stack.begin(x, depth, context)
    (group,) = model.stack.groups(depth, context, None)
    for t, times in applications:
        x = x + times * group.field(float(t), x, group.args)
    logits = model.read_out(model.stack.leave(x, context), segments)
    sums = token_loss(logits, jnp.asarray(one.targets), jnp.asarray(one.weights))
    return float(sums.nats / sums.tokens)


@pytest.mark.broad
@pytest.mark.parametrize("name", VARIANTS)
def test_each_control_is_the_loop_that_it_says(lively, name):
    model, one, k = built(lively, name), batch(0), 2
    found = {row.control: row.nats_per_token for row in depth_controls(*split(model), [one], [k])}
    expected = {
        "full": [(t, 1) for t in range(N)],
        "prefix": [(t, 1) for t in range(k)],
        "repeat": [(t, 1) for t in range(k)] + [(k - 1, 1)] * (N - k),
        "hold": [(t, 1) for t in range(k - 1)] + [(k - 1, N - k + 1)],
        "suffix": [(t, 1) for t in range(N - k, N)],
    }
    assert set(found) == set(expected)
    for control, applications in expected.items():
        np.testing.assert_allclose(found[control], by_hand(model, one, applications), rtol=1e-5, err_msg=control)
    # they are different things
    assert len({round(value, 5) for value in found.values()}) == (3 if name == "plain" else 5)


def test_a_block_that_is_told_nothing_repeats_the_full_depth(lively):
    rows = {row.control: row for row in depth_controls(*split(built(lively)), [batch(0)], [3])}
    assert rows["repeat"].rise == pytest.approx(0.0, abs=1e-6)
    assert rows["suffix"].nats_per_token == pytest.approx(rows["prefix"].nats_per_token)
    assert (rows["repeat"].block_evaluations, rows["prefix"].block_evaluations) == (N, 3)


@pytest.mark.deep
def test_full_depth_and_prefix_are_what_evaluate_says(lively):
    parts, batches = split(built(lively, "told")), [batch(0), batch(1)]
    rows = {row.control: row.nats_per_token for row in depth_controls(*parts, batches, [3])}
    for control, steps in (("full", None), ("prefix", 3)):
        expected = evaluate(*parts, batches, DepthConfig(steps=steps, schedule="unit")).nats_per_token
        np.testing.assert_allclose(rows[control], expected, rtol=1e-5)


def test_the_refitted_read_out_is_the_affine_map_of_least_squares():
    rng = np.random.default_rng(0)
    matrix, shift, states = rng.normal(size=(4, 4)), rng.normal(size=4), rng.normal(size=(3, 500, 4))

    batches = [batch(seed) for seed in range(3)]

    def pair(one, document_mask):
        here = states[next(i for i, own in enumerate(batches) if own is one)]
        read = np.concatenate([here, np.ones((500, 1))], axis=-1)
        return jnp.asarray(read.T @ read), jnp.asarray(read.T @ (here @ matrix + shift))

    found = _fitted(batches, pair, False, lambda: None)
    np.testing.assert_allclose(found, [*matrix, shift], atol=0.02)


@pytest.mark.deep
def test_a_refitted_read_out_helps_a_state_that_stopped_early(lively):
    """What the later passes add is the same for every state here, and so is found."""
    model = built(lively)
    block = model.stack.looped[0]
    block.attention.output.kernel[...] = jnp.zeros_like(block.attention.output.kernel[...])
    block.feed_forward.output.kernel[...] = jnp.zeros_like(block.feed_forward.output.kernel[...])
    block.feed_forward.output.bias[...] = jnp.linspace(-0.1, 0.1, 16)
    rows = {row.control: row for row in depth_controls(*split(model), [batch(0)], [2], [batch(1), batch(2)])}
    assert abs(rows["prefix, read-out refitted"].rise) < 0.02 * abs(rows["prefix"].rise)


def test_refuses_what_has_no_controls(lively):
    one = [batch(0)]
    with pytest.raises(UserError, match=r"k = 4: must be from 1 to 3"):
        depth_controls(*split(built(lively)), one, [4])
    grouped = make_model(dataclasses.replace(MODEL, sharing="sequence", groups=2))
    with pytest.raises(UserError, match=r'model.sharing = "sequence" has no loop'):
        depth_controls(*split(grouped), one, [2])
    encoder = make_model(dataclasses.replace(MODEL, kind="masked", head="none"))
    with pytest.raises(UserError, match=r"compare predictions of tokens; this model is of kind encoder"):
        depth_controls(*split(encoder), one, [2])


def test_table_and_figure_are_written(lively, tmp_path):
    rows = depth_controls(*split(built(lively)), [batch(0)], [2, 3], [batch(1)])
    shown = save_controls(tmp_path, rows)
    assert "prefix, read-out refitted" in shown
    assert len((tmp_path / "controls.csv").read_text().splitlines()) == 1 + len(rows) == 12
    assert (tmp_path / "controls.png").stat().st_size > 0
