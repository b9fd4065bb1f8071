"""HRM-Text (Sapient 2026): two stacks of gated pre-norm layers that run at two speeds.

Source of fields and names: HrmTextConfig and the conversion of the released tensors in transformers 5.24. Each stack
has `num_layers_per_stack` layers; `num_hidden_layers` counts every application of a layer.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from jaxode.config import AttentionConfig, LoopConfig, ModelConfig, require
from jaxode.interop.families.family import Family, Fields, llama_attention, llama_feed_forward
from jaxode.interop.tensor_table import Copy, Pair, Rows, TensorTable, embedding, kernel

STACKS = ("L_module", "H_module")
"""As blocks of the loop lie: those that run often first."""


def model(at: Fields) -> ModelConfig:
    """H times: z_L <- norm(L(z_L + z_H)), L times, then z_H <- norm(H(z_H + z_L)); the head reads z_H."""
    for name in ("attention_bias", "mlp_bias"):
        at.only(name, False)
    at.only("hidden_act", "silu")
    heads, width = at.whole("num_attention_heads"), at.whole("hidden_size")
    at.only("num_key_value_heads", None, heads)
    cycles, low = at.whole("H_cycles", 2), at.whole("L_cycles", 3)
    blocks, layers = at.whole("num_layers_per_stack", at.whole("num_hidden_layers")), at.whole("num_hidden_layers")
    applications = blocks * cycles * (low + 1)
    require(
        layers in (blocks, applications),
        f"{at.source}: num_hidden_layers = {layers}: must be num_layers_per_stack = {blocks} times H_cycles times "
        f"(L_cycles + 1) = {applications}",
    )
    return at.model(
        vocab_size=at.whole("vocab_size"),
        width=width,
        heads=heads,
        ff_width=at.whole("intermediate_size"),
        length=at.whole("max_position_embeddings", 2048),
        steps=cycles,
        inner_blocks=blocks,
        norm="rms_plain",
        norm_epsilon=at.number("rms_norm_eps", 1e-6),
        norm_position="pre",
        bias="none",
        feed_forward="swiglu",
        rotary_base=at.rotary_base(1e4),
        tied=at.flag("tie_word_embeddings", False),
        embedding_scale=at.number("embedding_scale", 1.0 / at.number("initializer_range", 0.02)),
        attention=AttentionConfig(head_width=at.whole("head_dim", 128), gate=True, prefix=at.flag("prefix_lm", True)),
        loop=LoopConfig(boundary="norm", low_cycles=low, schedule="unit"),
    )


def fields(model: ModelConfig, raw: Mapping[str, Any]) -> dict[str, Any]:
    """config.json of a model of this form."""
    base = {"rope_type": "default", "rope_theta": model.rotary_base}
    return {
        "architectures": ["HrmTextForCausalLM"],
        "vocab_size": model.vocab_size,
        "hidden_size": model.width,
        "intermediate_size": model.hidden_width,
        "num_hidden_layers": model.inner_blocks * model.steps * (model.loop.low_cycles + 1),
        "num_layers_per_stack": model.inner_blocks,
        "num_attention_heads": model.heads,
        "head_dim": model.head_width,
        "hidden_act": "silu",
        "max_position_embeddings": model.length,
        "rms_norm_eps": model.norm_epsilon,
        "rope_parameters": dict(raw.get("rope_parameters") or {}) | base,
        "tie_word_embeddings": model.tied,
        "H_cycles": model.steps,
        "L_cycles": model.loop.low_cycles,
        "embedding_scale": model.embedding_scale,
        "prefix_lm": model.attention.prefix,
    }


def table(model: ModelConfig, names: Collection[str] = ()) -> TensorTable:
    """As released (gate, queries, keys, values fused), or apart, as transformers keeps them; to write, as released."""
    apart = any(".self_attn." in name for name in names)
    copies = (Copy("lm_head.weight", "model.embed_tokens.weight"),) if model.tied else ()
    return TensorTable(tuple(_pairs(model, apart)), copies)


def _pairs(model: ModelConfig, apart: bool) -> Iterator[Pair]:
    yield embedding("embedding.tokens", "model.embed_tokens")
    yield Pair("stack.start.low", ("model.z_L_init",))
    for index in range(2 * model.inner_blocks):
        stack, place = divmod(index, model.inner_blocks)
        block, layer = f"stack.looped.{index}", f"model.{STACKS[stack]}.layers.{place}"
        if apart:
            yield from llama_attention(f"{block}.attention", f"{layer}.self_attn", model, gate="gate_proj")
            yield from llama_feed_forward(f"{block}.feed_forward", f"{layer}.mlp")
        else:
            yield from _fused(block, layer, model.heads * model.head_width)
    if not model.tied:
        yield kernel("head.own", "lm_head")


def _fused(block: str, layer: str, rows: int) -> Iterator[Pair]:
    """[gate; q; k; v] and [gate; up]; the gate comes last here."""
    name = f"{layer}.attn.gqkv_proj"
    parts = (Rows(name, rows), Rows(name, 2 * rows), Rows(name, 3 * rows), Rows(name, 0))
    yield kernel(f"{block}.attention.qkv", *parts)
    yield kernel(f"{block}.attention.output", f"{layer}.attn.o_proj")
    yield kernel(f"{block}.feed_forward.inner", f"{layer}.mlp.gate_up_proj")
    yield kernel(f"{block}.feed_forward.output", f"{layer}.mlp.down_proj")


HRM_TEXT = Family("hrm_text", model, fields, table)
