"""The tensors of an ALBERT by the names that PyTorch gives them, against jaxode's parameters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from jaxode.config import ModelConfig
from jaxode.interop.albert_config import layout
from jaxode.model.parameters import Parameters

HEADS = ("pooler.", "predictions.", "sop_classifier.", "classifier.", "qa_outputs.")
"""What the tensors of heads begin with; a file may hold those of several tasks."""


@dataclass(frozen=True)
class Pair:
    """One parameter of ours and the tensors of theirs that it is made of, side by side along its last axis."""

    ours: str
    theirs: tuple[str, ...]
    transpose: bool = False
    """PyTorch keeps a linear layer as [out, in]."""

    def read(self, tensors: Mapping[str, np.ndarray]) -> np.ndarray:
        """Their tensors as our parameter."""
        return np.concatenate([tensors[name].T if self.transpose else tensors[name] for name in self.theirs], axis=-1)

    def write(self, value: Any) -> Iterator[tuple[str, np.ndarray]]:
        """Our parameter as their tensors."""
        for name, part in zip(self.theirs, np.split(np.asarray(value), len(self.theirs), axis=-1), strict=True):
            yield name, np.ascontiguousarray(part.T if self.transpose else part, np.float32)

    def shapes(self, value: Any) -> Iterator[tuple[str, jax.ShapeDtypeStruct]]:
        """Of their tensors, from the shape of our parameter."""
        *rows, last = value.shape
        shape = (*rows, last // len(self.theirs))
        for name in self.theirs:
            yield name, jax.ShapeDtypeStruct(shape[::-1] if self.transpose else shape, np.float32)


def _linear(ours: str, *theirs: str) -> Iterator[Pair]:
    yield Pair(f"{ours}.kernel", tuple(f"{name}.weight" for name in theirs), transpose=True)
    yield Pair(f"{ours}.bias", tuple(f"{name}.bias" for name in theirs))


def _norm(ours: str, theirs: str) -> Iterator[Pair]:
    yield Pair(f"{ours}.scale", (f"{theirs}.weight",))
    yield Pair(f"{ours}.bias", (f"{theirs}.bias",))


def pairs(model: ModelConfig, params: Mapping[str, Any]) -> Iterator[Pair]:
    """All of a model's parameters, in the order in which data meets them; their names without the prefix "albert."."""
    for ours, theirs in (("tokens", "word"), ("positions", "position"), ("types", "token_type")):
        yield Pair(f"embedding.{ours}.embedding", (f"embeddings.{theirs}_embeddings.weight",))
    yield from _norm("embedding.norm", "embeddings.LayerNorm")
    yield from _linear("embedding.project", "encoder.embedding_hidden_mapping_in")
    inner = layout(model)[2]
    for index in range(model.distinct_blocks):
        block = f"stack.looped.{index}"
        layer = f"encoder.albert_layer_groups.{index // inner}.albert_layers.{index % inner}"
        attention = f"{layer}.attention"
        yield from _linear(f"{block}.attention.qkv", f"{attention}.query", f"{attention}.key", f"{attention}.value")
        yield from _linear(f"{block}.attention.output", f"{attention}.dense")
        yield from _norm(f"{block}.attention_norm", f"{attention}.LayerNorm")
        yield from _linear(f"{block}.feed_forward.inner", f"{layer}.ffn")
        yield from _linear(f"{block}.feed_forward.output", f"{layer}.ffn_output")
        yield from _norm(f"{block}.feed_forward_norm", f"{layer}.full_layer_layer_norm")
    if "head.bias" in params:
        yield from _linear("head.transform", "predictions.dense")
        yield from _norm("head.inner_norm", "predictions.LayerNorm")
        yield Pair("head.bias", ("predictions.bias",))
        if not model.tied:
            yield Pair("head.own.kernel", ("predictions.decoder.weight",), transpose=True)
    if "head.pooler.kernel" in params:
        yield from _linear("head.pooler", "pooler")
    if "head.classifier.kernel" in params:
        yield from _linear("head.classifier", "classifier")


def plain_names(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Tensors without the prefix "albert." and without buffers that hold 0, 1, 2, ..."""
    plain = {name.removeprefix("albert."): value for name, value in tensors.items()}
    return {name: value for name, value in plain.items() if not name.endswith(".position_ids")}


def untie(tensors: dict[str, np.ndarray], tied: bool) -> tuple[dict[str, np.ndarray], bool]:
    """Leave one bias and, where the output matrix is the embedding table, no copy of it; whether it is.

    A file whose two matrices differ is untied, whatever its config says.
    """
    rest = dict(tensors)
    table = rest.get("embeddings.word_embeddings.weight")
    matrix, bias = rest.get("predictions.decoder.weight"), rest.pop("predictions.decoder.bias", None)
    if tied and matrix is not None and table is not None:
        tied = np.array_equal(matrix, table)
    if tied:
        rest.pop("predictions.decoder.weight", None)
    # untied, the decoder's own bias is the one that counts
    if bias is not None and (not tied or "predictions.bias" not in rest):
        rest["predictions.bias"] = bias
    return rest, tied


def without_other_heads(tensors: Mapping[str, np.ndarray], wanted: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Tensors without the heads of other tasks, which a file may hold as well."""
    used = tuple(head for head in HEADS if any(name.startswith(head) for name in wanted))
    return {name: value for name, value in tensors.items() if not name.startswith(HEADS) or name.startswith(used)}


def write(model: ModelConfig, params: Parameters, prefix: str) -> dict[str, np.ndarray]:
    """Tensors of a model under their full names; `prefix` stands before all but the heads."""
    named = [part for pair in pairs(model, params) for part in pair.write(params[pair.ours])]
    if "head.bias" in params and not model.tied:
        named.append(("predictions.decoder.bias", np.asarray(params["head.bias"], np.float32)))
    bare = tuple(head for head in HEADS if head != "pooler.")
    return {name if name.startswith(bare) else prefix + name: value for name, value in named}
