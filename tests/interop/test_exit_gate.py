"""Ouro's exit gate as an exit rule, and the rules that Huginn was released with, against plain NumPy."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from families import CASES
from flax import nnx
from references import ouro

from jaxode import (
    CausalLM,
    DepthConfig,
    Divergence,
    ExitGate,
    StateChange,
    UserError,
    exit_early,
    exit_probabilities,
    read_outs,
)
from jaxode.interop import from_pretrained

CASE = CASES["ouro"]
TOKENS = np.random.default_rng(3).integers(0, CASE.config["vocab_size"], (4, 6)).astype(np.int32)
ROWS = jnp.asarray(TOKENS)
LOOPS = 4
DEPTH = DepthConfig(steps=LOOPS)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    return from_pretrained(CASE.write(tmp_path_factory.mktemp("ouro")))


@pytest.fixture(scope="module")
def reference():
    return ouro.forward(CASE.config, CASE.tensors(), TOKENS, loops=LOOPS)


def thresholds(reference):
    """Between the sums that occur, so that rounding decides nothing."""
    sums = np.sort(np.cumsum(reference.exit_probabilities, axis=-1)[..., :-1].ravel())
    return np.quantile((sums[1:] + sums[:-1]) / 2, [0.1, 0.4, 0.7, 0.95])


def test_exit_probabilities_are_those_of_the_reference(loaded, reference):
    found = exit_probabilities(loaded, ROWS, DEPTH)
    np.testing.assert_allclose(found, reference.exit_probabilities, atol=1e-5)
    np.testing.assert_allclose(found.sum(-1), 1.0, atol=1e-6)
    np.testing.assert_array_equal(exit_probabilities(loaded, ROWS, DepthConfig(steps=1)), np.ones((4, 6, 1)))


def test_tokens_read_out_where_they_would_leave(loaded, reference):
    """As Ouro's own code: every token goes through all loops, and is read out at its exit."""
    outs, probabilities = read_outs(loaded, ROWS, DEPTH), exit_probabilities(loaded, ROWS, DEPTH)
    for threshold in thresholds(reference):
        exits = ouro.exits(reference.exit_probabilities, threshold)
        np.testing.assert_array_equal(ouro.exits(np.asarray(probabilities), threshold), exits)
        assert len(set(exits.ravel())) > 1
        want = np.take_along_axis(reference.logits_by_loop, (exits - 1)[None, ..., None], axis=0)[0]
        np.testing.assert_allclose(
            np.take_along_axis(np.asarray(outs[1:]), (exits - 1)[None, ..., None], axis=0)[0], want, atol=1e-4
        )


def test_a_token_leaves_at_the_loop_of_the_reference(loaded):
    """Texts of one token, since later tokens go on seeing a stopped one: all rows in one call, one threshold."""
    tokens = np.arange(CASE.config["vocab_size"], dtype=np.int32)[:, None]
    out = ouro.forward(CASE.config, CASE.tensors(), tokens, loops=LOOPS)
    for threshold in thresholds(out):
        exits = ouro.exits(out.exit_probabilities, threshold)
        found = exit_early(loaded, jnp.asarray(tokens), ExitGate(threshold), DEPTH)
        np.testing.assert_array_equal(found.steps, exits)
        np.testing.assert_array_equal(found.exited | (exits == LOOPS), True)
        want = np.take_along_axis(out.logits_by_loop, (exits - 1)[None, ..., None], axis=0)[0]
        np.testing.assert_allclose(found.logits, want, atol=1e-4)
        # the gate is no block
        layers = CASE.config["num_hidden_layers"]
        np.testing.assert_array_equal(found.block_evaluations, layers * exits)
        assert found.loops == exits.max()
        by_row = exit_early(loaded, jnp.asarray(tokens), ExitGate(threshold, "sequence"), DEPTH)
        np.testing.assert_array_equal(by_row.steps, exits[:, 0])


