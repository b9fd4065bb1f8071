"""Validation of a run, and what it found, one of three kinds: in words and as numbers."""

from __future__ import annotations

from dataclasses import dataclass

from jaxode import hosts
from jaxode.config import Config, DepthConfig
from jaxode.data import PreparedData
from jaxode.evaluation import Evaluation, StateEvaluation, evaluate, evaluate_states
from jaxode.evaluation.agreement import plain_name
from jaxode.evaluation.labels import LabelEvaluation, evaluate_labels
from jaxode.model.low_rank import merged
from jaxode.model.parameters import Architecture, Parameters
from jaxode.training.parallel import Parallel
from jaxode.training.signals import StopRequest

AnyEvaluation = Evaluation | StateEvaluation | LabelEvaluation


@dataclass(frozen=True)
class Validation:
    """On the validation text: the loss, with a classifier's metrics, or an encoder's distance from its teacher.

    At full depth. There an encoder whose weights stay, and whose clock is anchored (`model.clock.anchored`), is its
    teacher: it is solved in the `shortest` way that it is trained for.
    """

    config: Config
    shortest: DepthConfig
    architecture: Architecture
    data: PreparedData
    parallel: Parallel
    teacher: tuple[Architecture, Parameters] | None

    @property
    def spread(self) -> bool:
        """Whether it runs on all devices. What looks at single rows needs them in one process."""
        return not hosts.several() or self.config.model.learns in ("causal", "masked")

    @property
    def depth(self) -> DepthConfig:
        """How the model is solved."""
        model = self.config.model
        anchored = model.clock.anchored and model.loop.streams == 1 and self.config.train.trains == "told"
        encodes = model.head != "vocabulary" and not model.labels_texts
        return self.shortest if anchored and encodes else self.config.depth

    def laid_out(self, params: Parameters) -> Parameters:
        """As a call takes them: as they lie on the devices, or whole; low-rank changes merged."""
        return merged(params if self.spread else hosts.whole(params))

    def __call__(self, params: Parameters, limit: int | None, stop: StopRequest | None = None) -> AnyEvaluation:
        """At most `limit` batches.

        Raises:
            Stopped: a signal came, where it may `stop` one.
        """
        config = self.config
        batches = self.data.validation(config.train.batch_size, limit)
        batches = batches if stop is None else stop.until(batches)
        batches = map(self.parallel.deal_batch, batches) if self.spread else batches
        if config.model.labels_texts:
            return evaluate_labels(self.architecture, params, batches, self.depth)
        if config.model.head != "vocabulary":
            assert self.teacher is not None  # the curriculum refuses it
            return evaluate_states(self.architecture, params, batches, self.depth, self.teacher)
        return evaluate(
            self.architecture,
            params,
            batches,
            self.depth,
            document_mask=config.data.apart,
            bytes_per_token=self.data.bytes_per_token("validation"),
        )


def told(evaluation: AnyEvaluation) -> str:
    """What a validation found, in words."""
    if isinstance(evaluation, LabelEvaluation):
        metrics = ", ".join(f"{name} {value:.4f}" for name, value in evaluation.metrics.items())
        return f"validation loss {evaluation.loss:.4f} per {evaluation.unit}, {metrics}"
    if isinstance(evaluation, StateEvaluation):
        where = f"after {evaluation.block_evaluations:g} block evaluations"
        return f"validation error {evaluation.error:.4f} of the states {where}, relative to the model at the beginning"
    return f"validation loss {evaluation.nats_per_token:.4f} nats per token"


def validation_metrics(evaluation: AnyEvaluation) -> dict[str, float]:
    """The same as numbers, by the names that the log has."""
    if isinstance(evaluation, LabelEvaluation):
        named = {f"validation_{plain_name(name)}": value for name, value in evaluation.metrics.items()}
        return {"validation_loss": evaluation.loss, **named}
    if isinstance(evaluation, StateEvaluation):
        return {"validation_error": evaluation.error, "validation_cosine": evaluation.cosine}
    metrics = {"validation_loss": evaluation.nats_per_token}
    if evaluation.bits_per_byte is not None:
        metrics["validation_bits_per_byte"] = evaluation.bits_per_byte
    return metrics
