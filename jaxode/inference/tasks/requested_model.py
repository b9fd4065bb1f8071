"""The model that infer.py is asked for, and what must be said beside it: a text to measure on, a place for results."""

from __future__ import annotations

from jaxode.checkpoint import RUNS, newest_run
from jaxode.config import InferConfig, require
from jaxode.config.inference_rules import BOUNDS
from jaxode.config.task_settings import COLUMNS, ROW_FLAGS, check_no_decoding, is_default, with_task
from jaxode.data.byte_level import MASK
from jaxode.inference.loading.names import DEFAULTS, LINE_TASKS, STATE_TASKS, ModelFolder, resolve, shipped


def requested_model(config: InferConfig) -> tuple[ModelFolder, str]:
    """The model's folder, and what to call it."""
    if config.checkpoint:
        folder, why = resolve(config.checkpoint, loops=config.loops), ""
    elif newest := newest_run():
        folder, why = resolve(newest, loops=config.loops), " (the newest)"
    else:
        kind = "masked" if config.task == "fill" or MASK in config.prompt else "causal"
        models, why = shipped(), f" (no trained run under {RUNS}/)"
        require(
            DEFAULTS[kind] in models,
            f"no trained run under {RUNS}/, and no {kind} model is shipped (shipped: {', '.join(models) or 'none'}): "
            "train one with python train.py, or name one with --checkpoint",
        )
        folder = resolve(models[DEFAULTS[kind]], loops=config.loops)
    return folder, f"{folder}{why}"


def check_bound(config: InferConfig, folder: ModelFolder) -> None:
    """What chooses the depth bounds something that the model gives.

    Raises:
        UserError: it does not.
    """
    able, instead = ("max_loss_increase", "max_error"), "labels no text; bound its loss with max_loss_increase"
    if folder.task == "classifier":
        able = BOUNDS
    elif folder.task in STATE_TASKS:
        able, instead = ("max_error",), "is measured by its states; bound their error with max_error"
    require(
        not config.bound or config.bound in able,
        f"{config.bound} = {getattr(config, config.bound, None)}: {folder.path} {instead}, or choose the depth with "
        "--steps or --budget",
    )


def check_places(config: InferConfig, task: str, folder: ModelFolder) -> None:
    """Nothing is written beside a model that jaxode did not make, and a Hugging Face model brings no text of its own.

    Raises:
        UserError: no place for the results, or no text to measure on.
    """
    foreign = folder.origin == "huggingface"
    require(
        not foreign or task != "export",
        "task = export: a Hugging Face folder is no run; copy it, or use save() of the loaded model in Python",
    )
    require(
        not foreign or task not in ("sweep", "report", "calibrate") or bool(config.file),
        f"task = {task}: a Hugging Face folder holds no text to measure on; name a text file with --file",
    )
    require(
        not foreign or not config.bound or bool(config.bound_file),
        f"{config.bound}: a Hugging Face folder holds no validation text to promise it on; name one with --bound-file, "
        "or choose the depth with --steps or --budget",
    )
    what = "a shipped model" if folder.origin == "shipped" else "a model that jaxode did not make"
    require(
        folder.ours or task not in ("sweep", "report") or bool(config.out),
        f"task = {task}: nothing is written beside {what}; name a folder for the results with --out",
    )
    require(
        folder.origin != "shipped" or task != "calibrate" or bool(config.out),
        f"task = calibrate: nothing is written beside a shipped model; copy {folder.path} and name the copy with "
        "--checkpoint, or name a folder for the calibration with --out",
    )


def check_rows(config: InferConfig, task: str, folder: ModelFolder) -> None:
    """Flags about texts a line do not stand where none are read.

    Raises:
        UserError: one that would be passed over.
    """
    if folder.task not in ("classifier", "token_classifier"):
        for name in COLUMNS:
            require(
                is_default(config, name),
                f"{with_task(config, name)}: {folder.path} is no classifier, which reads columns; leave it out",
            )
    if task == "bench" and folder.task in STATE_TASKS:
        check_no_decoding(config, str(folder.path))
    if config.by_line or (folder.task in LINE_TASKS and (config.file or config.bound_file)):
        return
    for name in ROW_FLAGS:
        require(
            is_default(config, name) or (task, name) == ("bench", "batch_size"),
            f"{with_task(config, name)}: {folder.path} reads its text as a whole there; leave it out",
        )


def wants_calibrations(config: InferConfig) -> bool:
    """Whether the calibrations of a model matter to the task.

    Where they do not, one that was made for other weights is no reason to refuse it.
    """
    if config.task == "calibrate":
        return False
    full = config.steps is None and config.budget is None and not config.bound and config.solver == "auto"
    return (
        not full or config.speculative or bool(config.compare) or config.task in ("sweep", "report", "export", "bench")
    )
