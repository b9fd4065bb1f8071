"""The references themselves: published parameter counts, hand-computable cases, and what any causal model must do."""

import json
import math

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file

from . import huginn, loopformer, nanbeige, ouro, retrofit, retrofit_olmo
from .folder import write_folder

FAMILIES = [ouro, nanbeige, huginn, retrofit, retrofit_olmo, loopformer]
FRAMED = [huginn, retrofit, retrofit_olmo]  # prelude, core, coda
TURNING = [ouro, nanbeige, huginn, retrofit, retrofit_olmo]
families = pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.__name__.rpartition(".")[2])
framed = pytest.mark.parametrize("family", FRAMED, ids=lambda family: family.__name__.rpartition(".")[2])
turning = pytest.mark.parametrize("family", TURNING, ids=lambda family: family.__name__.rpartition(".")[2])
# what ends a branch
OUTPUTS = ("o_proj.weight", "down_proj.weight", "attn.proj.weight", "mlp.proj.weight", "c_proj.weight")


def batch(config, length=7, seed=0):
    """Two rows of token ids."""
    return np.random.default_rng(seed).integers(0, config["vocab_size"], (2, length))


def silent(tensors):
    """The same tensors, with every branch ending in zeros."""
    return {name: 0 * value if name.endswith(OUTPUTS) else value for name, value in tensors.items()}


def rms(x, weight, eps):
    """A norm written once more."""
    return np.array([[v / math.sqrt(sum(v * v) / len(v) + eps) for v in row] for row in x]) * weight


@pytest.mark.parametrize(
    ("family", "name", "count", "tensors"),
    [
        (ouro, "ByteDance/Ouro-1.4B", 1_434_652_673, 269),
        (ouro, "ByteDance/Ouro-2.6B", 2_667_974_657, 533),
        (nanbeige, "Nanbeige/Nanbeige4.2-3B", 4_169_800_704, 201),
        (huginn, "tomg-group-umd/huginn-0125", 3_564_976_800, 77),
        (retrofit, "smcleish/Recurrent-Llama-3.2-train-recurrence-32", 1_385_228_288, 88),
        (loopformer, "armenjeddi/LoopFormer-3block-8iterations", 278_169_600, 29),
    ],
)
def test_counts_of_released_shapes(family, name, count, tensors):
    # published exactly: both Ouros, Recurrent-Llama, Huginn (below); to four digits: 4.170 B; to three: 0.278 B
    config = family.RELEASED[name]
    assert family.parameters(config) == count
    assert len(family.shapes(config)) == tensors


def test_huginn_files_hold_the_tied_matrix_twice_and_a_buffer():
    (config,) = huginn.RELEASED.values()
    assert sum(math.prod(shape) for shape in huginn.shapes(config).values()) == 3_911_400_096


def test_loopformer_files_hold_the_tied_matrix_once_in_two_bytes():
    # published: 561,169,230 bytes, of which less than 5 MB are the tokenizer's and the code's
    (config,) = loopformer.RELEASED.values()
    size = 2 * sum(math.prod(shape) for shape in loopformer.shapes(config).values())
    assert 0 < 561_169_230 - size < 5_000_000


@families
def test_tensors_have_their_shapes_and_one_seed_gives_the_same(family):
    tensors = family.random_tensors(family.CONFIG, 3)
    assert {name: value.shape for name, value in tensors.items()} == family.shapes(family.CONFIG)
    assert {value.dtype for value in tensors.values()} == {np.dtype(np.float32)}
    again, other = family.random_tensors(family.CONFIG, 3), family.random_tensors(family.CONFIG, 4)
    for name, value in tensors.items():
        assert np.array_equal(value, again[name])
        assert name == "freqs_cis" or not np.array_equal(value, other[name])


@families
def test_no_logit_depends_on_a_later_token(family):
    tensors, tokens = family.random_tensors(family.CONFIG, 0), batch(family.CONFIG)
    changed = tokens.copy()
    changed[:, 4] = (changed[:, 4] + 1) % family.CONFIG["vocab_size"]
    before, after = (family.forward(family.CONFIG, tensors, t).logits for t in (tokens, changed))
    assert np.array_equal(before[:, :4], after[:, :4])
    assert np.all(np.abs(before - after)[:, 4:].max(axis=-1) > 1e-3)


@families
def test_every_tensor_matters(family):
    tensors, tokens = family.random_tensors(family.CONFIG, 0), batch(family.CONFIG)
    base, noise = family.forward(family.CONFIG, tensors, tokens, loops=2), family.random_tensors(family.CONFIG, 1)
    for name, value in tensors.items():
        if name == "freqs_cis" or (family is huginn and name == "lm_head.weight"):
            continue
        # other values, not only another size, which a norm after them would take away
        changed = family.forward(family.CONFIG, tensors | {name: (value + noise[name]) / 2}, tokens, loops=2)
        found = changed.exit_probabilities if "exit_gate" in name else changed.logits
        wanted = base.exit_probabilities if "exit_gate" in name else base.logits
        assert np.abs(found - wanted).max() > 1e-3, name


