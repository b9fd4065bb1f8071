"""The loss against NumPy and against what is known in closed form; one compilation for all evaluations."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxode.config import DepthConfig, ModelConfig, UserError
from jaxode.data import Batch, BatchSpec, byte_tokenizer, text_batches
from jaxode.evaluation import Diverged, batch_segments, evaluate, forward, token_loss
from jaxode.evaluation.loss import evaluation_step
from jaxode.model import make_model
from jaxode.model.parameters import split

TOKENIZER = byte_tokenizer()
TEXT = "Depth is time: one block, applied again and again. " * 6


def config(kind="causal", **changes):
    return ModelConfig(**{
        "kind": kind, "vocab_size": TOKENIZER.vocab_size, "width": 16, "heads": 2, "length": 16, "steps": 4, **changes,
    })  # fmt: skip


def batches(kind="causal", size=4, document_mask=False):
    return text_batches(TEXT, BatchSpec(TOKENIZER, kind, document_mask), 16, size).batches


@pytest.fixture(scope="module", params=["causal", "masked"])
def trained(request):
    return request.param, *split(make_model(config(request.param)))


def numpy_loss(logits, targets, weights):
    z = np.asarray(logits, np.float64)
    log_p = z - np.log(np.exp(z - z.max(-1, keepdims=True)).sum(-1, keepdims=True)) - z.max(-1, keepdims=True)
    return -(np.take_along_axis(log_p, targets[..., None], -1)[..., 0] * weights).sum()


def test_token_loss_is_that_of_numpy():
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 10, (3, 5, 7)).astype(np.float32)
    targets, weights = rng.integers(0, 7, (3, 5)), rng.integers(0, 2, (3, 5)).astype(np.float32)
    sums = token_loss(*map(jnp.asarray, (logits, targets, weights)))
    assert float(sums.nats) == pytest.approx(numpy_loss(logits, targets, weights), rel=1e-5)
    assert float(sums.tokens) == weights.sum()


def test_uniform_logits_cost_ln_v():
    sums = token_loss(jnp.full((2, 3, 11), 5.0), jnp.zeros((2, 3), jnp.int32), jnp.ones((2, 3)))
    assert float(sums.nats / sums.tokens) == pytest.approx(math.log(11), rel=1e-6)


def test_a_position_of_weight_0_may_hold_anything():
    logits = jnp.zeros((1, 2, 4)).at[0, 1].set(jnp.nan)
    sums = token_loss(logits, jnp.zeros((1, 2), jnp.int32), jnp.array([[1.0, 0.0]]))
    assert float(sums.nats) == pytest.approx(math.log(4), rel=1e-6)
    assert float(sums.tokens) == 1


def test_half_precision_logits_are_summed_in_single():
    logits = jnp.linspace(-3, 3, 4096, dtype=jnp.bfloat16)[None, None]
    sums = token_loss(logits, jnp.zeros((1, 1), jnp.int32), jnp.ones((1, 1)))
    expected = numpy_loss(np.asarray(logits, np.float32), np.zeros((1, 1), int), np.ones((1, 1)))
    assert sums.nats.dtype == jnp.float32
    assert float(sums.nats) == pytest.approx(expected, rel=1e-5)


def test_segments_hide_the_padding_from_a_masked_model_only():
    number = np.array([[1, 1, 2, 0]], np.int32)
    batch = Batch(number, number, number.astype(np.float32), number)
    assert batch_segments(batch, "causal", document_mask=False) is None
    for kind, document_mask, expected in (
        ("masked", False, [[1, 1, 1, 0]]),
        ("masked", True, [[1, 1, 2, 0]]),
        ("causal", True, [[1, 1, 2, 0]]),
    ):
        segments = batch_segments(batch, kind, document_mask)
        assert segments is not None
        assert segments.tolist() == expected


def test_evaluate_is_the_mean_over_all_predicted_tokens(trained):
    kind, architecture, params = trained
    data = batches(kind)
    assert len(data) > 1
    result = evaluate(architecture, params, data, DepthConfig(steps=2), bytes_per_token=1.25)
    nats = tokens = 0.0
    forward = jax.jit(
        lambda tokens, segments: architecture.bind(params)(tokens, DepthConfig(steps=2), segments=segments)
    )
    for batch in data:
        segments = None if kind == "causal" else jnp.minimum(jnp.asarray(batch.segments), 1)
        logits = forward(batch.tokens, segments).logits
        nats += numpy_loss(np.asarray(logits), batch.targets, batch.weights)
        tokens += batch.weights.sum()
    assert result.tokens == tokens
    assert result.nats_per_token == pytest.approx(nats / tokens, rel=1e-5)
    assert result.perplexity == pytest.approx(math.exp(nats / tokens), rel=1e-4)
    assert result.bits_per_byte == pytest.approx(nats / tokens / 1.25 / math.log(2), rel=1e-5)
    assert result.block_evaluations == 2
    assert evaluate(architecture, params, data, DepthConfig(steps=2)).bits_per_byte is None


def test_padding_does_not_change_the_loss():
    """All rows in one batch, or in several of which the last is filled up with rows of weight 0."""
    architecture, params = split(make_model(config()))
    whole, cut = (evaluate(architecture, params, batches(size=size), DepthConfig(steps=2)) for size in (20, 4))
    assert whole.tokens == cut.tokens == len(TEXT)
    assert whole.nats_per_token == pytest.approx(cut.nats_per_token, rel=1e-5)


def test_document_mask_reaches_the_model():
    architecture, params = split(make_model(config()))
    params = {name: 5 * value for name, value in params.items()}
    tokens = np.arange(16, dtype=np.int32)[None]
    number = np.repeat([1, 2], 8)[None].astype(np.int32)
    batch = Batch(tokens, tokens, np.ones((1, 16), np.float32), number)
    kept = evaluate(architecture, params, [batch], DepthConfig(), document_mask=True).nats_per_token
    # apart they give the same loss: the second document's rotary angles differ, but only differences of positions count
    halves = Batch(*(x.reshape(2, 8) for x in (tokens, tokens, np.ones((1, 16), np.float32), np.ones_like(number))))
    assert kept == pytest.approx(evaluate(architecture, params, [halves], DepthConfig()).nats_per_token, rel=1e-4)


def test_second_evaluation_compiles_nothing(trained):
    kind, architecture, params = trained
    evaluate(architecture, params, batches(kind), DepthConfig(steps=2))
    compiled = evaluation_step._cache_size()
    again, fresh = split(make_model(config(kind), seed=7))
    first, second = (evaluate(again, p, batches(kind), DepthConfig(steps=2)) for p in (params, fresh))
    assert evaluation_step._cache_size() == compiled
    assert first.nats_per_token != second.nats_per_token


def test_dropout_needs_a_key():
    architecture, params = split(make_model(config(dropout=0.5, steps=2)))
    batch = next(iter(batches()))
    loss = jax.jit(
        lambda key: forward(architecture.bind(params), batch, DepthConfig(), document_mask=False, key=key)[0]
    )
    first, second = (float(loss(jax.random.key(seed)).nats) for seed in (0, 1))
    without = evaluate(architecture, params, [batch], DepthConfig())
    assert len({first, second, without.nats_per_token * without.tokens}) == 3
    assert float(loss(None).nats) == pytest.approx(without.nats_per_token * without.tokens, rel=1e-6)


def test_divergence_is_named():
    architecture, params = split(make_model(config()))
    params = params | {"embedding.tokens.embedding": params["embedding.tokens.embedding"].at[0].set(jnp.nan)}
    zeros = np.zeros((1, 16), np.int32)
    batch = Batch(zeros, zeros, np.ones((1, 16), np.float32), zeros + 1)
    with pytest.raises(Diverged, match=r'not finite with depth.solver = "euler", depth.steps = 2'):
        evaluate(architecture, params, [batch], DepthConfig(steps=2))


@pytest.mark.parametrize("weights", [[], [0.0]])
def test_nothing_to_predict_is_refused(weights):
    architecture, params = split(make_model(config()))
    zeros = np.zeros((4, 16), np.int32)
    data = [Batch(zeros, zeros, np.full((4, 16), w, np.float32), zeros) for w in weights]
    with pytest.raises(UserError, match="nothing to evaluate"):
        evaluate(architecture, params, data, DepthConfig(steps=2))
