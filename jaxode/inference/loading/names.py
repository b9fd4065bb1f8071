"""Which model a name means: a folder on disk, a model that comes with the package, or the newest run."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from jaxode.calibration import Calibration, Origin, load_all, with_calibrations
from jaxode.checkpoint import TrainedModel, load_run
from jaxode.config import require

SHIPPED = Path(__file__).parents[2] / "shipped"
DEFAULTS = {"causal": "books-causal", "masked": "books-masked"}
"""The shipped model of each kind that stands in where there is no run."""


def load(name: Path | str) -> TrainedModel:
    """A trained model with its calibrations, ready to run: `jaxode.load("books-causal")`.

    ``loaded.model(tokens, DepthConfig(steps=4, solver="calibrated"))`` runs it in 4 calibrated steps;
    ``loaded.model.calibrations`` has the numbers of steps to choose from as its keys.

    Args:
        name: of a shipped model, or the path of a run folder or an exported model.

    Raises:
        UserError: an unknown name, or a folder that is damaged or holds a calibration of other weights.
    """
    path = find(name)
    trained = with_own(load_run(path), load_all(path))
    return dataclasses.replace(trained, model=trained.architecture.bind(trained.params))


def with_own(trained: TrainedModel, calibrations: Mapping[int, Calibration]) -> TrainedModel:
    """The same with calibrations among its parameters.

    Raises:
        UserError: one was made for another model, tokenizer or other weights.
    """
    origin = Origin.of(trained.config.model, trained.tokenizer, trained.params)
    return dataclasses.replace(trained, params=with_calibrations(trained.params, calibrations, origin))


def shipped() -> dict[str, Path]:
    """The models that come with the package, by name."""
    return {path.parent.name: path.parent for path in sorted(SHIPPED.glob("*/config.toml"))}


def find(name: Path | str) -> Path:
    """The folder that a path, or else the name of a shipped model, means.

    Raises:
        UserError: neither.
    """
    models = shipped()
    require(
        Path(name).is_dir() or str(name) in models,
        f"{name}: no such run folder, and no shipped model of that name (shipped: {', '.join(models) or 'none'})",
    )
    return Path(name) if Path(name).is_dir() else models[str(name)]


def is_shipped(path: Path) -> bool:
    """Whether a folder belongs to the package, which is not written to."""
    return path.resolve().parent == SHIPPED.resolve()
