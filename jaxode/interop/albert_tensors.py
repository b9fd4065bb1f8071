"""The tensors of an ALBERT by the names that PyTorch gives them, against jaxode's parameters."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import numpy as np

from jaxode.config import ModelConfig
from jaxode.interop.albert_config import layout
from jaxode.interop.tensor_files import TensorFiles, same
from jaxode.interop.tensor_table import Copy, Pair, TensorTable, bias, embedding, kernel, scale
from jaxode.model.parameters import Parameters, without_calibrations

HEADS = ("pooler.", "predictions.", "sop_classifier.", "classifier.", "qa_outputs.")
"""What the tensors of heads begin with; a file may hold those of several tasks."""
BUFFERS = ("*.position_ids",)
"""Numbers 0, 1, 2, .. that old files hold."""
DTYPE = "float32"
"""In which an ALBERT is read: it is small, and was trained so."""
TABLE, MATRIX = "embeddings.word_embeddings.weight", "predictions.decoder.weight"
BIAS, DECODER_BIAS = "predictions.bias", "predictions.decoder.bias"


def plain(files: TensorFiles) -> TensorFiles:
    """Tensors without the prefix "albert.", which a bare encoder's have not."""
    return files.renamed(lambda name: name.removeprefix("albert."))


def is_tied(files: TensorFiles, tied: bool) -> bool:
    """Whether the output matrix is the embedding table; a file whose two differ is untied, whatever its config says."""
    held = MATRIX in files and TABLE in files
    return tied and (not held or same(files[MATRIX], files[TABLE]))


def table(model: ModelConfig, params: Collection[str], names: Collection[str] = ()) -> TensorTable:
    """All of a model's tensors, in the order in which data meets them; their names without the prefix "albert.".

    Args:
        model: whose `tied` is what the files hold.
        params: names of our parameters.
        names: of the tensors of a file to be read; none for one to be written.
    """
    # untied, the decoder's own bias is the one that counts
    own = DECODER_BIAS in names and (not model.tied or BIAS not in names)
    pairs = tuple(_pairs(model, params, DECODER_BIAS if own else BIAS))
    begun = [name for pair in pairs for name in pair.names]
    others = tuple(f"{head}*" for head in HEADS if not any(name.startswith(head) for name in begun))
    copies = (Copy(MATRIX, TABLE),) if model.tied else ()
    if "head.bias" in params and not model.tied and not names:
        copies = (Copy(DECODER_BIAS, BIAS, written=True),)
    return TensorTable(pairs, copies, (*BUFFERS, *others, BIAS, DECODER_BIAS))


def write(model: ModelConfig, params: Parameters, prefix: str) -> dict[str, np.ndarray]:
    """Tensors of a model under their full names; `prefix` stands before all but the heads."""
    params = without_calibrations(params)
    tensors = written(model, params, prefix)
    return {name: tensors.tensor(name, params) for name in tensors.shapes(params)}


def written(model: ModelConfig, params: Collection[str], prefix: str) -> TensorTable:
    """The table of files that are written; `prefix` stands before all names but those of heads."""
    bare = tuple(head for head in HEADS if head != "pooler.")
    return table(model, params).renamed(lambda name: name if name.startswith(bare) else prefix + name)


def _linear(ours: str, *theirs: str) -> Iterator[Pair]:
    yield kernel(ours, *theirs)
    yield bias(ours, *theirs)


def _norm(ours: str, theirs: str) -> Iterator[Pair]:
    yield scale(ours, theirs)
    yield bias(ours, theirs)


def _pairs(model: ModelConfig, params: Collection[str], head_bias: str) -> Iterator[Pair]:
    for ours, theirs in (("tokens", "word"), ("positions", "position"), ("types", "token_type")):
        yield embedding(f"embedding.{ours}", f"embeddings.{theirs}_embeddings")
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
        yield Pair("head.bias", (head_bias,))
        if not model.tied:
            yield kernel("head.own", "predictions.decoder")
    if "head.pooler.kernel" in params:
        yield from _linear("head.pooler", "pooler")
    if "head.classifier.kernel" in params:
        yield from _linear("head.classifier", "classifier")
    if "head.span.kernel" in params:
        yield from _linear("head.span", "qa_outputs")
