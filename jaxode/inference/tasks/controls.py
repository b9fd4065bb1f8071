"""Controls of a claim about depth, beside a report or a sweep of infer.py: where a loop is cut, and on what text."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from jaxode.calibration import calibration_batches
from jaxode.checkpoint import TrainedModel
from jaxode.config import InferConfig, ModelConfig, UserError, require
from jaxode.data import Batch
from jaxode.evaluation.controls import check_controls, depth_controls, save_controls
from jaxode.inference.tasks.measured_text import corpus
from jaxode.interop import is_pretrained

CALIBRATION_BATCHES = 10


def control_counts(model: ModelConfig, steps: Iterable[int]) -> list[int]:
    """The passes after which a loop is cut, of those counts of steps that are compared.

    Raises:
        UserError: the model has no controls.
    """
    passes = check_controls(model)
    counts = [n // model.groups for n in steps if n % model.groups == 0]
    return sorted({k for k in counts if 1 <= k < passes})


def write_controls(
    trained: TrainedModel,
    config: InferConfig,
    batches: Sequence[Batch],
    steps: Iterable[int],
    write: Callable[[str], None],
    note: Callable[[str], None],
) -> None:
    """Measure every control, write the table and the files.

    Raises:
        UserError: a text that is too short, or a folder that cannot be written.
    """
    folder = Path(config.out) if config.out else trained.run.path
    measured, other, source = _texts(trained, config, batches)
    rows = depth_controls(trained, measured, control_counts(trained.config.model, steps), other, progress=True)
    write(save_controls(folder, rows) + "\n")
    note(f"controls: read-out refitted on {source}; written: {folder / 'controls.csv'}, {folder / 'controls.png'}")


def _texts(
    trained: TrainedModel, config: InferConfig, batches: Sequence[Batch]
) -> tuple[Sequence[Batch], Sequence[Batch], str]:
    """What is measured on, what the read-out is fitted on, and the name of the latter."""
    try:
        require(not is_pretrained(trained.run.path), "no run of ours")
        return batches, calibration_batches(corpus(trained), config.seed, CALIBRATION_BATCHES), "the training text"
    except UserError:
        half = len(batches) // 2
        require(half > 0, "controls: the text is too short to fit the read-out on one half of it; give more text")
        return batches[half:], batches[:half], "the first half of the text, measured on the second"
