"""LoopFormer (Jeddi et al. 2026) in NumPy, a loop over loops and layers in float64. It shares nothing with other files.

    x = wte(tokens) + wpe(position)
    phi(z) = Linear(SiLU(Linear([cos(z f), sin(z f)]))), f_k = 10000^(-k/128), k = 0 .. 127
    c = phi_t(t) + phi_d(d);  t from 0 by d after each loop, sum d = 1
    ga, gm, sa, sm = Linear(SiLU c)             of each layer
    x <- x + ga ⊙ Attn(R(x) ⊙ (1 + sa))
    x <- x + gm ⊙ MLP(R(x) ⊙ (1 + sm))          R without weight; exact GELU; d does not multiply the update
    logits = wte norm_f(x)                      tied

Field names are those of the source (armenjeddi/loopformer, GPTConfig). The published folders put `gpt.` before every
name, store the tied matrix once, in bfloat16 (561 MB with the tokenizer), and call the class LoopFormerGPTForCausalLM.
Checkpoints of the source itself have no prefix, and the tied matrix twice: `source_tensors`.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

PREFIX = "gpt."
CONFIG = {
    "architectures": ["LoopFormerGPTForCausalLM"],
    "bias": False,
    "block_size": 16,
    "bos_token_id": 47,
    "dropout": 0.0,
    "eos_token_id": 47,
    "intermediate_dim": 20,
    "model_type": "loopformer",
    "n_embd": 24,
    "n_head": 3,
    "n_layer": 2,
    "pad_token_id": 47,
    "tie_word_embeddings": True,  # a guess
    "torch_dtype": "bfloat16",
    "vocab_size": 49,
}
RELEASED = {
    "armenjeddi/LoopFormer-3block-8iterations": CONFIG
    | {
        "block_size": 1024,
        "bos_token_id": 50256,
        "eos_token_id": 50256,
        "intermediate_dim": 5120,
        "n_embd": 2048,
        "n_head": 32,
        "n_layer": 3,
        "pad_token_id": 50256,
        "vocab_size": 50304,
    }
}
STEPS = (1 / 8,) * 8  # 8 loops, as the release was trained
# The source leaves its norms' eps to PyTorch: the distance from 1 to the next number of the type, here float32's.
EPS = 2.0**-23


class Output(NamedTuple):
    """What a forward pass gives: logits [B, L, V] and the state after every loop."""

    logits: np.ndarray
    states: np.ndarray  # [loops, B, L, D], not normed


def shapes(config: dict) -> dict[str, tuple[int, ...]]:
    """Every tensor of the release's files."""
    width, inner = config["n_embd"], config["intermediate_dim"]
    tensors: dict[str, tuple[int, ...]] = {
        "transformer.wte.weight": (config["vocab_size"], width),
        "transformer.wpe.weight": (config["block_size"], width),
        "transformer.norm_f.weight": (width,),
    }
    for embedder in ("time_embedder", "dt_embedder"):
        tensors[embedder + ".mlp.0.weight"] = (width, 256)
        tensors[embedder + ".mlp.0.bias"] = (width,)
        tensors[embedder + ".mlp.2.weight"] = (width, width)
        tensors[embedder + ".mlp.2.bias"] = (width,)
    for i in range(config["n_layer"]):
        layer = f"transformer.h.blocks.{i}."
        tensors[layer + "attn.c_attn.weight"] = (3 * width, width)
        tensors[layer + "attn.c_proj.weight"] = (width, width)
        tensors[layer + "mlp.c_fc.weight"] = (inner, width)
        tensors[layer + "mlp.c_proj.weight"] = (width, inner)
        tensors[layer + "adaLN_modulation.1.weight"] = (4 * width, width)
        tensors[layer + "adaLN_modulation.1.bias"] = (4 * width,)
    return {PREFIX + name: shape for name, shape in tensors.items()}


def parameters(config: dict) -> int:
    """How many parameters; the tied matrix is stored once."""
    return sum(int(np.prod(shape)) for shape in shapes(config).values())


