"""The references themselves: what any causal model must do, loop by loop and row by row."""

import math

import numpy as np
import pytest

from . import huginn, loopformer, nanbeige, ouro, retrofit, retrofit_olmo
from .cases import FRAMED, batch, families, framed, turning


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


def test_attentions_agree():
    # that of Nanbeige is compared with a Llama's in test_looped_references.py; here every other file's with it, four
    # heads of six channels
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