@families
def test_each_loop_is_a_loop_more(family):
    tensors, tokens = family.random_tensors(family.CONFIG, 0), batch(family.CONFIG)
    first, second, third = (family.forward(family.CONFIG, tensors, tokens, loops=n) for n in (1, 2, 3))
    assert [len(out.states) for out in (first, second, third)] == [1, 2, 3]
    assert np.abs(first.logits - second.logits).max() > 1e-2
    assert np.abs(second.logits - third.logits).max() > 1e-2
    if family is not loopformer:  # which is told the size of its steps
        assert np.array_equal(third.states[:2], second.states)


@families
def test_rows_do_not_touch(family):
    tensors, tokens = family.random_tensors(family.CONFIG, 0), batch(family.CONFIG)
    both = family.forward(family.CONFIG, tensors, tokens).logits
    assert np.allclose(both[1:], family.forward(family.CONFIG, tensors, tokens[1:]).logits, atol=1e-12)


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


def test_silent_loopformer_reads_out_its_embeddings():
    config, tokens = loopformer.CONFIG, batch(loopformer.CONFIG)
    tensors = loopformer.source_tensors(silent(loopformer.random_tensors(config, 0)))
    x = tensors["transformer.wte.weight"][tokens].astype(np.float64) + tensors["transformer.wpe.weight"][:7]
    y = rms(x, tensors["transformer.norm_f.weight"], 2.0**-23)
    out = loopformer.forward(config, tensors, tokens)
    assert np.allclose(out.logits, y @ tensors["lm_head.weight"].T, atol=1e-12)


def test_exit_probabilities_are_a_distribution():
    tensors, tokens = ouro.random_tensors(ouro.CONFIG, 0), batch(ouro.CONFIG)
    for loops in (1, 2, 5):
        p = ouro.forward(ouro.CONFIG, tensors, tokens, loops=loops).exit_probabilities
        assert p.shape == (2, 7, loops)
        assert np.all(p >= 0)
        assert np.allclose(p.sum(axis=-1), 1, atol=1e-14)


def test_exit_probabilities_of_a_gate_that_is_always_three_tenths():
    tensors = ouro.random_tensors(ouro.CONFIG, 0)
    tensors["model.early_exit_gate.weight"] *= 0
    tensors["model.early_exit_gate.bias"][:] = math.log(0.3 / 0.7)
    p = ouro.forward(ouro.CONFIG, tensors, batch(ouro.CONFIG), loops=4).exit_probabilities
    assert np.allclose(p, [0.3, 0.21, 0.147, 0.343], atol=1e-6)
    assert [int(ouro.exits(p, t).max()) for t in (0.1, 0.5, 0.6, 0.7, 1.0)] == [1, 2, 3, 4, 4]
    # reached is enough
    assert [int(ouro.exits(np.array([0.5, 0.25, 0.25]), t)) for t in (0.5, 0.75, 0.76)] == [1, 2, 3]


@turning
def test_scores_depend_on_distances(family):
    turns = family.frequencies(family.CONFIG)
    rng, places = np.random.default_rng(0), np.arange(5.0)
    q, k = rng.normal(size=(2, 5, 2 * len(turns)))
    scores, later = (
        family.rotate(q, places + shift, turns) @ family.rotate(k, places + shift, turns).T for shift in (0, 11)
    )
    assert np.allclose(scores, later, atol=1e-12)
    assert np.abs(scores - q @ k.T).max() > 0.1


@turning
def test_the_fastest_pair_turns_by_one_radian_a_position(family):
    turns = family.frequencies(family.CONFIG)
    width = 2 * len(turns)
    partner = 1 if family is huginn else width // 2  # neighbours, or the other half
    turned = family.rotate(np.eye(width)[:1], np.array([1.0]), turns)[0]
    wanted = np.zeros(width)
    wanted[[0, partner]] = math.cos(1), math.sin(1)
    assert np.allclose(turned, wanted, atol=1e-12)


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


