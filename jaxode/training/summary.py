"""What a finished run was: RUN/summary.json, for those who compare runs."""

from __future__ import annotations

import json
import math

from jaxode.config import UserError
from jaxode.evaluation.figures import replacing
from jaxode.training.loop import TrainResult

SUMMARY = "summary.json"


def write_summary(result: TrainResult) -> None:
    """Write the size of the model, what it has read, and the loss that it reached on how many tokens.

    Raises:
        UserError: the folder cannot be written.
    """
    assert result.validation is not None
    train, path = result.config.train, result.run.path / SUMMARY
    text = {
        "updates": result.step,
        "parameters": sum(math.prod(value.shape) for value in result.params.values()),
        "trained_tokens": result.step * train.batch_size * result.config.model.length,
        "nats_per_token": result.validation.nats_per_token,
        "validation_tokens": result.validation.tokens,
        "tokens": {split: stats.tokens for split, stats in result.data.stats.items()},
    }
    try:
        with replacing(path) as partial:
            partial.write_text(json.dumps(text, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from None
