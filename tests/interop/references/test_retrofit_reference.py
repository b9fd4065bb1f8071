"""The reference of the retrofits: its adapter, its frequencies, and the Llama and OLMo that it was cut from."""

import numpy as np
import pytest

from . import nanbeige, retrofit, retrofit_olmo
from .cases import batch, rms, silent


@pytest.mark.parametrize("family", [retrofit, retrofit_olmo])
def test_silent_retrofit_is_its_adapter(family):
    config, tokens = family.CONFIG, batch(family.CONFIG)
    tensors = silent(family.random_tensors(config, 0))
    e = tensors["transformer.wte.weight"][tokens].astype(np.float64)
    state, inject = np.split(tensors["transformer.adapter.weight"].astype(np.float64), 2, axis=1)
    s = e @ inject.T
    s = s @ state.T + e @ inject.T
    y = rms(s, tensors["transformer.ln_f.weight"], config["norm_eps"])
    out = family.forward(config, tensors, tokens, loops=2)
    assert np.allclose(out.logits, y @ tensors["lm_head.weight"].T, atol=1e-12)


def passing(tensors):
    """An adapter [0, I]: the state is dropped and the input passed on."""
    width = len(tensors["transformer.adapter.weight"])
    return tensors | {"transformer.adapter.weight": np.eye(width, 2 * width, width, dtype=np.float32)}


def unfused(config, tensors):
    """A retrofit's tensors under the names that its layers had before they were cut out."""
    names = {
        "transformer.wte.weight": "model.embed_tokens.weight",
        "transformer.ln_f.weight": "model.norm.weight",
        "lm_head.weight": "lm_head.weight",
    }
    layers = {new: tensors[old] for old, new in names.items()}
    parts = [("prelude", i) for i in range(config["n_layers_in_prelude"])]
    parts += [("core_block", i) for i in range(config["n_layers_in_recurrent_block"])]
    parts += [("coda", i) for i in range(config["n_layers_in_coda"])]
    width = config["n_embd"]
    keys = config["num_key_value_heads"] * config["head_dim"]
    for number, (part, i) in enumerate(parts):
        old, new = f"transformer.{part}.{i}.", f"model.layers.{number}."
        fused = tensors[old + "attn.Wqkv.weight"]
        layers[new + "self_attn.q_proj.weight"] = fused[:width]
        layers[new + "self_attn.k_proj.weight"] = fused[width : width + keys]
        layers[new + "self_attn.v_proj.weight"] = fused[width + keys :]
        layers[new + "self_attn.o_proj.weight"] = tensors[old + "attn.proj.weight"]
        layers[new + "mlp.gate_proj.weight"] = tensors[old + "mlp.fc.weight"][: config["intermediate_size"]]
        layers[new + "mlp.up_proj.weight"] = tensors[old + "mlp.fc.weight"][config["intermediate_size"] :]
        layers[new + "mlp.down_proj.weight"] = tensors[old + "mlp.proj.weight"]
        first, second = tensors[old + "norm_1.weight"], tensors[old + "norm_2.weight"]
        if old + "attn.q_norm.weight" in tensors:
            layers[new + "self_attn.q_norm.weight"] = tensors[old + "attn.q_norm.weight"]
            layers[new + "self_attn.k_norm.weight"] = tensors[old + "attn.k_norm.weight"]
            layers[new + "post_attention_layernorm.weight"] = first
            layers[new + "post_feedforward_layernorm.weight"] = second
        else:
            layers[new + "input_layernorm.weight"] = first
            layers[new + "post_attention_layernorm.weight"] = second
    return layers


def test_a_retrofit_that_passes_its_input_on_is_the_llama_it_was_cut_from():
    config, tokens = retrofit.CONFIG | {"rope_scaling": None}, batch(retrofit.CONFIG)
    tensors = passing(retrofit.random_tensors(config, 0))
    # one loop of Nanbeige is a Llama
    llama = nanbeige.CONFIG | {
        "head_dim": 6,
        "hidden_size": 24,
        "num_attention_heads": 4,
        "num_hidden_layers": 6,
        "rope_theta": config["rope_theta"],
    }
    wanted = nanbeige.forward(llama, unfused(config, tensors), tokens, loops=1, rounded_frequencies=False)
    assert np.allclose(retrofit.forward(config, tensors, tokens, loops=1).logits, wanted.logits, atol=1e-12)


def test_llama_3_divides_slow_frequencies_only():
    config = retrofit.CONFIG
    fast, middle, slow = retrofit.frequencies(config)
    plain = retrofit.frequencies(config | {"rope_scaling": None})
    assert fast == plain[0]
    assert slow == plain[2] / 32
    assert plain[1] / 32 < middle < plain[1]
    tensors, tokens = retrofit.random_tensors(config, 0), batch(config, 20)
    scaled, unscaled = (
        retrofit.forward(config | {"rope_scaling": scaling}, tensors, tokens).logits
        for scaling in (config["rope_scaling"], None)
    )
    assert np.abs(scaled - unscaled).max() > 1e-2


@pytest.mark.parametrize(
    ("config", "name"),
    [
        (retrofit.CONFIG, "Llama"),
        (retrofit.CONFIG | {"rope_scaling": None}, "Llama"),
        (retrofit_olmo.CONFIG, "Olmo2"),
    ],
)
@pytest.mark.slow
def test_retrofits_against_the_classes_they_were_cut_from(config, name):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    family = retrofit_olmo if name == "Olmo2" else retrofit
    tensors, tokens = passing(family.random_tensors(config, 0)), batch(config, 20)
    rope = {"rope_theta": config["rope_theta"], "rope_type": "default"} | (config["rope_scaling"] or {})
    fields = {
        "vocab_size": config["vocab_size"],
        "hidden_size": config["n_embd"],
        "intermediate_size": config["intermediate_size"],
        "num_hidden_layers": config["n_layers"],
        "num_attention_heads": config["n_heads"],
        "num_key_value_heads": config["num_key_value_heads"],
        "max_position_embeddings": config["max_position_embeddings"],
        "rms_norm_eps": config["norm_eps"],
        "rope_parameters": rope,
        "tie_word_embeddings": False,
    }
    model = getattr(transformers, name + "ForCausalLM")(getattr(transformers, name + "Config")(**fields))
    layers = {key: torch.from_numpy(value.copy()) for key, value in unfused(config, tensors).items()}
    model.load_state_dict(layers, strict=True)
    with torch.no_grad():
        wanted = model.eval()(torch.from_numpy(tokens)).logits.numpy()
    assert np.abs(family.forward(config, tensors, tokens, loops=1).logits - wanted).max() < 1e-5
