"""The config.json of an ALBERT (Lan et al. 2020) as ModelConfig, and back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, Literal, get_args

from jaxode.config import ModelConfig, UserError, require
from jaxode.config.fields import COUNT, HUGE, MOST_STEPS
from jaxode.model.heads import ProblemType

Task = Literal["masked", "classifier", "token_classifier", "question_answering", "encoder"]
LABELLED: tuple[Task, ...] = ("classifier", "token_classifier")

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
MOST_LABELS = 2**20
Activation = Literal["gelu", "gelu_tanh", "relu", "silu", "tanh"]
ACTIVATIONS: dict[str, Activation] = {
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
    "AlbertForTokenClassification": "token_classifier",
    "AlbertForQuestionAnswering": "question_answering",
    "AlbertModel": "encoder",
}
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
    "conditioning": "none",
    "step_size": 1.0,
    "block": "standard",
    "bias": "all",
    "embedding_scale": 1.0,
    "final_norm": "same",
}
# of these tables what an ALBERT has the default of; the rest says how a model is run, or is not read without rotations
PARTS = {
    "attention": ("norm", "gate", "window", "prefix"),
    "loop": ("start", "injection", "boundary", "exit_norm", "exit_gate", "low_cycles", "streams"),
}


def default_task(raw: Mapping[str, Any], source: str) -> Task:
    """What config.json says that the weights are for.

    Raises:
        UserError: no architecture, or one that is not read.
    """
    found = raw.get("architectures") or []
    allowed = ", ".join(get_args(Task))
    require(bool(found), f"{source}: names no architectures: choose a task ({allowed})")
    if not isinstance(found, list) or not isinstance(found[0], str) or found[0] not in ARCHITECTURES:
        raise UserError(
            f"{source}: architectures = {found}: allowed are {', '.join(ARCHITECTURES)}; "
            f"or choose a task ({allowed}) that its tensors suffice for"
        )
    return ARCHITECTURES[found[0]]


def num_classes(raw: Mapping[str, Any], source: str = "config.json") -> int:
    """Outputs of a classifier.

    Raises:
        UserError: id2label is no mapping, or num_labels no whole number.
    """
    labels, count = raw.get("id2label") or {}, 2 if raw.get("num_labels") is None else raw["num_labels"]
    require(isinstance(labels, Mapping), f"{source}: id2label = {labels!r}: must map numbers to names")
    require(
        type(count) is int and 1 <= count <= MOST_LABELS,
        f"{source}: num_labels = {count!r}: must be a whole number from 1 to {MOST_LABELS}",
    )
    return len(labels) or count


def problem_type(raw: Mapping[str, Any], source: str = "config.json") -> ProblemType:
    """What a classifier's outputs are; where config.json does not say, a regression if there is one, else a choice.

    Raises:
        UserError: another value, or a choice among fewer than two labels.
    """
    count, allowed = num_classes(raw, source), get_args(ProblemType)
    named = raw.get("problem_type") or ("regression" if count == 1 else "single_label_classification")
    require(named in allowed, f"{source}: problem_type = {named!r}: allowed are {', '.join(allowed)}, or null")
    require(
        count >= 2 or named != "single_label_classification",
        f"{source}: problem_type = {named!r} with one label: a choice needs two; regression and "
        "multi_label_classification allow one",
    )
    return named


def class_names(raw: Mapping[str, Any], source: str = "config.json") -> tuple[str, ...]:
    """Names of a classifier's labels by number; LABEL_0, LABEL_1, .. where config.json names none.

    Names that come twice carry their number, "other (3)", and what is no UTF-8 in them stands escaped, so that each is
    one column of a table.

    Raises:
        UserError: id2label does not name the labels from 0 on.
    """
    count = num_classes(raw, source)
    labels = raw.get("id2label") or {str(i): f"LABEL_{i}" for i in range(count)}
    require(
        set(labels) == {str(i) for i in range(count)},
        f"{source}: id2label names {', '.join(labels)}: must name the labels 0 to {count - 1}",
    )
    names = [str(labels[str(i)]).encode("utf-8", "backslashreplace").decode() for i in range(count)]
    return tuple(f"{name} ({i})" if names.count(name) > 1 else name for i, name in enumerate(names))


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
        require(
            type(value) is int and 1 <= value <= COUNT.value,
            f"{source}: {name} = {value!r}: must be a whole number from 1 to {COUNT.value}",
        )
    activation = raw.get("hidden_act", "gelu_new")
    require(
        isinstance(activation, str) and activation in ACTIVATIONS,
        f"{source}: hidden_act = {activation!r}: allowed are {', '.join(ACTIVATIONS)}",
    )
    epsilon, dropout = raw.get("layer_norm_eps", 1e-12), raw.get("hidden_dropout_prob", 0.0)
    for name, value in (("layer_norm_eps", epsilon), ("hidden_dropout_prob", dropout)):
        require(type(value) in (int, float) and abs(value) <= HUGE, f"{source}: {name} = {value!r}: must be a number")
    layers, groups = at["num_hidden_layers"], at["num_hidden_groups"]
    require(layers <= MOST_STEPS, f"{source}: num_hidden_layers = {layers}: must be at most {MOST_STEPS}")
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


def write(model: ModelConfig, task: Task, source: Mapping[str, Any]) -> dict[str, Any]:
    """config.json of a model, on top of the fields of `source` that say nothing about its form.

    Raises:
        UserError: naming the field in which the model is not an ALBERT.
    """
    own = {name: (getattr(model, name), value) for name, value in FORM.items()}
    for table, names in PARTS.items():
        mine, default = getattr(model, table), getattr(ModelConfig(), table)
        own |= {f"{table}.{name}": (getattr(mine, name), getattr(default, name)) for name in names}
    if model.attention.head_width:
        own["attention.head_width"] = model.attention.head_width, model.width // model.heads
    for name, (have, value) in own.items():
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
        "hidden_dropout_prob": model.dropout or 0.0,
        "tie_word_embeddings": model.tied,
    }
