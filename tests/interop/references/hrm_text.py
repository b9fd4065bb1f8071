"""HRM-Text (Sapient 2026) in NumPy, a loop over cycles and layers in float64. It shares nothing with other files.

    x <- x + Attn(R x);  x <- x + MLP(R x)                          a layer; a stack ends in R
    H times:  { L times: zL <- StackL(zL + zH) };  zH <- StackH(zH + zL)
    logits = lm_head zH

with R(x) = x / sqrt(mean x² + eps), zH = the scaled embedding and zL = a stored vector at first. Tensor names are those
of the release: `gqkv_proj` = [gate; q; k; v] and `gate_up_proj` = [gate; up].
"""

from typing import NamedTuple

import numpy as np

CONFIG = {
    "H_cycles": 2,
    "L_bp_cycles": [3, 3],  # cycles that gradients go through in transformers: here all
    "L_cycles": 3,
    "architectures": ["HrmTextForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "head_dim": 6,  # not hidden_size / num_attention_heads
    "hidden_act": "silu",
    "hidden_size": 20,
    "initializer_range": 0.4,  # the embedding is multiplied by its inverse
    "intermediate_size": 28,
    "max_position_embeddings": 128,
    "mlp_bias": False,
    "model_type": "hrm_text",
    "num_attention_heads": 4,
    "num_hidden_layers": 16,  # layers a stack times H_cycles (L_cycles + 1)
    "num_layers_per_stack": 2,
    "prefix_lm": True,
    "rms_norm_eps": 1e-6,
    "rope_parameters": {"rope_theta": 1000.0, "rope_type": "default"},
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "vocab_size": 51,
}
RELEASED = {
    "sapientinc/HRM-Text-1B": CONFIG
    | {
        "head_dim": 128,
        "hidden_size": 1536,
        "initializer_range": 0.02,
        "intermediate_size": 4096,
        "max_position_embeddings": 4096,
        "num_attention_heads": 12,
        "num_hidden_layers": 128,
        "num_layers_per_stack": 16,
        "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"},
        "vocab_size": 65536,
    }
}


class Output(NamedTuple):
    """What a forward pass gives: logits [B, L, V], and the slow state after every cycle."""

    logits: np.ndarray
    states: np.ndarray  # [H_cycles, B, L, D]


def shapes(config: dict) -> dict[str, tuple[int, ...]]:
    """Every tensor of the release's files."""
    width, inner, vocab = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    rows = config["num_attention_heads"] * config["head_dim"]
    tensors: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocab, width), "model.z_L_init": (width,)}
    for stack in ("L_module", "H_module"):
        for i in range(config["num_layers_per_stack"]):
            layer = f"model.{stack}.layers.{i}."
            tensors[layer + "attn.gqkv_proj.weight"] = (4 * rows, width)
            tensors[layer + "attn.o_proj.weight"] = (width, rows)
            tensors[layer + "mlp.gate_up_proj.weight"] = (2 * inner, width)
            tensors[layer + "mlp.down_proj.weight"] = (width, inner)
    if not config["tie_word_embeddings"]:
        tensors["lm_head.weight"] = (vocab, width)
    return tensors


def parameters(config: dict) -> int:
    """How many parameters; a tied matrix is in the files once."""
    return sum(int(np.prod(shape)) for shape in shapes(config).values())


def random_tensors(config: dict, seed: int) -> dict[str, np.ndarray]:
    """Float32 tensors of a scale at which each of them matters."""
    rng = np.random.default_rng(seed)
    return {
        name: (rng.normal(size=shape) / (1 if "init" in name else np.sqrt(shape[-1]))).astype(np.float32)
        for name, shape in shapes(config).items()
    }


def norm(x, eps):
    """R(x) = x / sqrt(mean x² + eps)."""
    return x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + eps)


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


def attention(config: dict, w, name: str, visible, x):
    """Attention of x [B, L, D] to what is visible [B, L, L], gated channel by channel."""
    heads, width = config["num_attention_heads"], config["head_dim"]
    base, positions = config["rope_parameters"]["rope_theta"], np.arange(x.shape[1])
    gate, q, k, v = np.split(x @ w[name + "gqkv_proj.weight"].T, 4, axis=-1)
    results = []
    for head in range(heads):
        here = slice(head * width, (head + 1) * width)
        query, key = (rotate(part[..., here], positions, base) for part in (q, k))
        scores = np.einsum("blk,bmk->blm", query, key) / np.sqrt(width)
        results.append(np.einsum("blm,bmk->blk", softmax(np.where(visible, scores, -np.inf)), v[..., here]))
    return (np.concatenate(results, axis=-1) * sigmoid(gate)) @ w[name + "o_proj.weight"].T


def feed_forward(w, name: str, x):
    """down(silu(gate x) ⊙ up x)."""
    gate, up = np.split(x @ w[name + "gate_up_proj.weight"].T, 2, axis=-1)
    return (gate * sigmoid(gate) * up) @ w[name + "down_proj.weight"].T


def forward(config: dict, tensors, tokens, *, loops: int | None = None, token_types=None) -> Output:
    """Run `loops` slow cycles (those of the config by default) over tokens [B, L]; those of type 1 see each other."""
    w = {name: value.astype(np.float64) for name, value in tensors.items()}
    eps, places = config["rms_norm_eps"], np.arange(tokens.shape[1])
    visible = np.broadcast_to(places[:, None] >= places, (*tokens.shape, len(places)))
    if token_types is not None and config["prefix_lm"]:
        first = token_types == 1
        visible = visible | (first[:, :, None] & first[:, None, :])

    def run(stack, x):
        for i in range(config["num_layers_per_stack"]):
            layer = f"model.{stack}.layers.{i}."
            x = x + attention(config, w, layer + "attn.", visible, norm(x, eps))
            x = x + feed_forward(w, layer + "mlp.", norm(x, eps))
        return norm(x, eps)

    high = w["model.embed_tokens.weight"][tokens] * config.get("embedding_scale", 1 / config["initializer_range"])
    low, states = np.broadcast_to(w["model.z_L_init"], high.shape), []
    for _ in range(config["H_cycles"] if loops is None else loops):
        for _ in range(config["L_cycles"]):
            low = run("L_module", low + high)
        high = run("H_module", high + low)
        states.append(high)
    head = w["model.embed_tokens.weight" if config["tie_word_embeddings"] else "lm_head.weight"]
    return Output(high @ head.T, np.stack(states))
