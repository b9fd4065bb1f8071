"""Huginn (Geiping et al. 2025, arXiv 2502.05171) and the models retrofitted into its frame (McLeish et al. 2025).

    e = prelude(c T[tokens]);  s <- core(W [s; e]), from noise;  logits = head(coda(s))

Every one of them calls itself a Huginn in config.json; the names of its tensors tell whose layers it has. Source of
fields and names: seal-rg/recurrent-pretraining (raven_config_minimal, raven_modeling_minimal), the conversions of
retrofitting-recurrence, and the tensors of tomg-group-umd/huginn-0125.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Literal

from jaxode.config import AttentionConfig, LoopConfig, ModelConfig, require
from jaxode.interop.families.family import Family, Fields, scales
from jaxode.interop.tensor_table import Copy, Pair, TensorTable, embedding, kernel, scale

Layers = Literal["huginn", "llama", "olmo"]
"""Whose layers stand in the frame."""
RULES: dict[str, Layers] = {"sum": "huginn", "pre": "llama", "branch": "olmo"}
"""By `model.norm_position`."""
TWO_NORMS = {"attention_norm": "norm_1", "feed_forward_norm": "norm_2"}
NORMS: dict[Layers, dict[str, str]] = {
    "huginn": {
        "attention_norm": "norm_1",
        "attention_output_norm": "norm_2",
        "feed_forward_norm": "norm_3",
        "feed_forward_output_norm": "norm_4",
    },
    "llama": TWO_NORMS,
    "olmo": TWO_NORMS | {"attention.query_norm": "attn.q_norm", "attention.key_norm": "attn.k_norm"},
}
SCALING = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")


def model(at: Fields) -> ModelConfig:
    """The frame is the same; a retrofit has the layers, rotations and final norm of the model that it was cut from."""
    at.only("nonlin_name", "SiLU")
    at.only("injection_type", "linear")
    at.only("state_init", "like-init")
    at.only("bias", False)
    at.only("test_time_noise", 0, 0.0)
    layers = _layers(at.names)
    width, heads = at.whole("n_embd"), at.whole("n_heads")
    at.only("head_dim", width // heads)
    huginn = layers == "huginn"
    biased = at.flag("qk_bias", huginn)
    require(huginn or not biased, f"{at.source}: qk_bias = true: only the layers of Huginn itself are read with it")
    kv_heads = at.whole("num_key_value_heads", heads)
    require(
        kv_heads == heads or not huginn,
        f"{at.source}: num_key_value_heads = {kv_heads}: Huginn's layers have as many as n_heads = {heads}",
    )
    initial = at.raw.get("init_values") or {}
    require(isinstance(initial, Mapping), f"{at.source}: init_values = {initial!r}: must be a table")
    values = Fields(initial, f"{at.source}: init_values")
    embedding_scale = values.number("embed_scale", math.sqrt(width))
    return at.model(
        # the tensors have the padded size
        vocab_size=at.whole("padded_vocab_size", at.whole("vocab_size")),
        width=width,
        heads=heads,
        kv_heads=kv_heads,
        ff_width=at.whole("intermediate_size"),
        length=at.whole("max_position_embeddings", at.whole("block_size")),
        steps=at.whole("mean_recurrence"),
        inner_blocks=at.whole("n_layers_in_recurrent_block"),
        prelude=at.whole("n_layers_in_prelude", least=0),
        coda=at.whole("n_layers_in_coda", least=0),
        norm="rms",
        norm_epsilon=at.number("norm_eps", 1e-6),
        norm_position=next(rule for rule, kind in RULES.items() if kind == layers),
        bias="query_key" if biased else "none",
        feed_forward="swiglu",
        rotary_base=_rotary_base(at, huginn),
        embedding_scale=embedding_scale,
        tied=at.flag("tie_embeddings", True),
        attention=AttentionConfig(
            norm="whole" if layers == "olmo" else "none",
            rotary_pairs="neighbours" if huginn else "halves",
            rotary_scaling=() if huginn else _rotary_scaling(at),
        ),
        loop=LoopConfig(
            start="noise",
            # initialised like the embedding, and multiplied like it
            start_size=embedding_scale * values.number("std", math.sqrt(2 / (5 * width))),
            injection="concat",
            exit_norm=huginn,
            schedule="unit",
        ),
    )


def fields(model: ModelConfig, raw: Mapping[str, Any]) -> dict[str, Any]:
    """config.json of a model of this form."""
    huginn = RULES[model.norm_position] == "huginn"
    length = "block_size" if huginn and "max_position_embeddings" not in raw else "max_position_embeddings"
    rotation = "rope_base" if huginn or "rope_theta" not in raw else "rope_theta"
    held = raw.get("init_values") or {"embed_scale": math.sqrt(model.width), "std": math.sqrt(2 / (5 * model.width))}
    initial = {"embed_scale": model.embedding_scale, "std": model.loop.start_size / model.embedding_scale}
    # what was multiplied and divided again need not be the same to the last bit
    changed = {name: value for name, value in initial.items() if not math.isclose(held.get(name, math.nan), value)}
    return ({"init_values": held | changed} if changed else {}) | {
        "architectures": ["RavenForCausalLM"],
        "vocab_size": raw.get("vocab_size", model.vocab_size),
        "padded_vocab_size": model.vocab_size,
        "n_embd": model.width,
        "n_heads": model.heads,
        "num_key_value_heads": model.num_kv_heads,
        "head_dim": model.head_width,
        "intermediate_size": model.hidden_width,
        length: model.length,
        "mean_recurrence": model.steps,
        "n_layers": model.prelude + model.inner_blocks + model.coda,
        "n_layers_in_prelude": model.prelude,
        "n_layers_in_recurrent_block": model.inner_blocks,
        "n_layers_in_coda": model.coda,
        "norm_eps": model.norm_epsilon,
        rotation: model.rotary_base,
        "qk_bias": model.bias == "query_key",
        "tie_embeddings": model.tied,
    }


def table(model: ModelConfig, names: Collection[str] = ()) -> TensorTable:
    """As released: the tied matrix twice, queries, keys and values in one, gate and up in one."""
    copies = (
        (Copy("lm_head.weight", "transformer.wte.weight", written=True, field="tie_embeddings"),) if model.tied else ()
    )
    # rotations that were computed beforehand
    return TensorTable(tuple(_pairs(model)), copies, ("freqs_cis", "*.rotary_emb.inv_freq"))


def _layers(names: Collection[str]) -> Layers:
    """OLMo's normalise queries, Huginn's have four norms."""
    if any(name.endswith(".attn.q_norm.weight") for name in names):
        return "olmo"
    return "huginn" if any(name.endswith(".norm_4.weight") for name in names) else "llama"


def _rotary_base(at: Fields, huginn: bool) -> float:
    """A retrofit's config is Huginn's with fields set: rope_base stays in it where rope_theta counts."""
    base = at.number("rope_base", 50_000.0)
    return base if huginn else at.number("rope_theta", base)


def _rotary_scaling(at: Fields) -> tuple[float, ...]:
    """None, or Llama 3's."""
    nested = at.raw.get("rope_scaling")
    if nested is None:
        return ()
    require(isinstance(nested, Mapping), f"{at.source}: rope_scaling = {nested!r}: must be a table, or null")
    scaling = Fields(nested, f"{at.source}: rope_scaling")
    scaling.only("rope_type", "llama3")
    return tuple(scaling.number(name) for name in SCALING)


