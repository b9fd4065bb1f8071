"""The model that infer.py is asked for: a run, a shipped one or a Hugging Face folder, and what each cannot do."""

from __future__ import annotations

from pathlib import Path

from jaxode.checkpoint import RUNS, RunFolder, TrainedModel, newest_run
from jaxode.config import InferConfig, UserError, require
from jaxode.data.tokenizers import MASK
from jaxode.inference.loading.names import DEFAULTS, find, is_shipped, shipped
from jaxode.interop import class_names, from_pretrained
from jaxode.model import Encoder


def which_model(config: InferConfig) -> tuple[Path, str]:
    """The model's folder, and what to call it."""
    if config.checkpoint:
        path, why = find(config.checkpoint), ""
    elif newest := newest_run():
        path, why = newest, " (the newest)"
    else:
        kind = "masked" if config.task == "fill" or MASK in config.prompt else "causal"
        models, why = shipped(), f" (no trained run under {RUNS}/)"
        require(
            DEFAULTS[kind] in models,
            f"no trained run under {RUNS}/, and no {kind} model is shipped (shipped: {', '.join(models) or 'none'}): "
            "train one with python train.py, or name one with --checkpoint",
        )
        path = models[DEFAULTS[kind]]
    return path, f"{f'shipped model {path.name}' if is_shipped(path) else f'run {path}'}{why}"


def check_shipped(config: InferConfig, task: str, path: Path) -> None:
    """The package's own folder is not written to."""
    needs = task in ("sweep", "report")
    require(
        not needs or bool(config.out),
        f"task = {task}: nothing is written beside a shipped model; name a folder for the results with --out",
    )
    require(
        task != "calibrate",
        f"task = calibrate: nothing is written beside a shipped model; copy {path} and name the copy with --checkpoint",
    )


def check_pretrained(config: InferConfig, task: str) -> None:
    """A Hugging Face folder brings no text of its own."""
    require(task != "export", "task = export: a Hugging Face folder is no run; copy it, or use jaxode.save_pretrained")
    require(task != "generate", "task = generate: an ALBERT is a masked model and cannot continue text; use fill")
    needs = task in ("sweep", "report", "calibrate")
    require(
        not needs or bool(config.file),
        f"task = {task}: a Hugging Face folder holds no text to measure on; name a text file with --file",
    )
    require(
        config.max_loss_increase is None,
        "max_loss_increase: a Hugging Face folder holds no validation text to promise it on; use --steps or --budget",
    )


def labels_of(path: Path, pretrained: bool) -> tuple[str, ...]:
    """Names of the labels that a model gives."""
    labels = class_names(path) if pretrained else ()
    require(
        bool(labels),
        f"task = classify: {path} has no classifier head; name the folder of a Hugging Face "
        "AlbertForSequenceClassification with --checkpoint",
    )
    return labels


def load_pretrained(path: Path, task: str) -> TrainedModel:
    """An ALBERT as if it were a run."""
    found = from_pretrained(path, task=task)
    if found.tokenizer is None:
        raise UserError(f"{path}: holds no tokenizer; copy tokenizer.json and tokenizer_config.json beside its weights")
    assert not isinstance(found.model, Encoder)
    return TrainedModel(
        model=found.model,
        architecture=found.architecture,
        params=found.params,
        config=found.config,
        tokenizer=found.tokenizer,
        step=0,
        run=RunFolder(path),
    )
