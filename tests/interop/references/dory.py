"""Dory (NVIDIA Nemotron Labs 2026) in NumPy, a loop over loops and layers in float64. It shares nothing with others.

    h <- U(h);  h <- h + |l1| (U(Attn h) - h);  h <- U(h);  h <- h + |l2| (U(MLP h) - h)     a layer
    e = U(prelude's result);  every loop begins h <- U(h) + e
    logits = (lm_head U(h)) scale / s0

with U(x) = x / sqrt(sum x² + 1e-6), stored rates l = stored · alpha / s0, and s0 = initializer_range. Files count
attention and MLP as layers of their own. Field and tensor names are those of the release, as transformers reads them.
"""

from typing import NamedTuple

import numpy as np

CONFIG = {
    "architectures": ["DoryForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "head_dim": 6,  # not hidden_size / num_attention_heads
    "hidden_act": "silu",
    "hidden_size": 20,
    "initializer_range": 0.02,
    "intermediate_size": 28,
    "layer_types": [
        *("sliding_attention", "mlp", "full_attention", "mlp", "sliding_attention", "mlp"),
        *("full_attention", "mlp", "sliding_attention", "mlp"),
    ],
    "max_position_embeddings": 128,
    "mlp_bias": False,
    "model_type": "dory",
    "n_input_layers": 2,
    "n_output_layers": 2,
    "n_recurrent_layers": 6,
    "n_recurrent_loops": 2,
    "ngpt_alpha_init": 0.4,
    "num_attention_heads": 4,
    "num_hidden_layers": 10,
    "num_key_value_heads": 2,
    "recurrent_kv_cache_mode": "per_loop",
    "rope_parameters": {
        "full_attention": {"rope_theta": 1000.0, "rope_type": "default"},
        "sliding_attention": {"rope_theta": 100.0, "rope_type": "default"},
    },
    "sliding_window": 4,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "vocab_size": 51,
}
RELEASED = {
    "nvidia/NVIDIA-Nemotron-Labs-Dory1.0-4B-BF16": CONFIG
    | {
        "head_dim": 256,
        "hidden_size": 2560,
        "initializer_range": 0.0177,
        "intermediate_size": 7168,
        "layer_types": [*("sliding_attention", "mlp") * 3, "full_attention", "mlp"] * 9,
        "max_position_embeddings": 8192,
        "n_input_layers": 16,
        "n_output_layers": 16,
        "n_recurrent_layers": 40,
        "ngpt_alpha_init": 0.05,
        "num_attention_heads": 16,
        "num_hidden_layers": 72,
        "num_key_value_heads": 4,
        "rope_parameters": {
            "full_attention": {"rope_theta": 1e7, "rope_type": "default"},
            "sliding_attention": {"rope_theta": 1e4, "rope_type": "default"},
        },
        "sliding_window": 1024,
        "vocab_size": 131072,
    }
}


class Output(NamedTuple):
    """What a forward pass gives: logits [B, L, V], and the state after every loop."""

    logits: np.ndarray
    states: np.ndarray  # [loops, B, L, D]


def shapes(config: dict) -> dict[str, tuple[int, ...]]:
    """Every tensor of the release's files."""
    width, inner, vocab = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    queries = config["num_attention_heads"] * config["head_dim"]
    keys = config["num_key_value_heads"] * config["head_dim"]
    tensors: dict[str, tuple[int, ...]] = {"backbone.embeddings.weight": (vocab, width)}
    for i in range(0, config["num_hidden_layers"], 2):
        layer = f"backbone.layers.{i}."
        tensors[layer + "mixer.q_proj.weight"] = (queries, width)
        tensors[layer + "mixer.k_proj.weight"] = (keys, width)
        tensors[layer + "mixer.v_proj.weight"] = (keys, width)
        tensors[layer + "mixer.g_proj.weight"] = (queries, width)
        tensors[layer + "mixer.o_proj.weight"] = (width, queries)
        tensors[layer + "mixer.sqk"] = (queries,)
        tensors[layer + "mixer.s_gate"] = (queries,)
        tensors[layer + "attn_alpha"] = (width,)
        layer = f"backbone.layers.{i + 1}."
        tensors[layer + "mixer.gate_proj.weight"] = (inner, width)
        tensors[layer + "mixer.up_proj.weight"] = (inner, width)
        tensors[layer + "mixer.down_proj.weight"] = (width, inner)
        tensors[layer + "mixer.suv_gate"] = (inner,)
        tensors[layer + "mixer.suv_up"] = (inner,)
        tensors[layer + "mlp_alpha"] = (width,)
    if not config["tie_word_embeddings"]:
        tensors["lm_head.weight"] = (vocab, width)
    tensors["lm_head.logit_scale"] = (vocab,)
    return tensors


def parameters(config: dict) -> int:
    """How many parameters; a tied matrix is in the files once."""
    return sum(int(np.prod(shape)) for shape in shapes(config).values())


def random_tensors(config: dict, seed: int) -> dict[str, np.ndarray]:
    """Float32 tensors of a scale at which each of them matters; rates have both signs."""
    rng, size = np.random.default_rng(seed), config["initializer_range"]
    tensors = {}
    for name, shape in shapes(config).items():
        value = rng.normal(size=shape)
        if name.endswith("alpha"):
            value = size * value
        elif name.endswith(("sqk", "s_gate")):
            value = size * (1 + 0.3 * value)
        elif name.endswith("logit_scale"):
            value = size * (4 + value)
        elif "suv" in name:
            value = 1 + 0.3 * value
        else:
            value = value / np.sqrt(shape[-1])
        tensors[name] = value.astype(np.float32)
    return tensors


def unit(x):
    """U(x) = x / sqrt(sum x² + eps), onto the unit sphere."""
    return x / np.sqrt(np.sum(x**2, axis=-1, keepdims=True) + 1e-6)


def sigmoid(x):
    """1 / (1 + exp(-x))."""
    return 1 / (1 + np.exp(-x))


def softmax(x):
    """Over the last axis."""
    x = np.exp(x - np.max(x, axis=-1, keepdims=True))
    return x / np.sum(x, axis=-1, keepdims=True)


def rotate(x, positions, base: float):
    """Half-split rotary of x [..., L, K]: channels i and i + K/2 turn by position · base^(-2i / K)."""
    width = x.shape[-1]
    angle = positions[:, None] * base ** (-np.arange(0, width, 2) / width)
    first, second = np.split(x, 2, axis=-1)
    return np.concatenate(
        [first * np.cos(angle) - second * np.sin(angle), second * np.cos(angle) + first * np.sin(angle)], axis=-1
    )


def attention(config: dict, w, name: str, kind: str, x):
    """Attention of x [B, L, D] within the window of its kind; each head of queries and keys is normed by itself."""
    heads, width, size = config["num_attention_heads"], config["head_dim"], config["initializer_range"]
    queries_per_key = heads // config["num_key_value_heads"]
    base = config["rope_parameters"][kind]["rope_theta"]
    positions = np.arange(x.shape[1])  # the same in every loop
    distance = positions[:, None] - positions
    visible = distance >= 0
    if kind == "sliding_attention":
        visible = visible & (distance < config["sliding_window"])
    q = x @ w[name + "q_proj.weight"].T
    k = x @ w[name + "k_proj.weight"].T
    v = x @ w[name + "v_proj.weight"].T
    scale = (w[name + "sqk"] * np.sqrt(width) / size) ** 2
    results = []
    for head in range(heads):
        key_head = head // queries_per_key
        here, there = slice(head * width, (head + 1) * width), slice(key_head * width, (key_head + 1) * width)
        query = rotate(unit(q[..., here]), positions, base) * scale[here]
        key = rotate(unit(k[..., there]), positions, base)
        scores = np.einsum("blk,bmk->blm", query, key) / np.sqrt(width)
        weights = softmax(np.where(visible, scores, -np.inf))
        results.append(np.einsum("blm,bmk->blk", weights, v[..., there]))
    gate = x @ w[name + "g_proj.weight"].T * (w[name + "s_gate"] * config["hidden_size"] ** 0.25 / size) ** 2
    return unit(np.concatenate(results, axis=-1) * sigmoid(gate)) @ w[name + "o_proj.weight"].T


def feed_forward(config: dict, w, name: str, x):
    """down(U(silu(gate x ⊙ s) ⊙ (up x ⊙ s)))."""
    scale = np.sqrt(config["hidden_size"])
    gate = x @ w[name + "gate_proj.weight"].T * (w[name + "suv_gate"] * scale)
    up = x @ w[name + "up_proj.weight"].T * (w[name + "suv_up"] * scale)
    return unit(gate * sigmoid(gate) * up) @ w[name + "down_proj.weight"].T


def forward(config: dict, tensors, tokens, *, loops: int | None = None) -> Output:
    """Run `loops` loops (those of the config by default) over tokens [B, L]."""
    w = {name: value.astype(np.float64) for name, value in tensors.items()}
    size, alpha = config["initializer_range"], config["ngpt_alpha_init"]

    def run(h, first, last):
        for i in range(first, last, 2):
            attn, mlp = f"backbone.layers.{i}.", f"backbone.layers.{i + 1}."
            h = unit(h)
            branch = unit(attention(config, w, attn + "mixer.", config["layer_types"][i], h))
            h = h + np.abs(w[attn + "attn_alpha"] * alpha / size) * (branch - h)
            h = unit(h)
            branch = unit(feed_forward(config, w, mlp + "mixer.", h))
            h = h + np.abs(w[mlp + "mlp_alpha"] * alpha / size) * (branch - h)
        return h

    start = config["n_input_layers"]
    end = start + config["n_recurrent_layers"]
    h = run(w["backbone.embeddings.weight"][tokens], 0, start)
    entered, states = unit(h), []
    for _ in range(config["n_recurrent_loops"] if loops is None else loops):
        h = run(unit(h) + entered, start, end)
        states.append(h)
    h = unit(run(h, end, config["num_hidden_layers"]))
    head = w["backbone.embeddings.weight" if config["tie_word_embeddings"] else "lm_head.weight"]
    return Output(h @ head.T * (w["lm_head.logit_scale"] / size), np.stack(states))
