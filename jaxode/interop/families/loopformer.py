"""LoopFormer (Jeddi et al. 2026, arXiv 2602.11451): a few looped layers that are told the time and the step's size.

Its steps are sizes that sum to 1, ours sum to N: "2,2,4" at N = 8 are 1/4, 1/4 and 1/2. A step is told its size, and
its update is not multiplied by it. Source of fields and names: armenjeddi/loopformer (GPTConfig, GPT) and the tensors
of armenjeddi/LoopFormer-3block-8iterations.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from jaxode.config import ClockConfig, LoopConfig, ModelConfig
from jaxode.interop.families.family import Family, Fields
from jaxode.interop.tensor_table import Copy, Pair, Rows, TensorTable, bias, embedding, kernel, scale

PREFIX = "gpt."
"""Of the published folders' names; checkpoints of the source have none."""
LOOPS = 8
"""In its training, of equal steps: no file says so."""
EPSILON = 2.0**-23
"""Of its norms, which take PyTorch's default: from 1 to the next number of type float32."""
CLOCK = {
    "time": "time_embedder.mlp.0",
    "time_output": "time_embedder.mlp.2",
    "step": "dt_embedder.mlp.0",
    "step_output": "dt_embedder.mlp.2",
}


def model(at: Fields) -> ModelConfig:
    """X <- x + gate * S((1 + scale) * norm x) for both sublayers, scale and gate by the time and the step."""
    at.only("bias", False)
    width = at.whole("n_embd")
    return at.model(
        vocab_size=at.whole("vocab_size"),
        width=width,
        heads=at.whole("n_head"),
        ff_width=at.whole("intermediate_dim", 4 * width),
        length=at.whole("block_size", 1024),
        steps=at.whole("num_loops", LOOPS),
        inner_blocks=at.whole("n_layer"),
        norm="rms_plain",
        final_norm="rms",
        norm_epsilon=EPSILON,
        bias="none",
        feed_forward="gelu",
        positions="learned",
        conditioning="loopformer",
        clock=ClockConfig(features=256, shared=True, unit=True, per_pass=True),
        loop=LoopConfig(schedule="even"),
    )


def fields(model: ModelConfig, raw: Mapping[str, Any]) -> dict[str, Any]:
    """config.json of a model of this form."""
    loops = {} if model.steps == LOOPS and "num_loops" not in raw else {"num_loops": model.steps}
    return loops | {
        "architectures": ["LoopFormerGPTForCausalLM"],
        "vocab_size": model.vocab_size,
        "n_embd": model.width,
        "n_head": model.heads,
        "n_layer": model.inner_blocks,
        "intermediate_dim": model.hidden_width,
        "block_size": model.length,
        "bias": False,
    }


def table(model: ModelConfig, names: Collection[str] = ()) -> TensorTable:
    """As released; the prefix is left out where their names have none."""
    prefix = "" if names and not any(name.startswith(PREFIX) for name in names) else PREFIX
    # tied whatever config.json says
    copies = (Copy("lm_head.weight", "transformer.wte.weight", field=""),)
    # without flash attention a layer keeps its causal mask
    return TensorTable(tuple(_pairs(model)), copies, ("*.attn.bias",)).renamed(lambda name: prefix + name)


def _pairs(model: ModelConfig) -> Iterator[Pair]:
    yield embedding("embedding.tokens", "transformer.wte")
    yield embedding("embedding.positions", "transformer.wpe")
    for index in range(model.inner_blocks):
        block, layer = f"stack.looped.{index}", f"transformer.h.blocks.{index}"
        yield kernel(f"{block}.attention.qkv", f"{layer}.attn.c_attn")
        yield kernel(f"{block}.attention.output", f"{layer}.attn.c_proj")
        yield kernel(f"{block}.feed_forward.inner", f"{layer}.mlp.c_fc")
        yield kernel(f"{block}.feed_forward.output", f"{layer}.mlp.c_proj")
        # theirs: two gates, then two scales
        modulation = f"{layer}.adaLN_modulation.1"
        parts = (Rows(modulation, 2 * model.width), Rows(modulation))
        yield kernel(f"{block}.conditioning.output", *parts)
        yield bias(f"{block}.conditioning.output", *parts)
    for ours, theirs in CLOCK.items():
        yield kernel(f"stack.loop.clock.{ours}", theirs)
        yield bias(f"stack.loop.clock.{ours}", theirs)
    yield scale("head.norm", "transformer.norm_f")


LOOPFORMER = Family("loopformer", model, fields, table)
