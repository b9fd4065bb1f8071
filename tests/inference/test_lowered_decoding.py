"""What XLA is handed for a loop over tokens: no weight is cast in it."""

import jax
import jax.numpy as jnp
import pytest

from jaxode.config import DepthConfig, ModelConfig
from jaxode.inference.generation.cache import Layout, Past
from jaxode.inference.generation.decoding import Decoder, Rows, decode
from jaxode.inference.generation.sampling import Greedy
from jaxode.inference.generation.speculation import speculate
from jaxode.model import make_model
from jaxode.model.memory import Slot
from jaxode.model.parameters import split

MODEL = ModelConfig(vocab_size=50, width=32, heads=4, ff_width=40, length=16, steps=3)
DEPTH = DepthConfig(solver="euler")


def state(rows, layout):
    table = jnp.zeros((rows * MODEL.num_kv_heads, MODEL.length, MODEL.head_width), jnp.bfloat16)
    count = jnp.zeros(rows, jnp.int32)
    past = Past(tuple(Slot(table, table) for _ in set(layout.order(MODEL))), count + 3, count, count)
    keys = jax.vmap(jax.random.key)(count)
    drawn = jnp.zeros((rows, 8), jnp.int32)
    return past, Rows(count, count, count + 4, count == 0, drawn, drawn.astype(jnp.float32), None, keys)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("program", ["decode", "speculate"])
def test_every_weight_is_cast_before_the_loop_over_tokens(program, tied, narrowed):
    architecture, params = split(make_model(ModelConfig(**(vars(MODEL) | {"tied": tied})), dtype=jnp.bfloat16))
    layout = Layout(DEPTH)
    decoder = Decoder(architecture, DEPTH, layout, Greedy(), MODEL.vocab_size, -5, MODEL.length)

    def tokens(params, past, rows):
        if program == "decode":
            return decode(params, past, rows, jnp.int32(4), decoder=decoder)
        return speculate(params, past, rows, jnp.int32(2), decoder=decoder, depth=DepthConfig(2, "euler"), length=2)

    casts = narrowed(tokens, params, *state(5, layout))
    for shape in ((32, 96), (32, 32), (32, 40), (40, 32), (50, 32) if tied else (32, 50)):
        assert (casts[shape, False], casts[shape, True]) == (1, 0), shape
