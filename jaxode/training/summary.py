"""What a finished run was: RUN/summary.json, for those who compare runs, and its sweep over depth."""

from __future__ import annotations

import json
import math
from typing import Any

from jaxode.config import UserError
from jaxode.evaluation import (
    Method,
    StateEvaluation,
    compare_states,
    default_configs,
    depth_sweep,
    save_state_sweep,
    save_sweep,
)
from jaxode.evaluation.agreement import plain_name
from jaxode.evaluation.answer_sweep import answer_sweep, save_answer_sweep, task_answers
from jaxode.evaluation.figures import replacing
from jaxode.evaluation.label_sweep import label_sweep, save_label_sweep
from jaxode.evaluation.labels import LabelEvaluation
from jaxode.training.run import TrainResult

SUMMARY = "summary.json"


def write_summary(result: TrainResult) -> None:
    """Write the size of the model, what it has read, and the loss that it reached on how many tokens; null stands for
    what is not a finite number.

    Raises:
        UserError: the folder cannot be written.
    """
    found = result.validation
    assert found is not None
    reached: dict[str, Any]
    if isinstance(found, LabelEvaluation):
        reached = {"loss": found.loss, **{plain_name(name): value for name, value in found.metrics.items()}}
    elif isinstance(found, StateEvaluation):
        reached = {"error": found.error, "block_evaluations": found.block_evaluations}
    else:
        reached = {"nats_per_token": found.nats_per_token}
    path, unit = result.run.path / SUMMARY, found.unit if isinstance(found, LabelEvaluation) else "token"
    # JSON has no word for a correlation that is not a number
    reached = {name: value if math.isfinite(value) else None for name, value in reached.items()}
    text = {
        "updates": result.step,
        **({"best_update": result.chosen} if result.config.train.best else {}),
        "parameters": sum(math.prod(value.shape) for value in result.params.values()),
        "trained_tokens": result.tokens,
        **reached,
        f"validation_{unit}s": found.tokens,
        "tokens": {split: stats.tokens for split, stats in result.data.stats.items()},
    }
    try:
        with replacing(path) as partial:
            partial.write_text(json.dumps(text, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from None


def sweep(result: TrainResult) -> str:
    """Loss, or an encoder's error, against depth on the validation split, or train.final_batches of it: sweep.csv,
    sweep.png, and the table; of a task, exact matches: answers.csv, answers.png.

    Raises:
        UserError: the folder cannot be written.
    """
    config, folder, data = result.config, result.run.path, result.data
    batches = data.validation(config.train.batch_size, config.train.final_batches or None)
    if result.config.model.labels_texts:
        return save_label_sweep(folder, label_sweep(result.architecture, result.params, batches))
    if config.data.asks:
        questions = task_answers(config.data, data.spec, data.length, config.train.batch_size)
        found = answer_sweep(result.architecture, result.params, questions, progress="answers")
        return save_answer_sweep(folder, found, config.data.corpus)
    if result.config.model.head == "vocabulary":
        found = depth_sweep(
            result.architecture,
            result.params,
            batches,
            document_mask=config.data.apart,
            bytes_per_token=data.bytes_per_token("validation"),
            progress=True,
        )
        return save_sweep(folder, found)
    methods = [Method(f"{one.solver}, {one.schedule}", one) for one in default_configs(config.model)]
    compared = compare_states(
        result.architecture, result.params, batches, methods, teacher=result.teacher, progress="sweep"
    )
    return save_state_sweep(folder, compared)
