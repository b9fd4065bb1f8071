"""A study: one recipe trained in several variants, each measured at several numbers of steps."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from jaxode.config.checks import at_least, require
from jaxode.config.fields import Place, Seed, Steps, check_fields

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class StudySettings:
    """What is trained, and what is asked of every run."""

    recipe: Place
    """Config of a training run, from the working directory; every variant changes it."""
    baseline: str
    """The variant that every other is compared with; with axes, the one of the same values, unless it names them."""
    seeds: tuple[Seed, ...] = (0,)
    evaluate: tuple[Steps, ...] = ()
    """Euler's even steps to measure a run at, beside the full depth and the one that it was trained at."""
    calibrate: tuple[Steps, ...] = ()
    """Steps to calibrate a run for and to measure it at."""
    controls: bool = False
    """Also what k applications give alone, repeated, or with a read-out that was refitted on other text, k of the steps
    that a run is measured at; of runs whose layout has one loop."""
    batches: int = 32
    """Validation batches that a measurement reads."""

    def __post_init__(self) -> None:
        check_fields(self, "study")
        at_least("study.batches", self.batches, 1)
        require(len(self.seeds) > 0, "study.seeds = []: must name one at least")
        for name, least in (("seeds", 0), ("evaluate", 1), ("calibrate", 1)):
            _check_numbers(f"study.{name}", getattr(self, name), least)


@dataclass(frozen=True)
class VariantConfig:
    """What one variant changes."""

    name: str
    seeds: tuple[Seed, ...] = ()
    """In the place of the study's."""
    calibrate: tuple[Steps, ...] | None = None
    """In the place of the study's; [] for none."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Dotted settings of the training config."""

    def __post_init__(self) -> None:
        check_fields(self, "variant")
        check_name("variant.name", self.name)
        _check_numbers(f"variant {self.name}: seeds", self.seeds, 0)
        _check_numbers(f"variant {self.name}: calibrate", self.calibrate or (), 1)


@dataclass(frozen=True)
class StudyConfig:
    """A study's file."""

    study: StudySettings
    variant: tuple[VariantConfig, ...]
    settings: dict[str, Any] = field(default_factory=dict)
    """Dotted settings of every run, over the recipe."""
    axes: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    """By axis and value the settings that it stands for; every variant is trained at every combination."""

    def __post_init__(self) -> None:
        check_fields(self)
        require(len(self.variant) > 0, "variant: the study has no runs; add a [[variant]] with a name")
        for axis, values in self.axes.items():
            require(len(values) > 0, f"axes.{axis} = {{}}: leaves no runs; give it a value, or leave it out")
            for name in values:
                check_name(f"axes.{axis}", name)


@dataclass(frozen=True)
class StudyCommand:
    """Train what is missing of a study, measure it, and show its variants side by side.

    Run again, it does only what is missing: after an interruption, and after a change of what is evaluated.
    """

    study: Place
    """The study's TOML file."""
    only: str = ""
    """Variants to work on, as "fixed,direct-3"; all when empty."""
    jobs: int = 1
    """Runs at work at once, each on one core where there are several."""
    out: Place = "runs/studies"
    """The runs are kept below OUT/STUDY/."""
    results: Place = ""
    """Folder for STUDY.csv and STUDY.png; OUT/STUDY when empty."""
    dry_run: bool = False
    """List the runs and what is missing."""
    accept_older: bool = False
    """Keep results that other code has made."""

    def __post_init__(self) -> None:
        check_fields(self)
        at_least("jobs", self.jobs, 1)


def check_name(field_name: str, name: str) -> None:
    """Refuse a name that could not be part of a folder's."""
    require(
        NAME.fullmatch(name) is not None,
        f'{field_name} = "{name}": must be letters, digits, ".", "_" and "-", and begin with a letter or digit',
    )


def _check_numbers(name: str, numbers: tuple[int, ...], least: int) -> None:
    shown = list(numbers)
    require(all(number >= least for number in numbers), f"{name} = {shown}: must be at least {least} each")
    require(len(set(numbers)) == len(numbers), f"{name} = {shown}: names a number twice; leave one out")
