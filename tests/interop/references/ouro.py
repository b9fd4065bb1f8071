"""Ouro (ByteDance 2025) in NumPy, a loop over loops and layers in float64. It shares nothing with other files.

    x <- x + N2(Attn(N1 x));  x <- x + M2(MLP(M1 x))            a layer
    x <- R(x)                                                   after every loop u: h_u = x, the next loop's input
    p_u = l_u prod_{j<u} (1 - l_j),  l_u = sigmoid(w h_u + b)   the last loop takes the rest
    logits = lm_head h_u

Field names are those of configuration_ouro.py; the released numbers and the two exact parameter counts are public.
"""

from typing import NamedTuple

import numpy as np

CONFIG = {
    "architectures": ["OuroForCausalLM"],
    "attention_dropout": 0.0,
    "auto_map": {
        "AutoConfig": "configuration_ouro.OuroConfig",
        "AutoModelForCausalLM": "modeling_ouro.OuroForCausalLM",
    },
    "bos_token_id": 0,
    "early_exit_threshold": 1.0,
    "eos_token_id": 0,
    "head_dim": 6,  # not hidden_size / num_attention_heads
    "hidden_act": "silu",
    "hidden_size": 20,
    "initializer_range": 0.02,
    "intermediate_size": 28,
    "layer_types": ["full_attention"] * 3,
    "max_position_embeddings": 64,
    "max_window_layers": 3,
    "model_type": "ouro",
    "num_attention_heads": 4,
    "num_hidden_layers": 3,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-6,
    "rope_scaling": None,
    "rope_theta": 1000.0,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "total_ut_steps": 3,
    "use_cache": True,
    "use_sliding_window": False,
    "vocab_size": 51,
}
_SMALL = CONFIG | {
    "head_dim": 128,
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "layer_types": ["full_attention"] * 24,
    "max_position_embeddings": 65536,
    "max_window_layers": 24,
    "num_attention_heads": 16,
    "num_hidden_layers": 24,
    "num_key_value_heads": 16,
    "rope_theta": 1e6,
    "total_ut_steps": 4,
    "vocab_size": 49152,
}
_LARGE = _SMALL | {"layer_types": ["full_attention"] * 48, "max_window_layers": 48, "num_hidden_layers": 48}
RELEASED = {"ByteDance/Ouro-1.4B": _SMALL, "ByteDance/Ouro-2.6B": _LARGE}


class Output(NamedTuple):
    """What a forward pass gives: logits [B, L, V] of the last loop, and what every loop gives."""

    logits: np.ndarray
    states: np.ndarray  # [loops, B, L, D], normed
    logits_by_loop: np.ndarray  # [loops, B, L, V]
    exit_probabilities: np.ndarray  # [B, L, loops]


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
        tensors[layer + "input_layernorm_2.weight"] = (width,)
        tensors[layer + "post_attention_layernorm.weight"] = (width,)
        tensors[layer + "post_attention_layernorm_2.weight"] = (width,)
    tensors["model.norm.weight"] = (width,)
    tensors["model.early_exit_gate.weight"] = (1, width)
    tensors["model.early_exit_gate.bias"] = (1,)
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
        if "norm" in name:
            value = 1 + 0.1 * value
        elif name.endswith("bias"):
            value = 0.1 * value
        else:
            value = value / np.sqrt(shape[-1])
        tensors[name] = value.astype(np.float32)
    return tensors


def norm(x, weight, eps):
    """R(x) = x / sqrt(mean x² + eps) ⊙ weight."""
    return x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + eps) * weight


def sigmoid(x):
    """1 / (1 + exp(-x))."""
    return 1 / (1 + np.exp(-x))


def softmax(x):
    """Over the last axis."""
    x = np.exp(x - np.max(x, axis=-1, keepdims=True))
    return x / np.sum(x, axis=-1, keepdims=True)


def frequencies(config: dict):
    """theta^(-2i / K), i = 0 .. K/2 - 1."""
    width = config["head_dim"]
    return config["rope_theta"] ** (-np.arange(0, width, 2) / width)


def rotate(x, positions, frequencies):
    """Half-split rotary of x [..., L, K]: channels i and i + K/2 turn by position · frequency i."""
    angle = positions[:, None] * frequencies
    first, second = np.split(x, 2, axis=-1)
    return np.concatenate(
        [first * np.cos(angle) - second * np.sin(angle), second * np.cos(angle) + first * np.sin(angle)], axis=-1
    )


def attention(config: dict, w, name: str, x):
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
        query = rotate(q[..., here], positions, frequencies(config))
        key = rotate(k[..., there], positions, frequencies(config))
        scores = np.einsum("blk,bmk->blm", query, key) / np.sqrt(width)
        weights = softmax(np.where(causal, scores, -np.inf))
        results.append(np.einsum("blm,bmk->blk", weights, v[..., there]))
    return np.concatenate(results, axis=-1) @ w[name + "o_proj.weight"].T


def feed_forward(w, name: str, x):
    """down(silu(gate x) ⊙ up x)."""
    gate, up = x @ w[name + "gate_proj.weight"].T, x @ w[name + "up_proj.weight"].T
    return (gate * sigmoid(gate) * up) @ w[name + "down_proj.weight"].T


def forward(config: dict, tensors, tokens, *, loops: int | None = None) -> Output:
    """Run `loops` loops (those of the config by default) over tokens [B, L]."""
    w = {name: value.astype(np.float64) for name, value in tensors.items()}
    eps = config["rms_norm_eps"]
    x = w["model.embed_tokens.weight"][tokens]
    states = []
    for _ in range(config["total_ut_steps"] if loops is None else loops):
        for i in range(config["num_hidden_layers"]):
            layer = f"model.layers.{i}."
            branch = norm(x, w[layer + "input_layernorm.weight"], eps)
            branch = attention(config, w, layer + "self_attn.", branch)
            x = x + norm(branch, w[layer + "input_layernorm_2.weight"], eps)
            branch = norm(x, w[layer + "post_attention_layernorm.weight"], eps)
            branch = feed_forward(w, layer + "mlp.", branch)
            x = x + norm(branch, w[layer + "post_attention_layernorm_2.weight"], eps)
        x = norm(x, w["model.norm.weight"], eps)
        states.append(x)
    logits = np.stack([state @ w["lm_head.weight"].T for state in states])

    probabilities, rest = [], np.ones(tokens.shape)
    for state in states[:-1]:
        gate = sigmoid(state @ w["model.early_exit_gate.weight"][0] + w["model.early_exit_gate.bias"][0])
        probabilities.append(gate * rest)
        rest = rest * (1 - gate)
    probabilities.append(rest)
    return Output(logits[-1], np.stack(states), logits, np.stack(probabilities, axis=-1))


def exits(probabilities, threshold: float):
    """The loop [B, L], counted from 1, at which every token leaves: the first with sum p >= threshold, or the last."""
    reached = np.cumsum(probabilities, axis=-1) >= threshold
    reached[..., -1] = True  # the sum of all may round to a little less than 1
    return 1 + np.argmax(reached, axis=-1)
