"""Which checkpoint of a run is the best one, and when no better one is to be expected."""

from __future__ import annotations

import dataclasses
import math

from jaxode.checkpoint.best import Best, forget_best, read_best, write_best
from jaxode.checkpoint.folder import RunFolder
from jaxode.config import Config, UserError, require
from jaxode.evaluation import StateEvaluation
from jaxode.evaluation.agreement import metric_names, plain_name
from jaxode.evaluation.entities import mark_entities, word_metric_names
from jaxode.evaluation.labels import LabelEvaluation
from jaxode.training.validation import AnyEvaluation


class Selection:
    """The best validation so far, by `train.best`; without that nothing is chosen."""

    def __init__(self, config: Config, run: RunFolder):
        """Before the first update.

        Raises:
            UserError: `train.best` is no metric of such a model.
        """
        self.run, self.metric, self.patience = run, config.train.best, config.train.patience
        self.every = config.train.validate_every
        self.best: Best | None = None
        self.ended = False
        """Whether the run that goes on was over: nothing is left to be chosen of its last update."""
        self._name = _named(config) if self.metric else ""

    def __bool__(self) -> bool:
        """Whether anything is chosen."""
        return bool(self.metric)

    def resume(self, start: int) -> None:
        """Go on from update `start`: with the best one that the run had then; one by another metric counts no more.

        Raises:
            UserError: what was the best cannot be read, or the folder not be written.
        """
        best = read_best(self.run)
        if best is not None and best.metric == self.metric and best.step <= start:
            self.ended = best.ended
            self.best = dataclasses.replace(best, ended=False)
            write_best(self.run, self.best)
        elif best is not None:
            forget_best(self.run)

    def value(self, found: AnyEvaluation) -> float:
        """What is compared; not finite is the worst."""
        if isinstance(found, LabelEvaluation):
            value = found.metrics[self._name] if self._name else found.loss
        else:
            value = found.error if isinstance(found, StateEvaluation) else found.nats_per_token
        return value if math.isfinite(value) else (math.inf if self._falls else -math.inf)

    def is_better(self, found: AnyEvaluation) -> bool:
        """Than the best one; equal is not."""
        value = self.value(found)
        if self.best is None:
            return math.isfinite(value)
        return value < self.best.value if self._falls else value > self.best.value

    def keep(self, step: int, found: AnyEvaluation) -> None:
        """Take update `step`, whose checkpoint is on disk, as the best.

        Raises:
            UserError: that cannot be written down.
        """
        self.best = Best(step, self.metric, self.value(found))
        write_best(self.run, self.best)

    def end(self) -> None:
        """The run is over.

        Raises:
            UserError: that cannot be written down.
        """
        if self.best is not None:
            write_best(self.run, dataclasses.replace(self.best, ended=True))

    def exhausted(self, step: int) -> bool:
        """Whether as many validations as `train.patience` allows have passed without a better one."""
        if not self.patience or self.best is None:
            return False
        return step // self.every - self.best.step // self.every >= self.patience

    @property
    def _falls(self) -> bool:
        return not self._name or self._name == "root mean square error"


def _named(config: Config) -> str:
    """The metric that `train.best` means; empty: the loss."""
    asked, model = config.train.best, config.model
    if asked == "loss":
        return ""
    names: tuple[str, ...] = ()
    if model.head == "token_classifier":
        names = word_metric_names(model.labels)
        require(
            not plain_name(asked).startswith("entity") or mark_entities(model.labels),
            f'train.best = "{asked}": the labels {_some(model.labels)} mark no entities, as B-.., I-.. and O do; name '
            f"{', '.join(['loss', *map(plain_name, names)])}",
        )
    elif model.labels_texts:
        names = metric_names(model.problem_type, model.labels)
    found = [name for name in names if plain_name(name).startswith(plain_name(asked))]
    if not found:
        able = ", ".join(["loss", *map(plain_name, names)])
        raise UserError(f'train.best = "{asked}": a {model.learns} model is validated by {able}')
    # "F1" is also how "F1, mean over labels" begins
    exact = [name for name in found if plain_name(name) == plain_name(asked)]
    found = exact or found
    require(
        len(found) == 1,
        f'train.best = "{asked}": means {" or ".join(map(plain_name, found))}; write more of it',
    )
    return found[0]


def _some(labels: tuple[str, ...]) -> str:
    return ", ".join(labels[:10]) + (", .." if len(labels) > 10 else "")
