"""Dory (NVIDIA Nemotron Labs 2026): nGPT layers on the unit sphere, the middle ones looped; most have a window.

Source of fields and names: DoryConfig and the conversion of the released tensors in transformers 5.24. Files count
attention and feed-forward as layers of their own, one after the other; a block here is such a pair.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from jaxode.config import AttentionConfig, LoopConfig, ModelConfig, SphereConfig, require
from jaxode.config.fields import MOST_STEPS
from jaxode.interop.families.family import Family, Fields, llama_attention, llama_feed_forward
from jaxode.interop.tensor_table import Copy, Pair, TensorTable, embedding, kernel

WINDOW, FULL, FEED_FORWARD = "sliding_attention", "full_attention", "mlp"
ROTARY_BASES = {WINDOW: 1e4, FULL: 1e7}
CACHES: dict[str, Literal["loop", "last"]] = {"per_loop": "loop", "last_loop": "last"}
"""`recurrent_kv_cache_mode`, and what it is called here."""


@dataclass(frozen=True)
class Names:
    """Of tensors: the release counts two layers a block, transformers keeps its other names and counts one."""

    top: str
    """backbone, or model: transformers in memory."""
    pairs: bool
    """Whether attention and feed-forward are of one layer."""

    @property
    def embedding(self) -> str:
        """Of tokens."""
        return f"{self.top}.{'embeddings' if self.top == 'backbone' else 'embed_tokens'}"

    @property
    def gate(self) -> str:
        """The projection of the attention's gate."""
        return "g_proj" if self.top == "backbone" else "gate_proj"

    def attention(self, block: int) -> tuple[str, str]:
        """Of a block's attention, and of its rate."""
        layer = f"{self.top}.layers.{block if self.pairs else 2 * block}"
        return (f"{layer}.self_attn", f"{layer}.lambda_1") if self.pairs else (f"{layer}.mixer", f"{layer}.attn_alpha")

    def feed_forward(self, block: int) -> tuple[str, str]:
        """Of a block's feed-forward, and of its rate."""
        layer = f"{self.top}.layers.{block if self.pairs else 2 * block + 1}"
        return (f"{layer}.mlp", f"{layer}.lambda_2") if self.pairs else (f"{layer}.mixer", f"{layer}.mlp_alpha")


def model(at: Fields) -> ModelConfig:
    """Prelude, then x <- layers(U(x) + U(prelude's result)), T times, then coda."""
    for name in ("attention_bias", "mlp_bias"):
        at.only(name, False)
    at.only("hidden_act", "silu")
    at.only("recurrent_kv_cache_mode", *CACHES)
    kinds, (prelude, looped, coda) = _layers(at)
    windowed, heads = WINDOW in kinds, at.whole("num_attention_heads")
    full = tuple(index for index, kind in enumerate(kinds) if kind == FULL) if windowed else ()
    return at.model(
        vocab_size=at.whole("vocab_size"),
        width=at.whole("hidden_size"),
        heads=heads,
        kv_heads=at.whole("num_key_value_heads", heads),
        ff_width=at.whole("intermediate_size"),
        length=at.whole("max_position_embeddings", 8192),
        steps=at.whole("n_recurrent_loops", 2),
        prelude=prelude,
        inner_blocks=looped,
        coda=coda,
        norm="unit",
        norm_position="sphere",
        bias="none",
        feed_forward="swiglu",
        rotary_base=_rotary_base(at, WINDOW if windowed else FULL),
        tied=at.flag("tie_word_embeddings", False),
        attention=AttentionConfig(
            head_width=at.whole("head_dim", 256),
            norm="unit",
            gate=True,
            window=at.whole("sliding_window", 1024) if windowed else 0,
            full_layers=full,
            full_rotary_base=_rotary_base(at, FULL) if full else 0.0,
        ),
        loop=LoopConfig(
            injection="unit_sum", schedule="unit", cache=CACHES[at.raw.get("recurrent_kv_cache_mode", "per_loop")]
        ),
        sphere=SphereConfig(size=at.number("initializer_range", 0.0177), rate=at.number("ngpt_alpha_init", 0.05)),
    )


def fields(model: ModelConfig, raw: Mapping[str, Any]) -> dict[str, Any]:
    """config.json of a model of this form."""
    options, blocks = model.attention, model.prelude + model.inner_blocks + model.coda
    full = options.full_layers if options.window else range(blocks)
    kinds = [FULL if index in full else WINDOW for index in range(blocks)]
    bases = {FULL: options.full_rotary_base or model.rotary_base, WINDOW: model.rotary_base}
    rotary = {kind: {"rope_type": "default", "rope_theta": bases[kind]} for kind in sorted(set(kinds))}
    return {
        "architectures": ["DoryForCausalLM"],
        "vocab_size": model.vocab_size,
        "hidden_size": model.width,
        "intermediate_size": model.hidden_width,
        "num_hidden_layers": 2 * blocks,
        "num_attention_heads": model.heads,
        "num_key_value_heads": model.num_kv_heads,
        "head_dim": model.head_width,
        "hidden_act": "silu",
        "max_position_embeddings": model.length,
        "initializer_range": model.sphere.size,
        "ngpt_alpha_init": model.sphere.rate,
        "tie_word_embeddings": model.tied,
        "rope_parameters": dict(raw.get("rope_parameters") or {}) | rotary,
        "sliding_window": options.window or raw.get("sliding_window", 1024),
        "layer_types": [kind for pair in kinds for kind in (pair, FEED_FORWARD)],
        "n_input_layers": 2 * model.prelude,
        "n_recurrent_layers": 2 * model.inner_blocks,
        "n_output_layers": 2 * model.coda,
        "n_recurrent_loops": model.steps,
        "recurrent_kv_cache_mode": next(name for name, cache in CACHES.items() if cache == model.loop.cache),
    }