def test_attentions_agree():
    # that of Nanbeige is compared with a Llama's below; here every other file's with it, four heads of six channels
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 9, 24))
    x[..., -1] = 1  # so that a matrix' last column is a bias
    q, k, v, o = rng.normal(size=(4, 24, 24)) / 5
    grouped = {"q_proj.weight": q, "k_proj.weight": k[:12], "v_proj.weight": v[:12], "o_proj.weight": o}
    llama = {"head_dim": 6, "num_attention_heads": 4, "num_key_value_heads": 2, "rope_theta": 1000.0}
    wanted = nanbeige.attention(llama, grouped, "", x, nanbeige.frequencies(llama, rounded=False))
    assert np.allclose(ouro.attention(llama, grouped, "", x), wanted, atol=1e-12)

    full, llama = grouped | {"k_proj.weight": k, "v_proj.weight": v}, llama | {"num_key_value_heads": 4}
    wanted = nanbeige.attention(llama, full, "", x, nanbeige.frequencies(llama, rounded=False))
    # neighbours in place of halves, and the last column of q and k as a bias
    places = np.concatenate([6 * head + np.array([0, 3, 1, 4, 2, 5]) for head in range(4)])
    biases = np.stack([matrix[places, -1].reshape(1, 4, 6) for matrix in (q, k)])
    without = np.ones(24) * (np.arange(24) < 23)
    fused = np.concatenate([q[places] * without, k[places] * without, v])
    config = {"n_embd": 24, "n_heads": 4, "qk_bias": True, "rope_base": 1000.0}
    found = huginn.attention(config, {"Wqkv.weight": fused, "qk_bias": biases, "proj.weight": o}, "", x)
    assert np.allclose(found, wanted, atol=1e-12)

    wanted = nanbeige.attention(llama, full, "", x, np.zeros(3))  # nothing turns
    fused = {"c_attn.weight": np.concatenate([q, k, v]), "c_proj.weight": o}
    found = loopformer.attention({"n_embd": 24, "n_head": 4}, fused, "", x)
    assert np.allclose(found, wanted, atol=1e-12)


def test_feed_forwards_agree():
    rng = np.random.default_rng(0)
    x, gate, up, down = (rng.normal(size=shape) for shape in ((2, 3, 4), (5, 4), (5, 4), (4, 5)))
    llama = {"gate_proj.weight": gate, "up_proj.weight": up, "down_proj.weight": down}
    fused = {"fc.weight": np.concatenate([gate, up]), "proj.weight": down}
    wanted = ouro.feed_forward(llama, "", x)
    assert np.allclose(nanbeige.feed_forward(llama, "", x), wanted, atol=1e-12)
    for family in FRAMED:
        assert np.allclose(family.feed_forward(fused, "", x), wanted, atol=1e-12)


@pytest.mark.parametrize(
    ("family", "norms", "matrix"),
    [
        (ouro, ("input_layernorm.weight", "input_layernorm_2.weight"), "o_proj.weight"),
        (ouro, ("post_attention_layernorm.weight", "post_attention_layernorm_2.weight"), "down_proj.weight"),
        (nanbeige, ("input_layernorm.weight",), "o_proj.weight"),
        (nanbeige, ("post_attention_layernorm.weight",), "down_proj.weight"),
        (huginn, ("norm_1.weight",), "attn.proj.weight"),
        (huginn, ("norm_3.weight",), "mlp.proj.weight"),
        (retrofit, ("norm_1.weight",), "attn.proj.weight"),
        (retrofit, ("norm_2.weight",), "mlp.proj.weight"),
        (retrofit_olmo, ("norm_1.weight",), "attn.proj.weight"),
        (retrofit_olmo, ("norm_2.weight",), "mlp.proj.weight"),
    ],
)
def test_norms_that_are_zero_silence_their_branch(family, norms, matrix):
    tensors, tokens = family.random_tensors(family.CONFIG, 0), batch(family.CONFIG)

    def without(ending):
        zeros = {name: 0 * value for name, value in tensors.items() if name.endswith(ending)}
        return family.forward(family.CONFIG, tensors | zeros, tokens).logits

    for norm in norms:
        assert np.allclose(without(norm), without(matrix), atol=1e-12)


@framed
def test_the_start_of_the_state_is_read(family):
    tensors, tokens = family.random_tensors(family.CONFIG, 0), batch(family.CONFIG)
    zeros = np.zeros((2, 7, 24))
    base = family.forward(family.CONFIG, tensors, tokens).logits
    assert np.array_equal(base, family.forward(family.CONFIG, tensors, tokens, s0=zeros).logits)
    assert np.abs(base - family.forward(family.CONFIG, tensors, tokens, s0=zeros + 1).logits).max() > 1e-3


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


@families
@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_folders_hold_what_was_written(family, shards, dtype, tmp_path):
    tensors = family.random_tensors(family.CONFIG, 0)
    folder = write_folder(tmp_path / "model", family.CONFIG, tensors, shards=shards, dtype=dtype)
    assert json.loads((folder / "config.json").read_text()) == family.CONFIG
    files = sorted(path.name for path in folder.glob("*.safetensors"))
    arrays = {name: value for file in files for name, value in load_file(folder / file).items()}
    assert arrays.keys() == tensors.keys()
    for name, value in tensors.items():
        assert arrays[name].dtype == (ml_dtypes.bfloat16 if dtype == "bfloat16" else np.float32)
        assert np.array_equal(arrays[name], value.astype(arrays[name].dtype))
    if shards == 1:
        assert files == ["model.safetensors"]
        return
    assert files == [f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(value.nbytes for value in arrays.values())
    assert index["weight_map"].keys() == tensors.keys()
    for file in files:
        assert {name for name, home in index["weight_map"].items() if home == file} == load_file(folder / file).keys()
