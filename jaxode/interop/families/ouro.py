"""Ouro (ByteDance, arXiv 2510.25741): one stack of sandwich-norm layers, looped, with a gate that says when to leave.

Source of fields and names: the released config.json, configuration_ouro.py and tensors of ByteDance/Ouro-1.4B.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from jaxode.config import AttentionConfig, LoopConfig, ModelConfig
from jaxode.interop.families.family import Family, Fields, llama_attention, llama_feed_forward, scales
from jaxode.interop.tensor_table import Copy, Pair, TensorTable, bias, embedding, kernel, scale

NORMS = {
    "attention_norm": "input_layernorm",
    "attention_output_norm": "input_layernorm_2",
    "feed_forward_norm": "post_attention_layernorm",
    "feed_forward_output_norm": "post_attention_layernorm_2",
}


def model(at: Fields) -> ModelConfig:
    """X <- norm(layers(x)), T times; the head reads the last one."""
    at.only("hidden_act", "silu")
    at.only("use_sliding_window", False)
    heads = at.whole("num_attention_heads")
    return at.model(
        vocab_size=at.whole("vocab_size"),
        width=at.whole("hidden_size"),
        heads=heads,
        kv_heads=at.whole("num_key_value_heads", heads),
        ff_width=at.whole("intermediate_size"),
        length=at.whole("max_position_embeddings", 65536),
        steps=at.whole("total_ut_steps", 4),
        inner_blocks=at.whole("num_hidden_layers"),
        norm="rms",
        norm_epsilon=at.number("rms_norm_eps", 1e-6),
        norm_position="sandwich",
        bias="none",
        feed_forward="swiglu",
        rotary_base=at.rotary_base(1e6),
        tied=at.flag("tie_word_embeddings", False),
        attention=AttentionConfig(head_width=at.whole("head_dim", at.whole("hidden_size") // heads)),
        loop=LoopConfig(boundary="norm", exit_gate=True, schedule="unit"),
    )


def fields(model: ModelConfig, raw: Mapping[str, Any]) -> dict[str, Any]:
    """config.json of a model of this form."""
    return {
        "architectures": ["OuroForCausalLM"],
        "vocab_size": model.vocab_size,
        "hidden_size": model.width,
        "num_attention_heads": model.heads,
        "num_key_value_heads": model.num_kv_heads,
        "head_dim": model.head_width,
        "intermediate_size": model.hidden_width,
        "max_position_embeddings": model.length,
        "total_ut_steps": model.steps,
        "num_hidden_layers": model.inner_blocks,
        "hidden_act": "silu",
        "rms_norm_eps": model.norm_epsilon,
        "rope_theta": model.rotary_base,
        "tie_word_embeddings": model.tied,
        "early_exit_threshold": raw.get("early_exit_threshold", 1.0),
    }


def table(model: ModelConfig, names: Collection[str] = ()) -> TensorTable:
    """As released: queries, keys and values apart, gate and up apart."""
    copies = (Copy("lm_head.weight", "model.embed_tokens.weight"),) if model.tied else ()
    return TensorTable(tuple(_pairs(model)), copies, ("*.rotary_emb.inv_freq",))


def _pairs(model: ModelConfig) -> Iterator[Pair]:
    yield embedding("embedding.tokens", "model.embed_tokens")
    for index in range(model.inner_blocks):
        block, layer = f"stack.looped.{index}", f"model.layers.{index}"
        yield from llama_attention(f"{block}.attention", f"{layer}.self_attn", model)
        yield from llama_feed_forward(f"{block}.feed_forward", f"{layer}.mlp")
        yield from scales(block, layer, NORMS)
    yield scale("stack.loop.norm", "model.norm")
    yield kernel("stack.exit_gate", "model.early_exit_gate")
    yield bias("stack.exit_gate", "model.early_exit_gate")
    if not model.tied:
        yield kernel("head.own", "lm_head")


OURO = Family("ouro", model, fields, table)
