"""ALBERT (Lan et al. 2020) in two vocabularies: fields of config.json against ModelConfig, and names of tensors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import jax
import numpy as np

from jaxode.config import ModelConfig, UserError, require
from jaxode.model.parameters import Parameters

Task = Literal["masked", "classifier", "encoder"]

# what an absent field of config.json means
DEFAULTS = {
    "vocab_size": 30000,
    "embedding_size": 128,
    "hidden_size": 4096,
    "num_hidden_layers": 12,
    "num_hidden_groups": 1,
    "num_attention_heads": 64,
    "intermediate_size": 16384,
    "inner_group_num": 1,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
}
ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_accurate": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_python_tanh": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
    "tanh": "tanh",
}
ARCHITECTURES: dict[str, Task] = {
    "AlbertForMaskedLM": "masked",
    "AlbertForPreTraining": "masked",
    "AlbertForSequenceClassification": "classifier",
    "AlbertModel": "encoder",
}
HEADS = ("pooler.", "predictions.", "sop_classifier.", "classifier.", "qa_outputs.")
# what a model must be to be an ALBERT
FORM = {
    "kind": "masked",
    "norm": "layer",
    "norm_position": "post",
    "positions": "learned",
    "embedding_norm": True,
    "prelude": 0,
    "coda": 0,
    "inject_input": False,
}


def default_task(raw: Mapping[str, Any], source: str) -> Task:
    """What config.json says that the weights are for.

    Raises:
        UserError: no architecture, or one that is not read.
    """
    found = raw.get("architectures") or []
    allowed = ", ".join(get_args(Task))
    require(bool(found), f"{source}: names no architectures: choose a task ({allowed})")
    if found[0] not in ARCHITECTURES:
        raise UserError(
            f"{source}: architectures = {found}: allowed are {', '.join(ARCHITECTURES)}; "
            f"or choose a task ({allowed}) that its tensors suffice for"
        )
    return ARCHITECTURES[found[0]]


def num_classes(raw: Mapping[str, Any]) -> int:
    """Labels of a classifier."""
    return len(raw.get("id2label") or ()) or raw.get("num_labels") or 2


def group_sizes(layers: int, groups: int) -> tuple[int, ...]:
    """Layers of every group, where layer i belongs to group floor(i / (layers / groups)), uneven counts included."""
    counts = Counter(int(i / (layers / groups)) for i in range(layers))
    return tuple(counts[group] for group in range(groups))


def model_config(raw: Mapping[str, Any], source: str) -> ModelConfig:
    """ModelConfig of a config.json; `source` is named in errors.

    Raises:
        UserError: another model type, or a field whose value is not supported.
    """
    kind = raw.get("model_type")
    require(kind == "albert", f'{source}: model_type = {kind!r}: only "albert" is read; give the folder of an ALBERT')
    position = raw.get("position_embedding_type", "absolute")
    require(position == "absolute", f'{source}: position_embedding_type = {position!r}: only "absolute" is read')
    at = {name: raw.get(name, default) for name, default in DEFAULTS.items()}
    for name, value in at.items():
        require(type(value) is int and value >= 1, f"{source}: {name} = {value!r}: must be a whole number from 1")
    activation = raw.get("hidden_act", "gelu_new")
    require(
        activation in ACTIVATIONS,
        f"{source}: hidden_act = {activation!r}: allowed are {', '.join(ACTIVATIONS)}",
    )
    epsilon, dropout = raw.get("layer_norm_eps", 1e-12), raw.get("hidden_dropout_prob", 0.0)
    for name, value in (("layer_norm_eps", epsilon), ("hidden_dropout_prob", dropout)):
        require(type(value) in (int, float), f"{source}: {name} = {value!r}: must be a number")
    layers, groups = at["num_hidden_layers"], at["num_hidden_groups"]
    require(groups <= layers, f"{source}: num_hidden_groups = {groups}: must be at most num_hidden_layers = {layers}")
    sizes = group_sizes(layers, groups)
    sharing = "full" if groups == 1 else "none" if groups == layers else "sequence"
    try:
        return ModelConfig(
            kind="masked",
            vocab_size=at["vocab_size"],
            width=at["hidden_size"],
            heads=at["num_attention_heads"],
            ff_width=at["intermediate_size"],
            # also where it equals the width: ALBERT always projects
            embedding_width=at["embedding_size"],
            length=at["max_position_embeddings"],
            steps=layers,
            sharing=sharing,
            groups=groups if sharing == "sequence" else 1,
            group_steps="" if len(set(sizes)) == 1 else ",".join(map(str, sizes)),
            inner_blocks=at["inner_group_num"],
            norm_epsilon=float(epsilon),
            norm_position="post",
            feed_forward=ACTIVATIONS[activation],
            head_activation=ACTIVATIONS[activation],
            positions="learned",
            token_types=at["type_vocab_size"],
            embedding_norm=True,
            dropout=float(dropout),
            tied=raw.get("tie_word_embeddings", True),
        )
    except UserError as error:
        raise UserError(f"{source}: {error}") from None


def layout(model: ModelConfig) -> tuple[int, int, int]:
    """Layers, groups and inner blocks that ALBERT calls the model's stack."""
    steps, groups, inner = model.steps, model.groups, model.inner_blocks
    return {
        "full": (steps, 1, inner),
        "sequence": (steps, groups, inner),
        "cycle": (steps // groups, 1, groups * inner),
        "none": (steps, steps, inner),
    }[model.sharing]


def albert_config(model: ModelConfig, task: Task, source: Mapping[str, Any]) -> dict[str, Any]:
    """config.json of a model, on top of the fields of `source` that say nothing about its form.

    Raises:
        UserError: naming the field in which the model is not an ALBERT.
    """
    for name, value in FORM.items():
        have = getattr(model, name)
        require(have == value, f"model.{name} = {have!r}: ALBERT has {value!r}; this model cannot be written as one")
    for name in ("embedding_width", "token_types"):
        require(getattr(model, name) > 0, f"model.{name} = 0: ALBERT has one; this model cannot be written as one")
    require(
        model.num_kv_heads == model.heads,
        f"model.kv_heads = {model.kv_heads}: ALBERT has as many as heads; this model cannot be written as one",
    )
    activation = source.get("hidden_act")
    if ACTIVATIONS.get(str(activation)) != model.feed_forward:
        activation = next((theirs for theirs, ours in ACTIVATIONS.items() if ours == model.feed_forward), None)
    require(activation is not None, f'model.feed_forward = "{model.feed_forward}": ALBERT has none of that kind')
    require(
        task != "masked" or model.head_activation == model.feed_forward,
        f'model.head_activation = "{model.head_activation}": ALBERT uses that of model.feed_forward in its head',
    )
    layers, groups, inner = layout(model)
    require(
        model.sharing != "sequence" or model.group_sizes == group_sizes(layers, groups),
        f"steps of the groups {model.group_sizes}: ALBERT divides {layers} layers as {group_sizes(layers, groups)}",
    )
    architecture = next(name for name, made_for in ARCHITECTURES.items() if made_for == task)
    kept = {name: value for name, value in source.items() if name not in ("torch_dtype", "num_labels")}
    return kept | {
        "model_type": "albert",
        "architectures": [architecture],
        "vocab_size": model.vocab_size,
        "embedding_size": model.embedding_width,
        "hidden_size": model.width,
        "num_hidden_layers": layers,
        "num_hidden_groups": groups,
        "num_attention_heads": model.heads,
        "intermediate_size": model.hidden_width,
        "inner_group_num": inner,
        "max_position_embeddings": model.length,
        "type_vocab_size": model.token_types,
        "hidden_act": activation,
        "layer_norm_eps": model.norm_epsilon,
        "hidden_dropout_prob": model.dropout,
        "tie_word_embeddings": model.tied,
        "dtype": "float32",
    }


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


def albert_tensors(model: ModelConfig, params: Parameters, prefix: str) -> dict[str, np.ndarray]:
    """Tensors of a model under their full names; `prefix` stands before all but the heads."""
    named = [part for pair in pairs(model, params) for part in pair.write(params[pair.ours])]
    if "head.bias" in params and not model.tied:
        named.append(("predictions.decoder.bias", np.asarray(params["head.bias"], np.float32)))
    bare = tuple(head for head in HEADS if head != "pooler.")
    return {name if name.startswith(bare) else prefix + name: value for name, value in named}
