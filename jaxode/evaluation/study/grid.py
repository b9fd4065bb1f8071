"""From a study's file to its runs. Every config is built here, so what is wrong is refused before anything runs."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxode.config import Config, ModelConfig, StudyConfig, StudySettings, UserError, from_toml, override, require

CHOSEN = {
    "out": "the study chooses the folder of a run",
    "resume": "the study resumes what is unfinished",
    "train.seed": "name seeds in study.seeds, or as seeds of a variant",
    "train.sweep": "study.evaluate says what is measured",
}


@dataclass(frozen=True)
class Run:
    """One training run of the study."""

    variant: str
    """Its name; with axes, the values behind slashes."""
    base: str
    """Name of the [[variant]] that it comes from."""
    rival: str
    """The variant that it is compared with."""
    seed: int
    config: Config
    calibrate: tuple[int, ...] = ()
    """Step counts to calibrate it for, where its layout takes them."""

    @property
    def label(self) -> str:
        """Variant and seed."""
        return f"{self.variant} s{self.seed}"

    @property
    def folder(self) -> str:
        """Name of its folder."""
        return f"{self.variant.replace('/', '-')}-s{self.seed}"

    @property
    def trained_at(self) -> int:
        """The steps that it is trained at; its own full depth."""
        return self.config.depth.steps or self.config.model.steps


@dataclass(frozen=True)
class Study:
    """What is asked for, as runs."""

    name: str
    settings: StudySettings
    runs: tuple[Run, ...]

    def measured_at(self, run: Run) -> tuple[int, ...]:
        """The study's step counts that the run's layout takes, the one that it is trained at first where it is new."""
        asked = dict.fromkeys(n for n in self.settings.evaluate if takes(run.config.model, n))
        return tuple(asked if run.trained_at in asked else (run.trained_at, *asked))

    def calibrated_for(self, run: Run) -> tuple[int, ...]:
        """Of the step counts asked for, those that there is something to calibrate for."""
        model = run.config.model
        if run.config.only_steps is not None:
            return ()
        return tuple(n for n in run.calibrate if n < model.steps and takes(model, n))

    def controlled(self, run: Run) -> bool:
        """Whether the study asks for controls, and the run has them: a loop, and a full depth that was trained."""
        return self.settings.controls and run.config.model.has_one_loop and run.config.only_steps is None

    def wanted(self, run: Run) -> set[tuple[str, int]]:
        """Solver and step count of every row that the study shows."""
        euler = {("euler", n) for n in self.measured_at(run)}
        return euler | {("calibrated", n) for n in self.calibrated_for(run)}


def takes(model: ModelConfig, steps: int) -> bool:
    """Whether the layout can be solved in so many even steps."""
    if model.sharing == "none":
        return steps == model.steps
    return steps >= model.groups if model.group_steps else steps % model.groups == 0


def load_study(path: Path) -> Study:
    """Read a study's file and build every run.

    Raises:
        UserError: an unknown key, a refused value, names that clash, an unknown baseline, or a missing recipe.
    """
    file = from_toml(StudyConfig, path)
    recipe = Path(file.study.recipe)
    require(
        recipe.is_file(),
        f'{path}: study.recipe = "{recipe}": no such file in the working directory (tried {recipe.absolute()}); '
        "give a path from there, or an absolute one",
    )
    base = override(from_toml(Config, recipe), _flat(file.settings, f"{path}: settings"), f"{path}: settings")
    # the study measures its runs itself
    train = dataclasses.replace(base.train, sweep=False, final_batches=base.train.final_batches or file.study.batches)
    base = dataclasses.replace(base, train=train)
    runs = tuple(_runs(file, base, path))
    folders: dict[str, Run] = {}
    for run in runs:
        other = folders.setdefault(run.folder, run)
        require(
            other is run,
            f"{path}: variants {other.variant} and {run.variant} are both kept as {run.folder}: rename one",
        )
    names = list(dict.fromkeys(run.variant for run in runs))
    for run in runs:
        require(
            run.rival in names,
            f'{path}: study.baseline = "{file.study.baseline}": no such variant; the study has {", ".join(names)}',
        )
    return Study(path.stem, file.study, runs)


def _runs(file: StudyConfig, base: Config, path: Path) -> Iterator[Run]:
    points = list(itertools.product(*(values.items() for values in file.axes.values())))
    bases = {variant.name for variant in file.variant}
    for variant in file.variant:
        for point in points:
            at = "".join(f"/{value}" for value, _ in point)
            name, source = variant.name + at, f"{path}: variant {variant.name}{at}"
            settings = _flat(variant.settings, source)
            for value, changes in point:
                added = _flat(changes, source)
                twice = settings.keys() & added.keys()
                require(not twice, f"{source}: {', '.join(sorted(twice))} is set by {value} and before: leave one out")
                settings |= added
            config = override(base, settings, source)
            rival = file.study.baseline + (at if file.study.baseline in bases else "")
            for seed in variant.seeds or file.study.seeds:
                train = dataclasses.replace(config.train, seed=seed)
                calibrate = file.study.calibrate if variant.calibrate is None else variant.calibrate
                run = Run(name, variant.name, rival, seed, dataclasses.replace(config, train=train), calibrate)
                require(
                    takes(config.model, run.trained_at),
                    f"{source}: depth.steps = {run.trained_at} does not fit model.steps = {config.model.steps} in "
                    f'{config.model.distinct_blocks} blocks (model.sharing = "{config.model.sharing}"); choose others',
                )
                _measured_so(config, source)
                yield run


def _measured_so(config: Config, source: str) -> None:
    """Refuse a solver or schedule of training that the study would not measure with."""
    for name, usual in (("solver", "euler"), ("schedule", config.model.loop.schedule)):
        value = getattr(config.depth, name)
        require(
            value in ("auto", usual),
            f"{source}: depth.{name} = {value!r}: a study measures its runs, and compares them, with {name} "
            f'"{usual}"; leave it out, and measure a run of its own with infer.py --task sweep --{name} {value}',
        )


def _flat(settings: Mapping[str, Any], source: str, prefix: str = "") -> dict[str, Any]:
    """Dotted settings, whether a file quotes them or writes tables; without those that belong to the study."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat |= _flat(value, source, f"{name}.")
            continue
        if name in CHOSEN:
            raise UserError(f"{source}: {name} = {value!r}: {CHOSEN[name]}; leave it out")
        flat[name] = value
    return flat
