"""Recurrent-Llama and -TinyLlama (McLeish et al. 2025) in NumPy, in float64. It shares nothing with other files.

    x <- x + Attn(n1 x);  x <- x + MLP(n2 x)    a layer, as Llama's
    e = Prelude(c wte(tokens))                  c = init_values.embed_scale, which the conversion sets to 1
    s <- Core(W_a [s; e])                       a loop
    logits = lm_head ln_f(Coda(s))              ln_f once: with W_a = [0, I] a loop is the Llama it was cut from

The frame is Huginn's but for c and for ln_f before the coda. Names, fields and both exceptions are those of the
published conversion (retrofitting-recurrence: convert_llama, raven_modeling_minimal_llama). It starts from Huginn's
config.json and sets fields, so that model_type and the *_class_name fields still say Huginn, whose layers have
norm_3 and norm_4 as well; rope_base is left over, rope_theta and rope_scaling count.
"""

from typing import NamedTuple

import numpy as np

CONFIG = {
    "activation_checkpoint_impl": "per-iteration",
    "architecture_class_name": "RecurrentGPT",
    "architectures": ["RavenForCausalLM"],
    "auto_map": {
        "AutoConfig": "raven_config_minimal.RavenConfig",
        "AutoModelForCausalLM": "raven_modeling_minimal.RavenForCausalLM",  # the file's name is a guess
    },
    "bias": False,
    "block_class_name": "SandwichBlock",
    "block_size": 4096,
    "bos_token_id": 65504,  # Huginn's, beyond this vocabulary
    "eos_token_id": 65505,
    "head_dim": 6,
    "init_orthogonal": False,
    "init_strategy": "takase",
    "init_values": {"embed_scale": 1.0, "embedding": 0.0087, "out_proj": 0.00054, "std": 0.0087},
    "injection_type": "linear",
    "intermediate_size": 28,
    "max_position_embeddings": 64,
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
    "norm_eps": 1e-5,
    "num_key_value_heads": 2,
    "pad_token_id": 65509,
    "padded_vocab_size": 45,
    "padding_multiple": 4096,
    "qk_bias": False,
    "rope_base": 500000.0,
    "rope_scaling": {
        "factor": 32.0,
        "high_freq_factor": 4.0,
        "low_freq_factor": 1.0,
        "original_max_position_embeddings": 128,
        "rope_type": "llama3",
    },
    "rope_theta": 1000.0,
    "sampling_scheme": "poisson-lognormal-filling",
    "state_init": "like-init",
    "test_time_noise": 0,
    "test_time_noise_type": "fixed",
    "tie_embeddings": False,
    "torch_dtype": "bfloat16",
    "vocab_size": 45,
}
RELEASED = {
    # Llama-3.2-1B's numbers, cut 4 / 6 / 4
    "smcleish/Recurrent-Llama-3.2-train-recurrence-32": CONFIG
    | {
        "head_dim": 64,
        "intermediate_size": 8192,
        "max_position_embeddings": 131072,
        "mean_recurrence": 32,
        "n_embd": 2048,
        "n_heads": 32,
        "n_layers": 14,
        "n_layers_in_coda": 4,
        "n_layers_in_prelude": 4,
        "n_layers_in_recurrent_block": 6,
        "num_key_value_heads": 8,
        "padded_vocab_size": 128256,
        "rope_scaling": CONFIG["rope_scaling"] | {"original_max_position_embeddings": 8192},
        "rope_theta": 500000.0,
        "vocab_size": 128256,
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
    fused = (config["n_heads"] + 2 * config["num_key_value_heads"]) * (width // config["n_heads"])
    tensors: dict[str, tuple[int, ...]] = {
        "transformer.wte.weight": (vocab, width),
        "transformer.adapter.weight": (width, 2 * width),
        "transformer.ln_f.weight": (width,),
        "lm_head.weight": (vocab, width),  # apart from wte, also where the Llama's were tied
    }
    for part, layers in (
        ("prelude", config["n_layers_in_prelude"]),
        ("core_block", config["n_layers_in_recurrent_block"]),
        ("coda", config["n_layers_in_coda"]),
    ):
        for i in range(layers):
            layer = f"transformer.{part}.{i}."
            tensors[layer + "attn.Wqkv.weight"] = (fused, width)
            tensors[layer + "attn.proj.weight"] = (width, width)
            tensors[layer + "mlp.fc.weight"] = (2 * inner, width)
            tensors[layer + "mlp.proj.weight"] = (width, inner)
            tensors[layer + "norm_1.weight"] = (width,)
            tensors[layer + "norm_2.weight"] = (width,)
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
        value = 1 + 0.1 * value if "norm" in name or "ln_f" in name else value / np.sqrt(shape[-1])
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


def frequencies(config: dict):
    """theta^(-2i / K), i = 0 .. K/2 - 1, the slow ones divided by a factor where rope_scaling says so (Llama 3)."""
    width = config["n_embd"] // config["n_heads"]
    values = config["rope_theta"] ** (-np.arange(0, width, 2) / width)
    scaling = config.get("rope_scaling")
    if scaling is None:
        return values
    scaled = []
    for value in values:
        turns = scaling["original_max_position_embeddings"] * value / (2 * np.pi)  # over the original length
        fast = (turns - scaling["low_freq_factor"]) / (scaling["high_freq_factor"] - scaling["low_freq_factor"])
        fast = min(max(fast, 0.0), 1.0)
        scaled.append(fast * value + (1 - fast) * value / scaling["factor"])
    return np.array(scaled)


def rotate(x, positions, frequencies):
    """Half-split rotary of x [..., L, K]: channels i and i + K/2 turn by position · frequency i."""
    angle = positions[:, None] * frequencies
    first, second = np.split(x, 2, axis=-1)
    return np.concatenate(
        [first * np.cos(angle) - second * np.sin(angle), second * np.cos(angle) + first * np.sin(angle)], axis=-1
    )


def attention(config: dict, w, name: str, x):
    """Causal attention of x [B, L, D], without biases; query heads share key heads in groups."""
    heads, key_heads, width = config["n_heads"], config["num_key_value_heads"], config["n_embd"] // config["n_heads"]
    positions = np.arange(x.shape[1])
    causal = positions[:, None] >= positions
    qkv = x @ w[name + "Wqkv.weight"].T
    q, k, v = np.split(qkv, [heads * width, (heads + key_heads) * width], axis=-1)
    results = []
    for head in range(heads):
        key_head = head // (heads // key_heads)
        here, there = slice(head * width, (head + 1) * width), slice(key_head * width, (key_head + 1) * width)
        query = rotate(q[..., here], positions, frequencies(config))
        key = rotate(k[..., there], positions, frequencies(config))
        scores = np.einsum("blk,bmk->blm", query, key) / np.sqrt(width)
        weights = softmax(np.where(causal, scores, -np.inf))
        results.append(np.einsum("blm,bmk->blk", weights, v[..., there]))
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
        x = x + attention(config, w, layer + "attn.", norm(x, w[layer + "norm_1.weight"], eps))
        x = x + feed_forward(w, layer + "mlp.", norm(x, w[layer + "norm_2.weight"], eps))
    return x


def forward(config: dict, tensors, tokens, *, loops: int | None = None, s0=None) -> Output:
    """Run `loops` loops (those of the config by default) over tokens [B, L], from the state s0 [B, L, D] or zeros."""
    w = {name: value.astype(np.float64) for name, value in tensors.items()}
    x0 = config["init_values"]["embed_scale"] * w["transformer.wte.weight"][tokens]
    e = run(config, w, "prelude", config["n_layers_in_prelude"], x0)
    s = np.zeros_like(e) if s0 is None else s0
    states = []
    for _ in range(config["mean_recurrence"] if loops is None else loops):
        s = np.concatenate([s, e], axis=-1) @ w["transformer.adapter.weight"].T
        s = run(config, w, "core_block", config["n_layers_in_recurrent_block"], s)
        states.append(s)
    y = run(config, w, "coda", config["n_layers_in_coda"], s)
    y = norm(y, w["transformer.ln_f.weight"], config["norm_eps"])
    return Output(y @ w["lm_head.weight"].T, np.stack(states), e)
