"""Transformers whose one block is a vector field over depth. Knows no solver."""

from jaxode.model.block import Block, Context, FieldArgs, block_field, sublayer_fields
from jaxode.model.cost import Flops, block_evaluations, flops_per_token, plan, resolve
from jaxode.model.models import (
    CausalLM,
    Encoder,
    MaskedLM,
    SequenceClassifier,
    TokenClassifier,
    make_model,
    normalised,
)
from jaxode.model.outputs import EncoderOutput, ModelOutput
from jaxode.model.stack import Stack
from jaxode.model.transformer import Transformer

__all__ = [
    "Block",
    "CausalLM",
    "Context",
    "Encoder",
    "EncoderOutput",
    "FieldArgs",
    "Flops",
    "MaskedLM",
    "ModelOutput",
    "SequenceClassifier",
    "Stack",
    "TokenClassifier",
    "Transformer",
    "block_evaluations",
    "block_field",
    "flops_per_token",
    "make_model",
    "normalised",
    "plan",
    "resolve",
    "sublayer_fields",
]