def random_tensors(config: dict, seed: int) -> dict[str, np.ndarray]:
    """Float32 tensors of a scale at which each of them matters."""
    rng = np.random.default_rng(seed)
    tensors = {}
    for name, shape in shapes(config).items():
        value = rng.normal(size=shape)
        if "norm_f" in name:
            value = 1 + 0.1 * value
        elif name.endswith("bias"):
            value = 0.1 * value
        else:
            value = value / np.sqrt(shape[-1])
        tensors[name] = value.astype(np.float32)
    return tensors


def source_tensors(tensors) -> dict[str, np.ndarray]:
    """The same tensors as a checkpoint of the source names them."""
    bare = {name.removeprefix(PREFIX): value for name, value in tensors.items()}
    return bare | {"lm_head.weight": bare["transformer.wte.weight"].copy()}


def norm(x):
    """R(x) = x / sqrt(mean x² + eps), without weight."""
    return x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + EPS)


def silu(x):
    """SiLU: x · sigmoid(x)."""
    return x / (1 + np.exp(-x))


def gelu(x):
    """GELU: x · Phi(x), with the error function itself."""
    return x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2


def softmax(x):
    """Over the last axis."""
    x = np.exp(x - np.max(x, axis=-1, keepdims=True))
    return x / np.sum(x, axis=-1, keepdims=True)


def embedding(w, name: str, z: float):
    """phi(z) [D] of a time or a step."""
    angle = z * 10000.0 ** (-np.arange(128) / 128)
    waves = np.concatenate([np.cos(angle), np.sin(angle)])
    hidden = w[name + ".mlp.0.weight"] @ waves + w[name + ".mlp.0.bias"]
    return w[name + ".mlp.2.weight"] @ silu(hidden) + w[name + ".mlp.2.bias"]


def attention(config: dict, w, name: str, x):
    """Causal attention of x [B, L, D], without biases and without rotary."""
    heads, width = config["n_head"], config["n_embd"] // config["n_head"]
    positions = np.arange(x.shape[1])
    causal = positions[:, None] >= positions
    q, k, v = np.split(x @ w[name + "c_attn.weight"].T, 3, axis=-1)
    results = []
    for head in range(heads):
        here = slice(head * width, (head + 1) * width)
        scores = np.einsum("blk,bmk->blm", q[..., here], k[..., here]) / np.sqrt(width)
        weights = softmax(np.where(causal, scores, -np.inf))
        results.append(np.einsum("blm,bmk->blk", weights, v[..., here]))
    return np.concatenate(results, axis=-1) @ w[name + "c_proj.weight"].T


def feed_forward(w, name: str, x):
    """c_proj(gelu(c_fc x))."""
    return gelu(x @ w[name + "c_fc.weight"].T) @ w[name + "c_proj.weight"].T


def forward(config: dict, tensors, tokens, *, loops: int | None = None, steps: Sequence[float] | None = None) -> Output:
    """Run over tokens [B, L] with these step sizes, or with `loops` equal ones; eight by default.

    Raises:
        ValueError: the step sizes do not sum to 1.
    """
    w = {name.removeprefix(PREFIX): value.astype(np.float64) for name, value in tensors.items()}
    if steps is None:
        steps = STEPS if loops is None else [1 / loops] * loops
    if abs(sum(steps) - 1) > 1e-6:
        raise ValueError(f"steps = {list(steps)} sum to {sum(steps)}, not to 1")
    x = w["transformer.wte.weight"][tokens] + w["transformer.wpe.weight"][: tokens.shape[1]]
    states, t = [], 0.0
    for step in steps:
        c = embedding(w, "time_embedder", t) + embedding(w, "dt_embedder", step)
        for i in range(config["n_layer"]):
            layer = f"transformer.h.blocks.{i}."
            modulation = w[layer + "adaLN_modulation.1.weight"] @ silu(c) + w[layer + "adaLN_modulation.1.bias"]
            gate_attention, gate_mlp, scale_attention, scale_mlp = np.split(modulation, 4)
            x = x + gate_attention * attention(config, w, layer + "attn.", norm(x) * (1 + scale_attention))
            x = x + gate_mlp * feed_forward(w, layer + "mlp.", norm(x) * (1 + scale_mlp))
        t = t + step
        states.append(x)
    y = norm(x) * w["transformer.norm_f.weight"]
    return Output(y @ w["transformer.wte.weight"].T, np.stack(states))
