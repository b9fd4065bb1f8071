"""Huginn (Geiping et al. 2025) in NumPy, a loop over loops and layers in float64. It shares nothing with other files.

    x <- n2(x + Attn(n1 x));  x <- n4(x + MLP(n3 x))    a layer: norm of the sum
    e = Prelude(sqrt(D) wte(tokens))                    not normed
    s <- Core(W_a [s; e])                               a loop
    y = ln_f(s);  y = Coda(y);  y = ln_f(y)             the same weight twice
    logits = wte y                                      tied

Field and tensor names are those of seal-rg/recurrent-pretraining (raven_config_minimal, raven_modeling_minimal). The
files hold the tied matrix twice and a table of rotations, `freqs_cis`: 3,911,400,096 numbers in all.
"""

from typing import NamedTuple

import numpy as np

CONFIG = {
    "activation_checkpoint_impl": "per-iteration",
    "architecture_class_name": "RecurrentGPT",
    "architectures": ["RavenForCausalLM"],
    "auto_map": {
        "AutoConfig": "raven_config_minimal.RavenConfig",
        "AutoModelForCausalLM": "raven_modeling_minimal.RavenForCausalLM",
    },
    "bias": False,
    "block_class_name": "SandwichBlock",
    "block_size": 24,
    "bos_token_id": 41,
    "eos_token_id": 42,
    "head_dim": 6,
    "init_orthogonal": False,
    "init_strategy": "takase",
    "injection_type": "linear",
    "intermediate_size": 20,
    "mean_backprop_depth": 8,
    "mean_recurrence": 3,
    "mlp_class_name": "GatedMLP",
    "model_type": "huginn_raven",
    "n_embd": 24,
    "n_heads": 4,
    "n_layers": 6,
    "n_layers_in_coda": 1,
    "n_layers_in_prelude": 2,
    "n_layers_in_recurrent_block": 3,
    "nonlin_name": "SiLU",
    "norm_class_name": "RMSNorm_llama",
    "norm_eps": 1e-6,
    "num_key_value_heads": 4,
    "pad_token_id": 43,
    "padded_vocab_size": 47,
    "padding_multiple": 47,
    "qk_bias": True,
    "rope_base": 500,
    "sampling_scheme": "poisson-lognormal-filling",
    "state_init": "like-init",
    "test_time_noise": 0,
    "test_time_noise_type": "fixed",
    "tie_embeddings": True,
    "tie_word_embeddings": True,
    "torch_dtype": "float32",
    "vocab_size": 47,
}
RELEASED = {
    "tomg-group-umd/huginn-0125": CONFIG
    | {
        "block_size": 4096,
        "bos_token_id": 65504,
        "eos_token_id": 65505,
        "head_dim": 96,
        "intermediate_size": 17920,
        "mean_recurrence": 32,
        "n_embd": 5280,
        "n_heads": 55,
        "n_layers": 8,
        "n_layers_in_coda": 2,
        "n_layers_in_prelude": 2,
        "n_layers_in_recurrent_block": 4,
        "num_key_value_heads": 55,
        "pad_token_id": 65509,
        "padded_vocab_size": 65536,
        "padding_multiple": 4096,
        "rope_base": 50000,
        "vocab_size": 65536,
    }
}


class Output(NamedTuple):
    """What a forward pass gives: logits [B, L, V], the input e [B, L, D] and the state after every loop."""

    logits: np.ndarray
    states: np.ndarray  # [loops, B, L, D], not normed
    input: np.ndarray


