"""Token and position tables, factorised or not, and the tied decoder."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxode.config import UserError
from jaxode.model.embedding import Embedding

TOKENS = jnp.arange(10).reshape(2, 5)


def embedding_of(config, dtype=jnp.float32):
    return Embedding(config, rngs=nnx.Rngs(0), dtype=dtype)


def shapes(module):
    flat = nnx.to_flat_state(nnx.state(module, nnx.Param))
    return {".".join(map(str, path)): leaf[...].shape for path, leaf in flat}


def test_the_plain_table_is_looked_up(tiny):
    embedding = embedding_of(tiny())
    assert shapes(embedding) == {"tokens.embedding": (50, 32)}
    np.testing.assert_array_equal(embedding(TOKENS), np.asarray(embedding.tokens.embedding[...])[TOKENS])


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_factorised_embedding_projects_tokens_and_positions(dtype, tiny, lively):
    embedding = lively(embedding_of(tiny(embedding_width=8, positions="learned"), dtype))
    assert shapes(embedding) == {
        "tokens.embedding": (50, 8),
        "positions.embedding": (16, 8),
        "project.kernel": (8, 32),
        "project.bias": (32,),
    }
    table, positions = (np.asarray(t.embedding[...]) for t in (embedding.tokens, embedding.positions))
    project = embedding.project
    want = (table[TOKENS] + positions[:5]) @ np.asarray(project.kernel[...]) + np.asarray(project.bias[...])
    out = embedding(TOKENS)
    assert out.dtype == jnp.float32
    np.testing.assert_allclose(out, want, atol=1e-5 if dtype == jnp.float32 else 0.02)


def test_dropout_needs_a_key(tiny):
    embedding = embedding_of(tiny(dropout=0.5))
    np.testing.assert_array_equal(embedding(TOKENS), embedding_of(tiny())(TOKENS))
    assert float(jnp.mean(embedding(TOKENS, key=jax.random.key(0)) == 0)) == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_the_tied_decoder_is_the_table_transposed(dtype, tiny):
    embedding = embedding_of(tiny())
    x = jax.random.normal(jax.random.key(0), (3, 32))
    logits = embedding.decode(x, dtype)
    assert logits.dtype == jnp.float32
    want = np.asarray(x) @ np.asarray(embedding.tokens.embedding[...]).T
    np.testing.assert_allclose(logits, want, atol=1e-5 if dtype == jnp.float32 else 0.01)


def test_an_unset_vocabulary_is_refused(tiny):
    with pytest.raises(UserError, match=r"model.vocab_size = 0: set it to the tokenizer's size"):
        embedding_of(tiny(vocab_size=0))


def test_learned_positions_end(tiny):
    learned = embedding_of(tiny(positions="learned", length=4))
    with pytest.raises(UserError, match=r"sequence of 5 tokens: .* end at model.length = 4; shorten it"):
        learned(TOKENS)
    assert embedding_of(tiny(length=4))(TOKENS).shape == (2, 5, 32)
