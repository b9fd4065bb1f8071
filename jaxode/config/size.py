"""How large a model is, from its configuration alone: nothing is made to count it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jaxode.config.checks import require

if TYPE_CHECKING:
    from jaxode.config.model import ModelConfig

PARAMETERS = 10**12
"""More than this no machine holds, since every device keeps all of them: 4 TB of float32."""
BLOCKS = 1000
"""Different blocks, as many as the deepest transformers have; each is built, compiled and stored by itself."""


def num_parameters(model: ModelConfig) -> int:
    """Stored parameters of a language model: a shared block counts once. A vocabulary of 0 counts nothing."""
    blocks = model.prelude + model.coda + model.distinct_blocks
    conditioned = model.distinct_blocks * _conditioning(model)
    return _embedding(model) + blocks * _block(model) + conditioned + _loop(model) + _head(model)


def check_size(model: ModelConfig) -> None:
    """Refuse a model that no machine holds.

    Raises:
        UserError: too many blocks or parameters.
    """
    looped = "model.steps" if model.sharing == "none" else "model.groups"
    times = model.steps if model.sharing == "none" else model.groups
    blocks = model.prelude + model.coda + model.distinct_blocks
    require(
        blocks <= BLOCKS,
        f"{blocks} different blocks (model.prelude = {model.prelude} and model.coda = {model.coda} beside "
        f"model.inner_blocks = {model.inner_blocks} times {looped} = {times}): must be at most {BLOCKS}",
    )
    parameters = num_parameters(model)
    require(
        parameters <= PARAMETERS,
        f"{parameters:.3g} parameters ({large_fields(model)}): must be at most {PARAMETERS:.0e}; make the largest of "
        "these fields smaller",
    )


def large_fields(model: ModelConfig) -> str:
    """The fields that make a model large, as errors name them."""
    names = ["width", "ff_width", "vocab_size", "embedding_width", "token_types", "prelude", "coda", "inner_blocks"]
    names += ["length"] if model.positions == "learned" else []
    names += ["steps"] if model.sharing == "none" else []
    return ", ".join(f"model.{name} = {getattr(model, name)}" for name in names if getattr(model, name))


def _linear(inputs: int, outputs: int, bias: bool = True) -> int:
    return inputs * outputs + (outputs if bias else 0)


def _norm(model: ModelConfig, width: int, kind: str = "same") -> int:
    return {"layer": 2, "rms": 1}.get(model.norm if kind == "same" else kind, 0) * width


def _embedding(model: ModelConfig) -> int:
    inner = model.embedding_width or model.width
    rows = model.vocab_size + model.token_types + (model.length if model.positions == "learned" else 0)
    norm = _norm(model, inner) if model.embedding_norm else 0
    return rows * inner + norm + (_linear(inner, model.width) if model.embedding_width else 0)


def _block(model: ModelConfig) -> int:
    width, hidden, options, biased = model.width, model.hidden_width, model.attention, model.bias == "all"
    rows, keys = model.heads * model.head_width, model.num_kv_heads * model.head_width
    matrices = sum(_linear(*sizes, biased) for sizes in model.matrices)
    attention = rows + keys if model.bias == "query_key" else 0
    attention += _norm(model, rows) + _norm(model, keys) if options.norm == "whole" else 0
    inner = 2 * hidden if model.feed_forward == "swiglu" else hidden
    norms = (4 if model.norm_position in ("sandwich", "sum") else 2) * _norm(model, width)
    # of queries, of the gate, of the hidden units, and of both residual rules
    scales = rows + (rows if options.gate else 0) + inner + 2 * width if model.norm_position == "sphere" else 0
    return matrices + attention + norms + scales + (width if model.inject_input else 0)


def _conditioning(model: ModelConfig) -> int:
    if model.conditioning == "none":
        return 0
    clock = 0 if model.clock.shared else _clock(model)
    return clock + _linear(model.clock_width, 4 * model.width) + _told_changes(model)


def _told_changes(model: ModelConfig) -> int:
    """A and B of the four matrices, and the layer that says how much of them counts when."""
    rank = model.clock.rank
    if not rank:
        return 0
    edges = sum(inputs + outputs for inputs, outputs in model.matrices)
    norms = 4 * model.width if model.norm_position == "post" else 0
    return rank * edges + _linear(model.clock_width, 4 * rank + norms)


def _streams(model: ModelConfig) -> int:
    count = model.loop.streams
    if count == 1:
        return 0
    told = 0 if model.conditioning == "none" else _linear(model.clock_width, count * (2 + count))
    told += 0 if model.conditioning == "none" or model.clock.shared else _clock(model)
    return 3 * count + count**2 + told


def _clock(model: ModelConfig) -> int:
    code = _linear(model.clock.features, model.clock_width) + _linear(model.clock_width, model.clock_width)
    return (1 if model.conditioning == "time" else 2) * code


def _loop(model: ModelConfig) -> int:
    loop, width = model.loop, model.width
    clock = _clock(model) if model.clock.shared and model.conditioning != "none" else 0
    adapter = 2 * width * width if loop.injection == "concat" else 0
    norm = _norm(model, width, model.final_norm) if loop.boundary == "norm" else 0
    return (
        clock
        + adapter
        + norm
        + _streams(model)
        + (width if loop.low_cycles else 0)
        + (width + 1 if loop.exit_gate else 0)
    )


def _head(model: ModelConfig) -> int:
    width, masked = model.width, model.kind == "masked"
    if model.head == "none":
        return 0
    if model.head in ("pooler", "classifier"):
        pooler = (0 if model.ends_normalised else _norm(model, width, model.final_norm)) + _linear(width, width)
        return pooler + (_linear(width, len(model.labels)) if model.labels else 0)
    if model.head == "token_classifier":
        norm = 0 if model.ends_normalised else _norm(model, width, model.final_norm)
        return norm + (_linear(width, len(model.labels)) if model.labels else 0)
    inner = model.embedding_width or width
    norm = 0 if model.ends_normalised else _norm(model, width, model.final_norm)
    transform = _linear(width, inner) if masked or inner != width else 0
    bias = _norm(model, inner) + model.vocab_size if masked else 0
    bias += model.vocab_size if model.norm_position == "sphere" else 0
    return norm + transform + bias + (0 if model.tied else _linear(inner, model.vocab_size, bias=False))
