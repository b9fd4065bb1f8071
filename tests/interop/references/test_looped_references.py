"""The references of Ouro, Nanbeige and Huginn by hand-computable cases: silent branches, norms, frequencies, copies."""

import math

import numpy as np
import pytest

from . import huginn, nanbeige, ouro
from .cases import batch, rms, silent


def test_silent_ouro_norms_its_embedding_once_a_loop():
    config, tokens = ouro.CONFIG, batch(ouro.CONFIG)
    tensors = silent(ouro.random_tensors(config, 0))
    x = tensors["model.embed_tokens.weight"][tokens].astype(np.float64)
    for _ in range(3):
        x = rms(x, tensors["model.norm.weight"], 1e-6)
    out = ouro.forward(config, tensors, tokens)
    assert np.allclose(out.logits, x @ tensors["lm_head.weight"].T, atol=1e-12)
    assert np.array_equal(out.logits, out.logits_by_loop[2])


@pytest.mark.parametrize(("skip", "norms"), [(False, 2), (True, 1)])
def test_silent_nanbeige_norms_after_every_loop_or_the_last(skip, norms):
    config, tokens = nanbeige.CONFIG | {"skip_loop_final_norm": skip}, batch(nanbeige.CONFIG)
    tensors = silent(nanbeige.random_tensors(config, 0))
    x = tensors["model.embed_tokens.weight"][tokens].astype(np.float64)
    for _ in range(norms):
        x = rms(x, tensors["model.norm.weight"], 1e-5)
    out = nanbeige.forward(config, tensors, tokens)
    assert np.allclose(out.logits, x @ tensors["lm_head.weight"].T, atol=1e-12)


def test_silent_huginn_norms_twice_a_layer():
    config, tokens = huginn.CONFIG, batch(huginn.CONFIG)
    tensors = silent(huginn.random_tensors(config, 0))

    def layers(part, count, x):
        for i in range(count):
            for number in (2, 4):
                x = rms(x, tensors[f"transformer.{part}.{i}.norm_{number}.weight"], 1e-6)
        return x

    matrix = tensors["transformer.wte.weight"].astype(np.float64)
    adapter = tensors["transformer.adapter.weight"].astype(np.float64)
    e = layers("prelude", 2, matrix[tokens] * 24**0.5)
    s = np.random.default_rng(1).normal(size=e.shape)
    out = huginn.forward(config, tensors, tokens, loops=2, s0=s)
    for _ in range(2):
        s = layers("core_block", 3, s @ adapter[:, :24].T + e @ adapter[:, 24:].T)
    y = layers("coda", 1, rms(s, tensors["transformer.ln_f.weight"], 1e-6))
    assert np.allclose(out.input, e, atol=1e-12)
    assert np.allclose(out.states[1], s, atol=1e-12)
    assert np.allclose(out.logits, rms(y, tensors["transformer.ln_f.weight"], 1e-6) @ matrix.T, atol=1e-12)


def test_nanbeige_frequencies_are_the_nearest_bfloat16():
    (config,) = nanbeige.RELEASED.values()
    exact, rounded = nanbeige.frequencies(config, rounded=False), nanbeige.frequencies(config)
    assert len(exact) == 64
    assert np.allclose(exact[[0, 1, 63]], [1, 7e7 ** (-1 / 64), 7e7 ** (-63 / 64)], rtol=1e-12)
    for value, near in zip(exact, rounded, strict=True):
        spacing = 2.0 ** (math.floor(math.log2(value)) - 7)  # eight bits of precision
        assert near == round(value / spacing) * spacing
    assert np.abs(rounded / exact - 1).max() > 1e-3
    tensors, tokens = nanbeige.random_tensors(nanbeige.CONFIG, 0), batch(nanbeige.CONFIG, 40)
    coarse, fine = (
        nanbeige.forward(nanbeige.CONFIG, tensors, tokens, rounded_frequencies=flag).logits for flag in (True, False)
    )
    assert np.abs(coarse - fine).max() > 1e-3


def test_nanbeige_loops_once_more_than_its_losses_have_weights():
    tensors, tokens = nanbeige.random_tensors(nanbeige.CONFIG, 0), batch(nanbeige.CONFIG)
    config = nanbeige.CONFIG | {"num_loops": 1, "loop_loss_weights": [0.2, 0.3]}
    assert len(nanbeige.forward(config, tensors, tokens).states) == 3


def test_huginn_ignores_its_buffer_and_the_second_copy_of_its_matrix():
    tensors, tokens = huginn.random_tensors(huginn.CONFIG, 0), batch(huginn.CONFIG)
    assert np.array_equal(tensors["lm_head.weight"], tensors["transformer.wte.weight"])
    less = {name: value for name, value in tensors.items() if name not in ("freqs_cis", "lm_head.weight")}
    wanted = huginn.forward(huginn.CONFIG, tensors, tokens).logits
    assert np.array_equal(huginn.forward(huginn.CONFIG, less, tokens).logits, wanted)


def test_huginn_runs_without_its_biases():
    config = huginn.CONFIG | {"qk_bias": False}
    tensors, tokens = huginn.random_tensors(huginn.CONFIG, 0), batch(huginn.CONFIG)
    bare = {name: value for name, value in tensors.items() if not name.endswith("qk_bias")}
    assert bare.keys() == huginn.shapes(config).keys()
    zeros = {name: 0 * value if name.endswith("qk_bias") else value for name, value in tensors.items()}
    biased = huginn.forward(huginn.CONFIG, zeros, tokens).logits
    assert np.allclose(huginn.forward(config, bare, tokens).logits, biased, atol=1e-14)


def test_huginn_scales_its_embedding_by_the_root_of_its_width():
    config = huginn.CONFIG | {"n_layers_in_prelude": 0}
    tensors, tokens = huginn.random_tensors(config, 0), batch(config)
    wanted = tensors["transformer.wte.weight"][tokens].astype(np.float64) * math.sqrt(24)
    assert np.allclose(huginn.forward(config, tensors, tokens).input, wanted, atol=1e-12)


@pytest.mark.slow
def test_one_loop_of_nanbeige_against_llama():
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    config, tokens = nanbeige.CONFIG, batch(nanbeige.CONFIG, 20)
    tensors = nanbeige.random_tensors(config, 0)
    names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "head_dim")
    names += ("num_key_value_heads", "max_position_embeddings", "rms_norm_eps", "tie_word_embeddings")
    rope = {"rope_theta": config["rope_theta"], "rope_type": "default"}
    fields = {name: config[name] for name in names} | {"rope_parameters": rope}
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**fields))
    model.load_state_dict({key: torch.from_numpy(value) for key, value in tensors.items()}, strict=True)
    with torch.no_grad():
        wanted = model.eval()(torch.from_numpy(tokens)).logits.numpy()
    found = nanbeige.forward(config, tensors, tokens, loops=1, rounded_frequencies=False).logits
    assert np.abs(found - wanted).max() < 1e-5