def _pairs(model: ModelConfig) -> Iterator[Pair]:
    norms = NORMS[RULES[model.norm_position]]
    yield embedding("embedding.tokens", "transformer.wte")
    yield kernel("stack.loop.adapter", "transformer.adapter")
    for ours, theirs, count in (
        ("prelude", "prelude", model.prelude),
        ("looped", "core_block", model.inner_blocks),
        ("coda", "coda", model.coda),
    ):
        for index in range(count):
            block, layer = f"stack.{ours}.{index}", f"transformer.{theirs}.{index}"
            yield kernel(f"{block}.attention.qkv", f"{layer}.attn.Wqkv")
            yield kernel(f"{block}.attention.output", f"{layer}.attn.proj")
            yield kernel(f"{block}.feed_forward.inner", f"{layer}.mlp.fc")
            yield kernel(f"{block}.feed_forward.output", f"{layer}.mlp.proj")
            yield from scales(block, layer, norms)
            if model.bias == "query_key":
                shape = (2, 1, model.heads, model.head_width)
                yield Pair(f"{block}.attention.query_key_bias", (f"{layer}.attn.qk_bias",), shape=shape)
    yield scale("head.norm", "transformer.ln_f")
    if not model.tied:
        yield kernel("head.own", "lm_head")


HUGINN = Family("huginn_raven", model, fields, table)
