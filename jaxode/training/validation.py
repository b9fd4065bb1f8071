"""What a validation found: one of three kinds, in words and as numbers."""

from __future__ import annotations

from jaxode.evaluation import Evaluation, StateEvaluation
from jaxode.evaluation.labels import LabelEvaluation

AnyEvaluation = Evaluation | StateEvaluation | LabelEvaluation


def told(evaluation: AnyEvaluation) -> str:
    """What a validation found, in words."""
    if isinstance(evaluation, LabelEvaluation):
        metrics = ", ".join(f"{name} {value:.4f}" for name, value in evaluation.metrics.items())
        return f"validation loss {evaluation.loss:.4f} per {evaluation.unit}, {metrics}"
    if isinstance(evaluation, StateEvaluation):
        return f"validation error {evaluation.error:.4f} of the states, relative to the model at the beginning"
    return f"validation loss {evaluation.nats_per_token:.4f} nats per token"


def validation_metrics(evaluation: AnyEvaluation) -> dict[str, float]:
    """The same as numbers, by the names that the log has."""
    if isinstance(evaluation, LabelEvaluation):
        named = {f"validation_{name.replace(' ', '_').lower()}": value for name, value in evaluation.metrics.items()}
        return {"validation_loss": evaluation.loss, **named}
    if isinstance(evaluation, StateEvaluation):
        return {"validation_error": evaluation.error, "validation_cosine": evaluation.cosine}
    metrics = {"validation_loss": evaluation.nats_per_token}
    if evaluation.bits_per_byte is not None:
        metrics["validation_bits_per_byte"] = evaluation.bits_per_byte
    return metrics
