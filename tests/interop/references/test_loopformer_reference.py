"""The reference of LoopFormer: times and steps that it is told, its waves, and both ways of naming its tensors."""

import math

import numpy as np
import pytest

from . import loopformer
from .cases import batch, rms, silent


def test_silent_loopformer_reads_out_its_embeddings():
    config, tokens = loopformer.CONFIG, batch(loopformer.CONFIG)
    tensors = loopformer.source_tensors(silent(loopformer.random_tensors(config, 0)))
    x = tensors["transformer.wte.weight"][tokens].astype(np.float64) + tensors["transformer.wpe.weight"][:7]
    y = rms(x, tensors["transformer.norm_f.weight"], 2.0**-23)
    out = loopformer.forward(config, tensors, tokens)
    assert np.allclose(out.logits, y @ tensors["lm_head.weight"].T, atol=1e-12)


def test_loopformer_takes_steps_that_sum_to_one_and_no_others():
    tensors, tokens = loopformer.random_tensors(loopformer.CONFIG, 0), batch(loopformer.CONFIG)
    even, uneven = (
        loopformer.forward(loopformer.CONFIG, tensors, tokens, steps=steps).logits
        for steps in ([0.5, 0.5], [0.25, 0.75])
    )
    assert np.array_equal(even, loopformer.forward(loopformer.CONFIG, tensors, tokens, loops=2).logits)
    assert np.abs(even - uneven).max() > 1e-4
    eight = loopformer.forward(loopformer.CONFIG, tensors, tokens).logits
    assert np.array_equal(eight, loopformer.forward(loopformer.CONFIG, tensors, tokens, loops=8).logits)
    with pytest.raises(ValueError, match=r"steps = \[0.5, 0.25\] sum to 0.75, not to 1"):
        loopformer.forward(loopformer.CONFIG, tensors, tokens, steps=[0.5, 0.25])


def test_loopformer_waves_and_exact_gelu():
    w = {"t.mlp.0.weight": np.eye(256), "t.mlp.0.bias": np.zeros(256)}
    w |= {"t.mlp.2.weight": np.eye(256), "t.mlp.2.bias": np.full(256, 2.0)}
    phi = loopformer.embedding(w, "t", 0.5)
    for place, wave in ((0, math.cos(0.5)), (128, math.sin(0.5)), (192, math.sin(0.5 / 100))):
        assert phi[place] == pytest.approx(2 + wave / (1 + math.exp(-wave)), abs=1e-12)
    assert loopformer.gelu(np.array([1.0]))[0] == pytest.approx(0.8413447460685429, abs=1e-12)


def test_loopformer_is_told_time_and_step():
    config = loopformer.CONFIG | {"n_layer": 1}
    tensors, tokens = loopformer.random_tensors(config, 0), batch(config)
    w = {name.removeprefix("gpt."): value.astype(np.float64) for name, value in tensors.items()}
    layer = {name.removeprefix("transformer.h.blocks.0."): value for name, value in w.items()}

    def step(x, t, d):
        c = loopformer.embedding(w, "time_embedder", t) + loopformer.embedding(w, "dt_embedder", d)
        m = layer["adaLN_modulation.1.weight"] @ (c / (1 + np.exp(-c))) + layer["adaLN_modulation.1.bias"]
        x = x + m[:24] * loopformer.attention(config, layer, "attn.", rms(x, 1, 2.0**-23) * (1 + m[48:72]))
        return x + m[24:48] * loopformer.feed_forward(layer, "mlp.", rms(x, 1, 2.0**-23) * (1 + m[72:]))

    x = w["transformer.wte.weight"][tokens] + w["transformer.wpe.weight"][:7]
    states = [x := step(x, t, d) for t, d in ((0, 0.2), (0.2, 0.5), (0.7, 0.3))]
    out = loopformer.forward(config, tensors, tokens, steps=[0.2, 0.5, 0.3])
    assert np.allclose(out.states, states, atol=1e-12)


def test_loopformer_reads_both_ways_of_naming():
    tensors, tokens = loopformer.random_tensors(loopformer.CONFIG, 0), batch(loopformer.CONFIG)
    source = loopformer.source_tensors(tensors)
    assert len(source) == len(tensors) + 1
    wanted = loopformer.forward(loopformer.CONFIG, tensors, tokens).logits
    assert np.array_equal(loopformer.forward(loopformer.CONFIG, source, tokens).logits, wanted)