def test_stopped_tokens_keep_their_state_and_others_see_it(loaded, reference):
    threshold = float(thresholds(reference)[1])
    found = exit_early(loaded, ROWS, ExitGate(threshold), DEPTH)
    x, active = loaded.model.embedding(jnp.asarray(TOKENS)), np.ones(TOKENS.shape, bool)
    left, steps = np.ones(TOKENS.shape), np.zeros(TOKENS.shape, int)
    gate = loaded.params["stack.exit_gate.kernel"][:, 0], loaded.params["stack.exit_gate.bias"][0]
    _, context = loaded.model.start(jnp.asarray(TOKENS))
    (group,) = loaded.model.stack.groups(loaded.model.resolve(DEPTH), context, None)
    for _ in range(LOOPS):
        x = jnp.where(active[..., None], x + group.field(0.0, x, group.args), x)
        left = np.where(active, left * (1 - ouro.sigmoid(np.asarray(x @ gate[0] + gate[1], float))), left)
        steps += active
        active &= 1 - left < threshold
    np.testing.assert_array_equal(found.steps, steps)
    np.testing.assert_allclose(found.state, x, atol=1e-5)
    assert len(set(steps.ravel())) > 1


@pytest.mark.broad
@pytest.mark.parametrize("granularity", ["token", "sequence"])
def test_rows_leave_alone_as_in_a_batch(loaded, reference, granularity):
    rule = ExitGate(float(thresholds(reference)[1]), granularity)
    together = exit_early(loaded, ROWS, rule, DEPTH)
    for row in range(len(TOKENS)):
        alone = exit_early(loaded, ROWS[row : row + 1], rule, DEPTH)
        np.testing.assert_array_equal(alone.steps[0], together.steps[row])
        np.testing.assert_allclose(alone.logits[0], together.logits[row], atol=1e-5)


def test_the_ends_of_the_threshold(loaded):
    assert (np.asarray(exit_early(loaded, ROWS, ExitGate(0.0), DEPTH).steps) == 1).all()
    never = exit_early(loaded, ROWS, ExitGate(1.0), DEPTH)
    assert (np.asarray(never.steps) == LOOPS).all()
    assert not never.exited.any()


def test_padding_counts_in_no_mean(loaded, reference):
    segments = np.array([[1] * 6, [1] * 4 + [0] * 2, [1] * 2 + [0] * 4, [1] * 5 + [0]])
    rule = ExitGate(float(thresholds(reference)[1]), "sequence")
    padded = exit_early(loaded, ROWS, rule, DEPTH, segments=jnp.asarray(segments))
    for row, real in enumerate(segments.sum(1)):
        alone = exit_early(loaded, ROWS[row : row + 1, :real], rule, DEPTH)
        np.testing.assert_array_equal(alone.steps[0], padded.steps[row])


def test_refusals(loaded):
    with pytest.raises(UserError, match=r"^ExitGate: threshold = 1\.5: must be from 0 to 1$"):
        ExitGate(1.5)
    config = loaded.config.model
    plain = dataclasses.replace(config, loop=dataclasses.replace(config.loop, exit_gate=False))
    model = CausalLM(plain, rngs=nnx.Rngs(0))
    with pytest.raises(UserError, match=r"^ExitGate: model\.loop\.exit_gate = false: this model has no gate"):
        exit_early(model, ROWS, ExitGate(0.5))
    with pytest.raises(UserError, match=r"^exit_probabilities: model\.loop\.exit_gate = false"):
        exit_probabilities(model, ROWS)


def test_the_rules_that_huginn_was_released_with(loaded):
    """Relative change of the state below 0.03, divergence of neighbouring predictions below 5e-4: here at other ones.

    One sequence position, so that nothing that has stopped is seen.
    """
    tokens = np.arange(CASE.config["vocab_size"], dtype=np.int32)[:, None]
    out = ouro.forward(CASE.config, CASE.tensors(), tokens, loops=LOOPS)
    first = CASE.tensors()["model.embed_tokens.weight"][tokens]
    states = np.concatenate([first[None], out.states])
    change = np.linalg.norm(np.diff(states, axis=0), axis=-1) / np.linalg.norm(states[1:], axis=-1)
    logs = np.log([ouro.softmax(logits) for logits in out.logits_by_loop])
    uniform = np.full_like(logs[:1], -np.log(logs.shape[-1]))
    logs = np.concatenate([uniform, logs])
    divergence = np.sum(np.exp(logs[:-1]) * (logs[:-1] - logs[1:]), axis=-1)
    for rule, signal in ((StateChange, change), (Divergence, divergence)):
        threshold = float(np.quantile(signal, 0.3)) * 1.0001
        below = signal < threshold
        want = np.where(below.any(0), below.argmax(0) + 1, LOOPS)
        found = exit_early(loaded, jnp.asarray(tokens), rule(threshold), DEPTH)
        np.testing.assert_array_equal(found.steps, want, err_msg=rule.__name__)
        assert len(set(want.ravel())) > 1
