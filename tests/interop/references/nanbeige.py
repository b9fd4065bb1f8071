"""Nanbeige 4.2 in NumPy, a loop over loops and layers in float64. It shares nothing with other files.

    x <- x + Attn(R1 x);  x <- x + MLP(R2 x)    a layer, as Llama's; the head width is free
    x <- R(x)                                   after every loop; only after the last with skip_loop_final_norm
    logits = lm_head x

Field names are those of configuration_nanbeige.py. The release computes with rotary frequencies in bfloat16.
"""

from typing import NamedTuple

import ml_dtypes
import numpy as np

CONFIG = {
    "architectures": ["NanbeigeForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "auto_map": {
        "AutoConfig": "configuration_nanbeige.NanbeigeConfig",
        "AutoModelForCausalLM": "modeling_nanbeige.NanbeigeForCausalLM",
    },
    "bos_token_id": 1,
    "eos_token_id": 2,
    "head_dim": 8,  # not hidden_size / num_attention_heads
    "hidden_act": "silu",
    "hidden_size": 18,
    "initializer_range": 0.02,
    "intermediate_size": 26,
    "loop_loss_weights": [],
    "max_position_embeddings": 64,
    "mlp_bias": False,
    "model_type": "nanbeige",
    "num_attention_heads": 6,
    "num_hidden_layers": 3,
    "num_key_value_heads": 2,
    "num_loops": 2,
    "pad_token_id": 0,
    "pretraining_tp": 1,
    "qk_layernorm": False,
    "rms_norm_eps": 1e-5,
    "rope_scaling": None,
    "rope_theta": 700.0,
    "skip_loop_final_norm": False,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "vocab_size": 53,
}
RELEASED = {
    "Nanbeige/Nanbeige4.2-3B": CONFIG
    | {
        "bos_token_id": 166100,
        "eos_token_id": 166101,
        "head_dim": 128,
        "hidden_size": 3072,
        "intermediate_size": 10752,
        "max_position_embeddings": 262144,
        "num_attention_heads": 48,
        "num_hidden_layers": 22,
        "num_key_value_heads": 8,
        "rope_theta": 7e7,
        "vocab_size": 166144,
    }
}


class Output(NamedTuple):
    """What a forward pass gives: logits [B, L, V] and the state after every loop."""

    logits: np.ndarray
    states: np.ndarray  # [loops, B, L, D], normed where the loop ends in a norm


def shapes(config: dict) -> dict[str, tuple[int, ...]]:
    """Every tensor of the release's files."""
    width, inner, vocab = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    queries = config["num_attention_heads"] * config["head_dim"]
    keys = config["num_key_value_heads"] * config["head_dim"]
    tensors: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocab, width)}
    for i in range(config["num_hidden_layers"]):
        layer = f"model.layers.{i}."
        tensors[layer + "self_attn.q_proj.weight"] = (queries, width)
        tensors[layer + "self_attn.k_proj.weight"] = (keys, width)
        tensors[layer + "self_attn.v_proj.weight"] = (keys, width)
        tensors[layer + "self_attn.o_proj.weight"] = (width, queries)
        tensors[layer + "mlp.gate_proj.weight"] = (inner, width)
        tensors[layer + "mlp.up_proj.weight"] = (inner, width)
        tensors[layer + "mlp.down_proj.weight"] = (width, inner)
        tensors[layer + "input_layernorm.weight"] = (width,)
        tensors[layer + "post_attention_layernorm.weight"] = (width,)
    tensors["model.norm.weight"] = (width,)
    tensors["lm_head.weight"] = (vocab, width)
    return tensors


def parameters(config: dict) -> int:
    """How many parameters; nothing is tied."""
    return sum(int(np.prod(shape)) for shape in shapes(config).values())


def random_tensors(config: dict, seed: int) -> dict[str, np.ndarray]:
    """Float32 tensors of a scale at which each of them matters."""
    rng = np.random.default_rng(seed)
    tensors = {}
    for name, shape in shapes(config).items():
        value = rng.normal(size=shape)
        value = 1 + 0.1 * value if "norm" in name else value / np.sqrt(shape[-1])
        tensors[name] = value.astype(np.float32)
    return tensors


