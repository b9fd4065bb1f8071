"""from_pretrained and save_pretrained: a Hugging Face ALBERT as one of jaxode's own models, and back."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast, get_args

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from jaxode.checkpoint import Task, TrainedModel, new_folder
from jaxode.config import Config, DataConfig, ModelConfig, TrainConfig, UserError, dotted, require
from jaxode.data import Tokenizer
from jaxode.data import from_pretrained as load_tokenizer
from jaxode.data.tokenizer_files import (
    CHAT_TEMPLATE,
    SPIECE,
    TOKENIZER_CONFIG,
    TOKENIZER_FILES,
    UNIGRAM,
    VOCABULARY,
    tokenizer_class,
    without_mark,
)
from jaxode.interop import albert_config, albert_tensors
from jaxode.interop.families import FAMILIES, Family, family_of
from jaxode.interop.families.family import Fields
from jaxode.interop.files import CONFIG, locate, read_config
from jaxode.interop.shard_writer import MAX_SHARD_BYTES, write_shards
from jaxode.interop.tensor_files import open_tensors
from jaxode.interop.tensor_table import TensorTable
from jaxode.model import CausalLM, Encoder, MaskedLM, SequenceClassifier, TokenClassifier, make_model
from jaxode.model.heads import ProblemType
from jaxode.model.parameters import Parameters, matmul_type, split, without_calibrations

Pretrained = TrainedModel
"""A model read from Hugging Face files is one like any other; `source` holds its config.json."""

WeightType = Literal["float32", "bfloat16"]
"""What weights can be read in, whatever the files hold."""

_MULTIPLES = tuple(2**power for power in range(3, 11))
"""To which vocabularies are padded: 8 to 1024."""


def model_config(folder: Path | str) -> ModelConfig:
    """The ModelConfig of a Hugging Face folder, from its config.json and the names of its tensors.

    Raises:
        UserError: no config.json, or one of a model that is not read.
    """
    raw, source = read_config(Path(folder)), str(Path(folder) / CONFIG)
    family = family_of(raw, source)
    if family is None:
        return albert_config.model_config(raw, source)
    return family.model(Fields(raw, source, frozenset(open_tensors(Path(folder)))))


def with_loops(folder: Path | str, config: ModelConfig, loops: int) -> ModelConfig:
    """The same model with another N.

    Raises:
        UserError: an ALBERT, or no whole number of at least 1.
    """
    raw, source = read_config(Path(folder)), str(Path(folder) / CONFIG)
    require(
        family_of(raw, source) is not None,
        f"loops = {loops}: {source} is of an ALBERT, whose number of steps is DepthConfig(steps=..) or --steps",
    )
    require(type(loops) is int and loops >= 1, f"loops = {loops!r}: must be a whole number from 1")
    return dataclasses.replace(config, steps=loops)


def pretrained_task(folder: Path | str, task: str | None = None) -> Task:
    """What a Hugging Face folder is read for: `task`, or where that is None what its config.json says.

    Raises:
        UserError: no config.json, one that names no architecture that is read, or an unknown task.
    """
    raw, source = read_config(Path(folder)), str(Path(folder) / CONFIG)
    if family_of(raw, source) is not None:
        require(task in (None, "causal"), f'task = "{task}": {folder} holds a causal model; leave it out')
        return "causal"
    allowed = ", ".join(get_args(albert_config.Task))
    require(task is None or task in get_args(albert_config.Task), f'task = "{task}": allowed are {allowed}, or None')
    return cast(Task, task) if task else albert_config.default_task(raw, source)


def class_names(folder: Path | str) -> tuple[str, ...]:
    """Names of a classifier's labels by number, from config.json alone; none where its weights are for another task.

    Raises:
        UserError: no config.json, one that names no architecture that is read, or other labels than 0, 1, ..
    """
    raw, source = read_config(Path(folder)), str(Path(folder) / CONFIG)
    if family_of(raw, source) is not None:
        return ()
    labelled = albert_config.default_task(raw, source) in albert_config.LABELLED
    return albert_config.class_names(raw, source) if labelled else ()


def from_pretrained(
    name: Path | str, task: str | None = None, *, dtype: str | None = None, loops: int | None = None
) -> TrainedModel:
    """Read a Hugging Face ALBERT (Lan et al. 2020) or looped language model as a jaxode model of the same logits.

    An ALBERT's N layers, or a looped model's N loops, are N steps of size 1 of one field; every solver, schedule and
    number of steps of `DepthConfig` applies. Pass `segments` 1 for real tokens and 0 for padding, and `token_types` for
    sentence pairs. Dropout on an ALBERT's attention weights has no counterpart and is off.

    Args:
        name: a folder, or a name in the Hugging Face cache or hub. Of its files config.json, model.safetensors or
            pytorch_model.bin (whole or in parts; the latter needs torch) and the tokenizer are read: tokenizer.json,
            spiece.model, or the vocab.txt of the class that tokenizer_config.json or config.json names.
        task: masked (a head over the vocabulary), classifier (of the config's `problem_type`: a label a sequence,
            several, or numbers), token_classifier (labels of tokens), question_answering (where an answer begins and
            ends) or encoder (states, and a pooled vector where the file holds a pooler); None takes it from the
            config's `architectures`.
        dtype: float32 or bfloat16, of the weights and of the matmuls (norms, softmax and the state stay float32); None
            is float32 for an ALBERT, which is small, and what its files hold for a looped language model.
        loops: N of a looped language model, in place of its config.json's; more than it was trained with are allowed.

    Raises:
        UserError: files that are missing, damaged, quantised or of a model that is not read, tensors or a tokenizer
            that do not fit, weights that are NaN or larger than the memory, or an unknown task or type.
    """
    allowed = ", ".join(get_args(WeightType))
    require(dtype in (None, *get_args(WeightType)), f'dtype = "{dtype}": allowed are {allowed}, or None')
    folder = locate(name)
    chosen = pretrained_task(folder, task)
    raw, source = read_config(folder), str(folder / CONFIG)
    family = family_of(raw, source)
    if family is not None:
        return _looped(family, folder, raw, source, dtype, loops)
    require(loops is None, f"loops = {loops}: {source} is of an ALBERT, whose number of steps is DepthConfig(steps=..)")
    config = albert_config.model_config(raw, source)
    classes, problem_type = 2, None
    if chosen in albert_config.LABELLED:
        classes = albert_config.num_classes(raw, source)
    if chosen == "classifier":
        problem_type = albert_config.problem_type(raw, source)
    tokenizer = _tokenizer(folder, config)
    _check_not_quantised(raw, source)
    files = albert_tensors.plain(open_tensors(folder))
    head = ("pooler" if "pooler.weight" in files else "none") if chosen == "encoder" else "vocabulary"
    config = dataclasses.replace(config, tied=albert_tensors.is_tied(files, config.tied), head=head)
    build = partial(_build, config, chosen, classes, problem_type)
    # shapes only: fresh parameters would be made to be thrown away
    _, shapes = split(nnx.eval_shape(build))
    params = albert_tensors.table(config, shapes, files).read(
        files,
        shapes,
        dtype=dtype or albert_tensors.DTYPE,
        remedy=f'the weights do not fit config.json or the task "{chosen}"',
        fields=raw,
    )
    architecture, _ = split(nnx.eval_shape(partial(build, dtype=matmul_type(params))))
    # a batch of long rows over a large vocabulary: its logits should fit in memory
    train, data = TrainConfig(batch_size=4), DataConfig(tokenizer=str(folder))
    return TrainedModel(
        model=architecture.bind(params),
        architecture=architecture,
        params=params,
        config=Config(model=config, data=data, train=train),
        tokenizer=tokenizer,
        task=chosen,
        source=raw,
        folder=folder,
        labels=albert_config.class_names(raw, source) if chosen in albert_config.LABELLED else (),
    )


def _looped(
    family: Family, folder: Path, raw: dict[str, Any], source: str, dtype: str | None, loops: int | None
) -> TrainedModel:
    """A causal model of one of the families."""
    require(loops is None or (type(loops) is int and loops >= 1), f"loops = {loops!r}: must be a whole number from 1")
    _check_not_quantised(raw, source)
    files = open_tensors(folder)
    config = family.model(Fields(raw, source, frozenset(files)))
    if loops is not None:
        config = dataclasses.replace(config, steps=loops)
    tokenizer = _tokenizer(folder, config)
    _, shapes = split(nnx.eval_shape(lambda: CausalLM(config, rngs=nnx.Rngs(0))))
    params = family.table(config, frozenset(files)).read(files, shapes, dtype=dtype, fields=raw)
    dtype_of = matmul_type(params)
    architecture, _ = split(nnx.eval_shape(lambda: CausalLM(config, rngs=nnx.Rngs(0), dtype=dtype_of)))
    train, data = TrainConfig(batch_size=1), DataConfig(tokenizer=str(folder))
    return TrainedModel(
        model=architecture.bind(params),
        architecture=architecture,
        params=params,
        config=Config(model=config, data=data, train=train),
        tokenizer=tokenizer,
        task="causal",
        source=raw,
        folder=folder,
        labels=(),
    )


def save_pretrained(trained: TrainedModel, folder: Path | str, *, max_shard_bytes: int = MAX_SHARD_BYTES) -> Path:
    """Write config.json, the weights in their type and the tokenizer, for transformers to load with the same logits.

    Args:
        trained: what `from_pretrained` gave, or a run of train.py whose model has the form of an ALBERT.
        folder: where to; it appears whole or not at all.
        max_shard_bytes: larger weights are written as several files with an index.

    Raises:
        UserError: the folder holds something or cannot be written, or the model is no ALBERT, and none of the family
            of looped models that it came from.
    """
    folder = Path(folder)
    model, params = trained.config.model, without_calibrations(trained.params)
    kind = np.dtype(matmul_type(params)).name
    family = FAMILIES.get(trained.source.get("model_type", ""))
    if family is not None:
        config = dict(trained.source) | family.fields(model, trained.source)
        config |= {"model_type": family.model_type, "dtype": kind}
        config.pop("torch_dtype", None)
        table = family.table(model, ())
        _check_held(model, family, config, table)
        return _write(trained, folder, config, table, params, max_shard_bytes)
    task = "masked" if trained.task == "causal" else trained.task  # what is causal is refused by its kind
    config = albert_config.write(model, task, trained.source) | {"dtype": kind}
    if task in albert_config.LABELLED:
        _write_classes(config, params["head.classifier.bias"].shape[0], trained)
    table = albert_tensors.written(model, params, prefix="" if task == "encoder" else "albert.")
    return _write(trained, folder, config, table, params, max_shard_bytes)


def _check_held(model: ModelConfig, family: Family, config: dict[str, Any], table: TensorTable) -> None:
    """What is written says what the model is: whoever reads it computes the same."""
    names = frozenset(name for pair in table.pairs for name in pair.names)
    read = dotted(family.model(Fields(config, CONFIG, names)))
    for name, value in dotted(model).items():
        # nobody drops units of a model that is read to be run
        require(
            read.get(name) == value or name == "dropout",
            f"model.{name} = {value!r}: a {family.model_type} has {read.get(name)!r}; "
            "jaxode.load(..).save(FOLDER) keeps what the model has",
        )


def _write(
    trained: TrainedModel,
    folder: Path,
    config: dict[str, Any],
    table: TensorTable,
    params: Parameters,
    max_shard_bytes: int,
) -> Path:
    copied = _holds_its_tokenizer(trained)
    if trained.tokenizer is not None and not copied:
        _check_size(trained.tokenizer, trained.config.model, str(folder))
        ids = trained.tokenizer
        config |= {"pad_token_id": ids.pad_id, "bos_token_id": ids.end_id, "eos_token_id": ids.end_id}
        config.pop("tokenizer_class", None)
    with new_folder(folder) as aside:
        (aside / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        write_shards(aside, table.shapes(params), partial(table.tensor, params=params), max_shard_bytes)
        if trained.tokenizer is not None:
            _save_tokenizer(trained.tokenizer, aside, trained.folder if copied else None)
    return folder


def _build(
    config: ModelConfig,
    task: Task,
    classes: int,
    problem_type: ProblemType | None,
    dtype: DTypeLike = jnp.float32,
) -> MaskedLM | SequenceClassifier | TokenClassifier | Encoder:
    rngs = nnx.Rngs(0)
    if task in ("token_classifier", "question_answering"):
        return TokenClassifier(config, classes, spans=task == "question_answering", rngs=rngs, dtype=dtype)
    if task == "masked":
        return MaskedLM(config, rngs=rngs, dtype=dtype)
    if problem_type is not None:
        return SequenceClassifier(config, classes, problem_type=problem_type, rngs=rngs, dtype=dtype)
    encoder = make_model(config, dtype=dtype)
    assert isinstance(encoder, Encoder)
    return encoder


def _check_not_quantised(raw: Mapping[str, Any], source: str) -> None:
    quantisation = raw.get("quantization_config")
    method = quantisation.get("quant_method") if isinstance(quantisation, Mapping) else quantisation
    require(
        quantisation is None,
        f"{source}: quantization_config = {method!r}: quantised weights are not read; use a release of the model in "
        "bfloat16, float16 or float32",
    )


def _write_classes(config: dict[str, Any], classes: int, trained: TrainedModel) -> None:
    model = trained.model
    if len(config.get("id2label") or ()) != classes:
        names = trained.labels if len(trained.labels) == classes else [f"LABEL_{i}" for i in range(classes)]
        config["id2label"] = {str(i): name for i, name in enumerate(names)}
        config["label2id"] = {label: int(i) for i, label in config["id2label"].items()}
    if not isinstance(model, SequenceClassifier):
        return
    if config.get("problem_type") is None and albert_config.problem_type(config) != model.problem_type:
        config["problem_type"] = model.problem_type


def _tokenizer(folder: Path, config: ModelConfig) -> Tokenizer | None:
    held = [name for name in TOKENIZER_FILES if (folder / name).is_file()]
    if not held:
        return None
    without = "or remove its files to do without one"
    # an ALBERT's own class reads no vocab.txt, and finds every word unknown
    require(
        VOCABULARY not in held or bool({UNIGRAM, SPIECE} & set(held)) or tokenizer_class(folder) is not None,
        f"{folder}: neither {TOKENIZER_CONFIG} nor {CONFIG} names the class of the tokenizer that {VOCABULARY} belongs "
        f'to: write {{"tokenizer_class": "BertTokenizer"}} into {TOKENIZER_CONFIG} if it is that of a BERT, {without}',
    )
    try:
        tokenizer = load_tokenizer(str(folder), framed=True)
    except UserError as error:
        # as the error escapes it
        prefix = str(UserError(f'data.tokenizer = "{folder}": '))
        reason = str(error).removeprefix(prefix).split("; give ")[0]
        raise UserError(f"{folder}: its tokenizer {reason}; repair it, {without}") from None
    _check_size(tokenizer, config, str(folder))
    return tokenizer


def _check_size(tokenizer: Tokenizer, config: ModelConfig, source: str) -> None:
    """A tokenizer of this model: at most as many tokens, and not far fewer unless the vocabulary is padded."""
    have, need = tokenizer.vocab_size, config.vocab_size
    sizes = f"{source}: its tokenizer has {have} tokens, the model's vocabulary {need}; "
    require(have <= need, f"{sizes}the tokenizer belongs to another model")
    padded = any(-(-have // multiple) * multiple == need for multiple in _MULTIPLES)
    require(
        2 * have >= need or padded,
        f"{sizes}most words would be unknown: it belongs to another model, or lacks a part; copy the right one, or do "
        "without one",
    )


def _holds_its_tokenizer(pretrained: TrainedModel) -> bool:
    """Whether the model's folder still holds the tokenizer that the model goes with."""
    try:
        found = _tokenizer(pretrained.folder, pretrained.config.model)
    except UserError:
        return False
    own = pretrained.tokenizer
    return found is not None and own is not None and found.fingerprint == own.fingerprint


def _save_tokenizer(tokenizer: Tokenizer, folder: Path, source: Path | None) -> None:
    """The files that it came from, or else tokenizer.json and its roles; tokenizer.json in any case."""
    if source is None:
        tokenizer.save(folder)
        roles = {"eos_token": tokenizer.end_id, "pad_token": tokenizer.pad_id, "mask_token": tokenizer.mask_id}
        named = {role: tokenizer.token(index) for role, index in roles.items() if index is not None}
        if tokenizer.chat_template is not None:
            named = dict(tokenizer.chat_template.tokens) | named | {"chat_template": tokenizer.chat_template.template}
        text = json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", **named}, indent=2) + "\n"
        (folder / TOKENIZER_CONFIG).write_text(text, encoding="utf-8")
        return
    for name in (*TOKENIZER_FILES, CHAT_TEMPLATE):
        if (source / name).is_file():
            (folder / name).write_bytes(without_mark((source / name).read_bytes()))
    if not (folder / UNIGRAM).exists():
        tokenizer.save_model(folder)
