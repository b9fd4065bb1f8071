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
FEATURES = 64
"""Sinusoids of a time that a conditioned block reads."""


def num_parameters(model: ModelConfig) -> int:
    """Stored parameters of a language model: a shared block counts once. A vocabulary of 0 counts nothing."""
    blocks = model.prelude + model.coda + model.distinct_blocks
    conditioned = model.distinct_blocks * _conditioning(model)
    return _embedding(model) + blocks * _block(model) + conditioned + _head(model)


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


def _norm(model: ModelConfig, width: int) -> int:
    return (2 if model.norm == "layer" else 1) * width


def _embedding(model: ModelConfig) -> int:
    inner = model.embedding_width or model.width
    rows = model.vocab_size + model.token_types + (model.length if model.positions == "learned" else 0)
    norm = _norm(model, inner) if model.embedding_norm else 0
    return rows * inner + norm + (_linear(inner, model.width) if model.embedding_width else 0)


def _block(model: ModelConfig) -> int:
    width, hidden = model.width, model.hidden_width
    fused = (model.heads + 2 * model.num_kv_heads) * model.head_width
    attention = _linear(width, fused) + _linear(width, width)
    inner = 2 * hidden if model.feed_forward == "swiglu" else hidden
    feed_forward = _linear(width, inner) + _linear(hidden, width)
    return attention + feed_forward + 2 * _norm(model, width) + (width if model.inject_input else 0)


def _conditioning(model: ModelConfig) -> int:
    if model.conditioning == "none":
        return 0
    code = _linear(FEATURES, model.width) + _linear(model.width, model.width)
    return (1 if model.conditioning == "time" else 2) * code + _linear(model.width, 4 * model.width)


def _head(model: ModelConfig) -> int:
    width, masked = model.width, model.kind == "masked"
    inner = model.embedding_width or width
    norm = _norm(model, width) if model.norm_position == "pre" else 0
    transform = _linear(width, inner) if masked or inner != width else 0
    bias = _norm(model, inner) + model.vocab_size if masked else 0
    return norm + transform + bias + (0 if model.tied else _linear(inner, model.vocab_size, bias=False))
