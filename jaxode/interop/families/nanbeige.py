"""Nanbeige 4.2: Llama's layers, looped, with the final norm after every loop or after the last alone.

Source of fields and names: the released config.json and tensors of Nanbeige/Nanbeige4.2-3B, and its ports in mlx-lm and
sglang.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from jaxode.config import AttentionConfig, LoopConfig, ModelConfig, require
from jaxode.interop.families.family import Family, Fields, llama_attention, llama_feed_forward, scales
from jaxode.interop.tensor_table import Copy, Pair, TensorTable, embedding, kernel, scale

NORMS = {"attention_norm": "input_layernorm", "feed_forward_norm": "post_attention_layernorm"}
FEATURES = (
    "attention_bias",
    "mlp_bias",
    "qk_layernorm",
    "emb_neighbor_num",
    "insert_ngram_layer_idx",
    "ngram_insert_all_layers",
    "enable_double_loop_split",
    "loop_share_kv",
    "enable_hyper_connection",
    "enable_mhc",
    "enable_depth_attention",
)
"""Of its code, off in the release."""


def model(at: Fields) -> ModelConfig:
    """X <- norm(layers(x)), T times; or x <- layers(x), and the norm before the head."""
    at.only("hidden_act", "silu")
    at.only("pretraining_tp", 1)
    for name in FEATURES:
        value = at.raw.get(name)
        require(not value, f"{at.source}: {name} = {value!r}: not read; only models without it are")
    heads, width = at.whole("num_attention_heads"), at.whole("hidden_size")
    return at.model(
        vocab_size=at.whole("vocab_size"),
        width=width,
        heads=heads,
        kv_heads=at.whole("num_key_value_heads", heads),
        ff_width=at.whole("intermediate_size"),
        length=at.whole("max_position_embeddings", 262144),
        steps=_loops(at),
        inner_blocks=at.whole("num_hidden_layers"),
        norm="rms",
        norm_epsilon=at.number("rms_norm_eps", 1e-5),
        bias="none",
        feed_forward="swiglu",
        rotary_base=at.rotary_base(10_000.0),
        tied=at.flag("tie_word_embeddings", False),
        attention=AttentionConfig(
            head_width=at.whole("head_dim", at.whole("kv_channels", width // heads)), rotary_rounded=True
        ),
        loop=LoopConfig(boundary="none" if at.flag("skip_loop_final_norm", False) else "norm", schedule="unit"),
    )


def fields(model: ModelConfig, raw: Mapping[str, Any]) -> dict[str, Any]:
    """config.json of a model of this form."""
    weights = raw.get("loop_loss_weights") or []
    # these weights count the loops; num_loops beside them says nothing
    counted = bool(weights) and len(weights) + 1 == model.steps
    loops = {} if counted else {"num_loops": model.steps, "loop_loss_weights": []}
    return loops | {
        "architectures": ["NanbeigeForCausalLM"],
        "vocab_size": model.vocab_size,
        "hidden_size": model.width,
        "num_attention_heads": model.heads,
        "num_key_value_heads": model.num_kv_heads,
        "head_dim": model.head_width,
        "intermediate_size": model.hidden_width,
        "max_position_embeddings": model.length,
        "num_hidden_layers": model.inner_blocks,
        "skip_loop_final_norm": model.loop.boundary == "none",
        "hidden_act": "silu",
        "rms_norm_eps": model.norm_epsilon,
        "rope_theta": model.rotary_base,
        "tie_word_embeddings": model.tied,
    }


def table(model: ModelConfig, names: Collection[str] = ()) -> TensorTable:
    """As released: Llama's names."""
    copies = (Copy("lm_head.weight", "model.embed_tokens.weight"),) if model.tied else ()
    return TensorTable(tuple(_pairs(model)), copies, ("*.rotary_emb.inv_freq",))


def _loops(at: Fields) -> int:
    """One more than losses of earlier loops have weights, where they have some."""
    weights = at.raw.get("loop_loss_weights") or []
    require(
        isinstance(weights, list), f"{at.source}: loop_loss_weights = {weights!r}: must be a list of numbers, or empty"
    )
    return len(weights) + 1 if weights else at.whole("num_loops", 1)


def _pairs(model: ModelConfig) -> Iterator[Pair]:
    yield embedding("embedding.tokens", "model.embed_tokens")
    for index in range(model.inner_blocks):
        block, layer = f"stack.looped.{index}", f"model.layers.{index}"
        yield from llama_attention(f"{block}.attention", f"{layer}.self_attn", model)
        yield from llama_feed_forward(f"{block}.feed_forward", f"{layer}.mlp")
        yield from scales(block, layer, NORMS)
    yield scale("head.norm" if model.loop.boundary == "none" else "stack.loop.norm", "model.norm")
    if not model.tied:
        yield kernel("head.own", "lm_head")


NANBEIGE = Family("nanbeige", model, fields, table)
