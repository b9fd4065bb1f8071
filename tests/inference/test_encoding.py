"""Texts as vectors: what the model itself gives, whatever the batch, and refusals."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from tiny_runs import TOKENIZER, model_config, parameters

from jaxode import encode_texts
from jaxode.config import DepthConfig, UserError
from jaxode.model import Encoder, normalised
from jaxode.model.parameters import split

TEXTS = ["a", "some words", "ab", "cdefghij", "kl mn op"]


@pytest.fixture(scope="module", params=["causal", "masked", "encoder"])
def made(request, lively):
    if request.param != "encoder":
        return parameters(model_config(request.param))
    config = model_config("masked", norm_position="post", positions="learned")
    return split(lively(Encoder(config, pooler=False, rngs=nnx.Rngs(0))))


def states(made, text, depth):
    model = made[0].bind(made[1])
    tokens = jnp.asarray([TOKENIZER.encode(text)], jnp.int32)
    return np.asarray(normalised(model, model.hidden(tokens, depth).state)[0])


@pytest.mark.broad
@pytest.mark.parametrize("steps", [4, 2])
def test_vectors_are_the_states_of_each_text_alone(made, steps):
    depth = DepthConfig(steps=steps, solver="secant")
    want = [states(made, text, depth) for text in TEXTS]
    for size in (1, 2, 32):
        mean = encode_texts(*made, TOKENIZER, TEXTS, depth=depth, batch_size=size)
        np.testing.assert_allclose(mean.vectors, [one.mean(0) for one in want], rtol=1e-3, atol=1e-3)
        every = encode_texts(*made, TOKENIZER, TEXTS, depth=depth, batch_size=size, pooling="none")
        np.testing.assert_allclose(every.vectors, np.concatenate(want), rtol=1e-3, atol=1e-3)
        assert every.lengths.tolist() == [len(one) for one in want]
        for number, one in enumerate(want):
            np.testing.assert_allclose(every.of(number), one, rtol=1e-3, atol=1e-3)
    assert mean.vectors.dtype == np.float32
    assert (mean.solver, mean.throughput.block_evaluations) == ("secant", steps)
    assert mean.of(1).shape == (1, mean.vectors.shape[1])


@pytest.mark.broad
def test_the_first_state_of_a_model_that_reads_both_ways(made):
    causal = made[0].bind(made[1]).config.kind == "causal"
    if causal:
        with pytest.raises(UserError, match='pooling = "first": the first token of a causal model sees no other'):
            encode_texts(*made, TOKENIZER, TEXTS, pooling="first")
        return
    found = encode_texts(*made, TOKENIZER, TEXTS, pooling="first")
    np.testing.assert_allclose(found.vectors, [states(made, text, DepthConfig())[0] for text in TEXTS], atol=1e-3)


@pytest.mark.broad
def test_a_frame_of_two_named_tokens(made):
    found = encode_texts(*made, TOKENIZER, ["a"], frame=("[MASK]", "<|endoftext|>"), pooling="none")
    model, ids = made[0].bind(made[1]), [TOKENIZER.mask_id, *TOKENIZER.encode("a"), TOKENIZER.end_id]
    state = normalised(model, model.hidden(jnp.asarray([ids], jnp.int32)).state)[0]
    np.testing.assert_allclose(found.vectors, state, rtol=1e-3, atol=1e-3)
    with pytest.raises(UserError, match=r'frame: tokenizer bytes has no token "\[CLS\]"'):
        encode_texts(*made, TOKENIZER, ["a"], frame=("[CLS]", "[MASK]"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pooling": "max"}, 'pooling = "max": allowed are mean, first, none'),
        ({"texts": "abc"}, "texts is one string: give a list"),
        ({"texts": []}, "no texts"),
        ({"texts": ["a" * 17]}, "text 1 has 17 tokens, the model reads at most model.length = 16"),
        ({"depth": DepthConfig(solver="tsit5")}, "chooses its steps for a batch as a whole"),
    ],
)
def test_refusals(made, options, message):
    given = {"texts": TEXTS} | options
    with pytest.raises(UserError, match=message):
        encode_texts(*made, TOKENIZER, given.pop("texts"), **given)