def table(model: ModelConfig, names: Collection[str] = ()) -> TensorTable:
    """As released, as transformers writes them, or as it has them in memory; to write, as released."""
    named = Names(
        top="model" if any(name.startswith("model.") for name in names) else "backbone",
        pairs=any(".self_attn." in name for name in names),
    )
    copies = (Copy("lm_head.weight", f"{named.embedding}.weight"),) if model.tied else ()
    return TensorTable(tuple(_pairs(model, named)), copies)


def _layers(at: Fields) -> tuple[list[str], tuple[int, int, int]]:
    """The kind of attention of every block, and how many are prelude, looped and coda."""
    kinds: Any = at.raw.get("layer_types")
    known = isinstance(kinds, list) and all(isinstance(kind, str) for kind in kinds)
    paired = known and FEED_FORWARD in kinds

    def count(name: str, default: int | None, least: int) -> int:
        layers = at.whole(name, default, least=least)
        require(layers <= MOST_STEPS, f"{at.source}: {name} = {layers}: must be at most {MOST_STEPS}")
        require(
            not paired or layers % 2 == 0,
            f"{at.source}: {name} = {layers}: layer_types lists attention and mlp in turn, so it must be even",
        )
        return layers // 2 if paired else layers

    blocks = count("num_hidden_layers", None, 1)
    prelude, coda = count("n_input_layers", 8, 0), count("n_output_layers", 8, 0)
    rest = blocks - prelude - coda
    looped = count("n_recurrent_layers", (2 if paired else 1) * max(rest, 0), 0)
    require(
        looped == rest and looped >= 1,
        f"{at.source}: n_input_layers, n_recurrent_layers and n_output_layers must sum to num_hidden_layers = "
        f"{at.raw['num_hidden_layers']}, with some recurrent ones",
    )
    if kinds is None:
        return [FULL if (index + 1) % 4 == 0 else WINDOW for index in range(blocks)], (prelude, looped, coda)
    fits = known and (not paired or set(kinds[1::2]) == {FEED_FORWARD})
    attention = kinds[::2] if paired else kinds
    require(
        fits and len(kinds) == at.raw["num_hidden_layers"] and set(attention) <= {WINDOW, FULL},
        f"{at.source}: layer_types = {kinds!r}: must be num_hidden_layers = {at.raw['num_hidden_layers']} times "
        f'"{WINDOW}" or "{FULL}", with "{FEED_FORWARD}" after every one or after none',
    )
    return list(attention), (prelude, looped, coda)


def _rotary_base(at: Fields, kind: str) -> float:
    """Of the blocks of one kind of attention."""
    tables = at.raw.get("rope_parameters")
    if tables is None:
        return ROTARY_BASES[kind]
    require(
        isinstance(tables, Mapping) and isinstance(tables.get(kind), Mapping),
        f"{at.source}: rope_parameters = {tables!r}: must be a table with one for {kind}",
    )
    return Fields({"rope_parameters": tables[kind]}, f"{at.source}: rope_parameters.{kind}").rotary_base(
        ROTARY_BASES[kind]
    )


def _pairs(model: ModelConfig, named: Names) -> Iterator[Pair]:
    yield embedding("embedding.tokens", named.embedding)
    parts = [("prelude", i) for i in range(model.prelude)]
    parts += [("looped", i) for i in range(model.inner_blocks)]
    parts += [("coda", i) for i in range(model.coda)]
    for index, (part, place) in enumerate(parts):
        block = f"stack.{part}.{place}"
        theirs, rate = named.attention(index)
        yield from llama_attention(f"{block}.attention", theirs, model, gate=named.gate)
        yield Pair(f"{block}.attention.query_scale.stored", (f"{theirs}.sqk",))
        yield Pair(f"{block}.attention.gate_scale.stored", (f"{theirs}.s_gate",))
        yield Pair(f"{block}.attention_rate.stored", (rate,))
        theirs, rate = named.feed_forward(index)
        yield from llama_feed_forward(f"{block}.feed_forward", theirs)
        yield Pair(f"{block}.feed_forward.inner_scale", (f"{theirs}.suv_gate", f"{theirs}.suv_up"))
        yield Pair(f"{block}.feed_forward_rate.stored", (rate,))
    if not model.tied:
        yield kernel("head.own", "lm_head")
    yield Pair("head.scale.stored", ("lm_head.logit_scale",))


DORY = Family("dory", model, fields, table)
