"""Heads against their formulas; the classifier reads the right position."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxode.model.embedding import Embedding
from jaxode.model.heads import ClassifierHead, VocabularyHead


@pytest.fixture
def x():
    return 3 * jax.random.normal(jax.random.key(0), (2, 8, 32)) + 1


def normalise(x):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)


def gelu(x):
    return x * 0.5 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("embedding_width", [0, 8])
@pytest.mark.parametrize("position", ["pre", "post"])
@pytest.mark.parametrize("kind", ["causal", "masked"])
def test_vocabulary_head_equals_its_formula(kind, position, embedding_width, tied, x, tiny):
    config = tiny(kind=kind, norm_position=position, embedding_width=embedding_width, tied=tied)
    head = VocabularyHead(config, rngs=nnx.Rngs(1), dtype=jnp.float32)
    embedding = Embedding(config, rngs=nnx.Rngs(0), dtype=jnp.float32)
    rows = np.asarray(x)
    if position == "pre":
        rows = normalise(rows)
    if kind == "masked" or embedding_width:
        rows = rows @ np.asarray(head.transform.kernel[...])
    else:
        assert head.transform is None
    if kind == "masked":
        head.bias[...] = jnp.arange(50.0)
        rows = normalise(gelu(rows))
    table = embedding.tokens.embedding[...].T if tied else head.own.kernel[...]
    want = rows @ np.asarray(table) + (np.arange(50.0) if kind == "masked" else 0)
    logits = head(x, embedding)
    assert (logits.shape, logits.dtype) == ((2, 8, 50), jnp.float32)
    np.testing.assert_allclose(logits, want, rtol=1e-3, atol=1e-4)


SEGMENTS = jnp.array([[1, 1, 1, 0, 0, 0, 0, 0], [1, 1, 1, 1, 2, 2, 0, 0]])
LEFT = jnp.array([[0, 0, 0, 0, 0, 1, 1, 1], [0, 1, 1, 0, 2, 2, 0, 0]])


@pytest.mark.parametrize(
    ("kind", "segments", "want"),
    [
        ("masked", None, [0, 0]),
        ("masked", SEGMENTS, [0, 0]),
        ("causal", None, [7, 7]),
        ("causal", SEGMENTS, [2, 5]),
        ("causal", LEFT, [7, 5]),
        ("masked", LEFT, [0, 0]),
        ("causal", jnp.zeros_like(SEGMENTS), [0, 0]),
    ],
)
@pytest.mark.parametrize("position", ["pre", "post"])
def test_the_classifier_reads_one_position(position, kind, segments, want, x, tiny):
    """By gradient: the first token of a masked model, the last real one of a causal model."""
    head = ClassifierHead(tiny(kind=kind, norm_position=position), 3, rngs=nnx.Rngs(0), dtype=jnp.float32)
    assert head(x, segments).shape == (2, 3)
    felt = jnp.linalg.norm(jax.grad(lambda x: jnp.sum(head(x, segments)[:, 0]))(x), axis=-1)
    assert [list(np.flatnonzero(row)) for row in np.asarray(felt)] == [[position] for position in want]
    pooled = np.stack([np.asarray(x)[row, at] for row, at in enumerate(want)])
    pooled = normalise(pooled) if position == "pre" else pooled
    logits = np.tanh(pooled @ np.asarray(head.pooler.kernel[...])) @ np.asarray(head.classifier.kernel[...])
    np.testing.assert_allclose(head(x, segments), logits, rtol=1e-3, atol=1e-4)
