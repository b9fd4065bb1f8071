"""Rows that are padded at either end predict as alone, whatever tells a model where a token stands."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxode.config import LoopConfig
from jaxode.model import make_model

PLACES = {
    "rotary": {},
    "learned": {"positions": "learned"},
    "noise": {"loop": LoopConfig(start="noise", injection="concat"), "prelude": 1},
    "learned and noise": {"positions": "learned", "loop": LoopConfig(start="noise", injection="concat")},
}


@pytest.mark.broad
@pytest.mark.parametrize("places", PLACES)
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_padded_row_predicts_as_alone(tiny, lively, places, side):
    model = lively(make_model(tiny(**PLACES[places])))
    tokens = jax.random.randint(jax.random.key(0), (2, 8), 0, 50)
    short = tokens[1, :5]
    alone = model(short[None]).logits[0]
    padding, real = jnp.zeros(3, short.dtype), slice(3, 8) if side == "left" else slice(0, 5)
    row = jnp.concatenate([padding, short] if side == "left" else [short, padding])
    segments = jnp.ones((2, 8), int).at[1].set(0).at[1, real].set(1)
    out = model(jnp.stack([tokens[0], row]), segments=segments).logits
    np.testing.assert_allclose(out[1, real], alone, atol=2e-5)
    np.testing.assert_allclose(out[0], model(tokens[:1]).logits[0], atol=2e-5)