def shapes(config: dict) -> dict[str, tuple[int, ...]]:
    """Every tensor of the release's files."""
    width, inner, vocab = config["n_embd"], config["intermediate_size"], config["vocab_size"]
    heads, head_width = config["n_heads"], config["n_embd"] // config["n_heads"]
    tensors: dict[str, tuple[int, ...]] = {
        "freqs_cis": (1, config["block_size"], 1, head_width // 2, 2),  # a buffer
        "transformer.wte.weight": (vocab, width),
        "transformer.adapter.weight": (width, 2 * width),
        "transformer.ln_f.weight": (width,),
        "lm_head.weight": (vocab, width),  # wte again
    }
    for part, layers in (
        ("prelude", config["n_layers_in_prelude"]),
        ("core_block", config["n_layers_in_recurrent_block"]),
        ("coda", config["n_layers_in_coda"]),
    ):
        for i in range(layers):
            layer = f"transformer.{part}.{i}."
            tensors[layer + "attn.Wqkv.weight"] = (3 * width, width)
            if config["qk_bias"]:
                tensors[layer + "attn.qk_bias"] = (2, 1, heads, head_width)
            tensors[layer + "attn.proj.weight"] = (width, width)
            tensors[layer + "mlp.fc.weight"] = (2 * inner, width)
            tensors[layer + "mlp.proj.weight"] = (width, inner)
            for number in (1, 2, 3, 4):
                tensors[layer + f"norm_{number}.weight"] = (width,)
    return tensors


def parameters(config: dict) -> int:
    """How many parameters, the tied matrix counted once."""
    stored = sum(int(np.prod(shape)) for name, shape in shapes(config).items() if name != "freqs_cis")
    return stored - config["vocab_size"] * config["n_embd"]


def random_tensors(config: dict, seed: int) -> dict[str, np.ndarray]:
    """Float32 tensors of a scale at which each of them matters."""
    rng = np.random.default_rng(seed)
    tensors = {}
    for name, shape in shapes(config).items():
        value = rng.normal(size=shape)
        if "norm" in name or "ln_f" in name:
            value = 1 + 0.1 * value
        elif name.endswith("bias"):
            value = 0.1 * value
        else:
            value = value / np.sqrt(shape[-1])
        tensors[name] = value.astype(np.float32)
    angle = np.arange(config["block_size"])[:, None] * frequencies(config)
    tensors["freqs_cis"] = np.stack([np.cos(angle), np.sin(angle)], axis=-1)[None, :, None].astype(np.float32)
    tensors["lm_head.weight"] = tensors["transformer.wte.weight"].copy()
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


def frequencies(config: dict):
    """base^(-2i / K), i = 0 .. K/2 - 1."""
    width = config["n_embd"] // config["n_heads"]
    return config["rope_base"] ** (-np.arange(0, width, 2) / width)


def rotate(x, positions, frequencies):
    """Interleaved rotary of x [..., L, K]: the neighbours 2i and 2i + 1 turn by position · frequency i."""
    angle = positions[:, None] * frequencies
    even, odd = x[..., 0::2], x[..., 1::2]
    turned = np.empty_like(x)
    turned[..., 0::2] = even * np.cos(angle) - odd * np.sin(angle)
    turned[..., 1::2] = odd * np.cos(angle) + even * np.sin(angle)
    return turned


def attention(config: dict, w, name: str, x):
    """Causal attention of x [B, L, D]; biases go onto q and k before they turn."""
    heads, width = config["n_heads"], config["n_embd"] // config["n_heads"]
    positions = np.arange(x.shape[1])
    causal = positions[:, None] >= positions
    q, k, v = np.split(x @ w[name + "Wqkv.weight"].T, 3, axis=-1)
    results = []
    for head in range(heads):
        here = slice(head * width, (head + 1) * width)
        query, key = q[..., here], k[..., here]
        if config["qk_bias"]:
            query = query + w[name + "qk_bias"][0, 0, head]
            key = key + w[name + "qk_bias"][1, 0, head]
        query = rotate(query, positions, frequencies(config))
        key = rotate(key, positions, frequencies(config))
        scores = np.einsum("blk,bmk->blm", query, key) / np.sqrt(width)
        weights = softmax(np.where(causal, scores, -np.inf))
        results.append(np.einsum("blm,bmk->blk", weights, v[..., here]))
    return np.concatenate(results, axis=-1) @ w[name + "proj.weight"].T


def feed_forward(w, name: str, x):
    """proj(silu(gate) ⊙ up), [gate; up] = fc x."""
    gate, up = np.split(x @ w[name + "fc.weight"].T, 2, axis=-1)
    return (silu(gate) * up) @ w[name + "proj.weight"].T


def run(config: dict, w, part: str, layers: int, x):
    """The layers of a part, one after the other."""
    eps = config["norm_eps"]
    for i in range(layers):
        layer = f"transformer.{part}.{i}."
        branch = attention(config, w, layer + "attn.", norm(x, w[layer + "norm_1.weight"], eps))
        x = norm(x + branch, w[layer + "norm_2.weight"], eps)
        branch = feed_forward(w, layer + "mlp.", norm(x, w[layer + "norm_3.weight"], eps))
        x = norm(x + branch, w[layer + "norm_4.weight"], eps)
    return x


def forward(config: dict, tensors, tokens, *, loops: int | None = None, s0=None) -> Output:
    """Run `loops` loops (those of the config by default) over tokens [B, L], from the state s0 [B, L, D] or zeros."""
    w = {name: value.astype(np.float64) for name, value in tensors.items()}
    eps = config["norm_eps"]
    x0 = np.sqrt(config["n_embd"]) * w["transformer.wte.weight"][tokens]
    e = run(config, w, "prelude", config["n_layers_in_prelude"], x0)
    s = np.zeros_like(e) if s0 is None else s0
    states = []
    for _ in range(config["mean_recurrence"] if loops is None else loops):
        s = np.concatenate([s, e], axis=-1) @ w["transformer.adapter.weight"].T
        s = run(config, w, "core_block", config["n_layers_in_recurrent_block"], s)
        states.append(s)
    y = norm(s, w["transformer.ln_f.weight"], eps)
    y = run(config, w, "coda", config["n_layers_in_coda"], y)
    y = norm(y, w["transformer.ln_f.weight"], eps)
    return Output(y @ w["transformer.wte.weight"].T, np.stack(states), e)