def norm(x, weight, eps):
    """R(x) = x / sqrt(mean x² + eps) ⊙ weight."""
    return x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + eps) * weight


def silu(x):
    """SiLU: x · sigmoid(x)."""
    return x / (1 + np.exp(-x))


def softmax(x):
    """Over the last axis."""
    x = np.exp(x - np.max(x, axis=-1, keepdims=True))
    return x / np.sum(x, axis=-1, keepdims=True)


def frequencies(config: dict, rounded: bool = True):
    """theta^(-2i / K), i = 0 .. K/2 - 1, rounded to float32 and from there to the nearest bfloat16, ties to even."""
    width = config["head_dim"]
    values = config["rope_theta"] ** (-np.arange(0, width, 2) / width)
    if rounded:
        values = values.astype(np.float32).astype(ml_dtypes.bfloat16).astype(np.float64)
    return values


def rotate(x, positions, frequencies):
    """Half-split rotary of x [..., L, K]: channels i and i + K/2 turn by position · frequency i."""
    angle = positions[:, None] * frequencies
    first, second = np.split(x, 2, axis=-1)
    return np.concatenate(
        [first * np.cos(angle) - second * np.sin(angle), second * np.cos(angle) + first * np.sin(angle)], axis=-1
    )


def attention(config: dict, w, name: str, x, turns):
    """Causal attention of x [B, L, D], without biases; query heads share key heads in groups."""
    heads, width = config["num_attention_heads"], config["head_dim"]
    queries_per_key = heads // config["num_key_value_heads"]
    positions = np.arange(x.shape[1])  # the same in every loop
    causal = positions[:, None] >= positions
    q = x @ w[name + "q_proj.weight"].T
    k = x @ w[name + "k_proj.weight"].T
    v = x @ w[name + "v_proj.weight"].T
    results = []
    for head in range(heads):
        key_head = head // queries_per_key
        here, there = slice(head * width, (head + 1) * width), slice(key_head * width, (key_head + 1) * width)
        query, key = rotate(q[..., here], positions, turns), rotate(k[..., there], positions, turns)
        scores = np.einsum("blk,bmk->blm", query, key) / np.sqrt(width)
        weights = softmax(np.where(causal, scores, -np.inf))
        results.append(np.einsum("blm,bmk->blk", weights, v[..., there]))
    return np.concatenate(results, axis=-1) @ w[name + "o_proj.weight"].T


def feed_forward(w, name: str, x):
    """down(silu(gate x) ⊙ up x)."""
    gate, up = x @ w[name + "gate_proj.weight"].T, x @ w[name + "up_proj.weight"].T
    return (silu(gate) * up) @ w[name + "down_proj.weight"].T


def forward(config: dict, tensors, tokens, *, loops: int | None = None, rounded_frequencies: bool = True) -> Output:
    """Run `loops` loops (those of the config by default) over tokens [B, L]."""
    w = {name: value.astype(np.float64) for name, value in tensors.items()}
    eps = config["rms_norm_eps"]
    turns = frequencies(config, rounded_frequencies)
    if loops is None:
        # weights of the losses of all loops but the last
        loops = len(config["loop_loss_weights"]) + 1 if config["loop_loss_weights"] else config["num_loops"]
    x = w["model.embed_tokens.weight"][tokens]
    states = []
    for loop in range(1, loops + 1):
        for i in range(config["num_hidden_layers"]):
            layer = f"model.layers.{i}."
            branch = norm(x, w[layer + "input_layernorm.weight"], eps)
            x = x + attention(config, w, layer + "self_attn.", branch, turns)
            branch = norm(x, w[layer + "post_attention_layernorm.weight"], eps)
            x = x + feed_forward(w, layer + "mlp.", branch)
        if loop == loops or not config["skip_loop_final_norm"]:
            x = norm(x, w["model.norm.weight"], eps)
        states.append(x)
    return Output(x @ w["lm_head.weight"].T, np.stack(states))
