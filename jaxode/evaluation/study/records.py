"""What a study keeps in a run's folder, and what must agree before results are put side by side.

RUN/started.json    settings, code and corpus that the run began with, and its seconds so far
RUN/result.json     the same once it is trained, with what was measured
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from jaxode.config import Config, UserError, dotted, from_dict, require, to_dict
from jaxode.config.parsing import parse_json
from jaxode.evaluation.figures import replacing, writing
from jaxode.evaluation.study.grid import Run
from jaxode.plugins import fingerprint

STARTED, RESULT = "started.json", "result.json"
PLACES = {"out", "resume", "data.cache", "data.root", "train.final_batches"}
"""Settings that say where things lie and what is looked at, not what is computed."""

T = TypeVar("T")


@dataclass(frozen=True)
class Code:
    """Which jaxode makes a result."""

    version: str
    source: str
    """Hash of the package's files."""

    @classmethod
    def current(cls) -> Code:
        """As it lies on disk now."""
        # the package itself stands above every room, so that its files are found without importing it
        folder = Path(__file__).parents[2]
        digest = hashlib.sha256()
        for path in sorted(folder.rglob("*.py")):
            digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes())
        # sixteen digits alone may look like a number, and a table would read them as one
        return cls(sys.modules["jaxode"].__version__, f"sha256:{digest.hexdigest()[:16]}")


@dataclass(frozen=True)
class Started:
    """A run that has begun."""

    config: dict[str, Any]
    code: Code
    tokens: dict[str, int]
    """Of the corpus, by split."""
    seconds: float = 0.0
    """Wall-clock time of its training so far, from start to end of every process."""
    plugins: dict[str, str] = field(default_factory=dict)
    """By file, the hash of its content."""


@dataclass(frozen=True)
class Result:
    """A run that is trained, and measured where it has rows."""

    started: Started
    parameters: int
    trained_tokens: int
    nats_per_token: float
    """On the whole validation split, as the run was trained."""
    training_flops: float | int | None = None
    block_evaluations: float | int | None = None
    """Of training, summed over its tokens."""
    batches: int = 0
    """Validation batches behind the rows."""
    measured_by: Code | None = None
    rows: tuple[dict[str, Any], ...] = ()
    """As in sweep.csv: one a step count and solver."""
    answers: tuple[dict[str, Any], ...] = ()
    """Of a run on a task, as in answers.csv: one a difficulty as well."""
    controls: tuple[dict[str, Any], ...] = ()
    """As in controls.csv: one a control and number of applications."""


def started(run: Run, tokens: Mapping[str, int]) -> Started:
    """The record of a run that begins now."""
    return Started(to_dict(run.config), Code.current(), dict(tokens), plugins=_plugins(run.config))


def write_record(path: Path, record: Started | Result) -> None:
    """Write a record, whole or not at all.

    Raises:
        UserError: it cannot be written.
    """
    with writing(path.parent, "the record of a run"), replacing(path) as partial:
        partial.write_text(json.dumps(to_dict(record), indent=1) + "\n", encoding="utf-8")


def read_record(kind: type[T], path: Path) -> T | None:
    """The record at `path`; None where there is none.

    Raises:
        UserError: it cannot be read.
    """
    try:
        return from_dict(kind, parse_json(path.read_text(encoding="utf-8")), str(path))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as a record of the study ({error}); delete it") from None


def settings_of(config: Config) -> dict[str, Any]:
    """Dotted settings that decide what a run computes."""
    return {name: value for name, value in dotted(config).items() if name not in PLACES}


def check_settings(run: Run, folder: Path, record: Started) -> None:
    """Refuse a folder whose run has other settings than the study asks for.

    Raises:
        UserError: naming the setting.
    """
    # as a config, so that a setting that is younger than the record has its default
    old, new = settings_of(from_dict(Config, record.config, str(folder))), settings_of(run.config)
    for name in sorted(old.keys() | new.keys()):
        require(
            old.get(name) == new.get(name),
            f"run {run.label}: {name} = {new.get(name)!r}, but {folder} was started with {old.get(name)!r}; "
            "delete that folder, or keep both with --out elsewhere",
        )
    now = _plugins(run.config)
    for source, digest in record.plugins.items():
        require(
            now.get(source) == digest,
            f"run {run.label}: {folder} was started with another {source}; restore that file, delete that folder, or "
            "use --out elsewhere",
        )


def _plugins(config: Config) -> dict[str, str]:
    return {source: fingerprint(source) for source in config.plugins}


def check_same_code(run: Run, folder: Path, code: Code, expected: Code) -> None:
    """Refuse a result that other code has made.

    Raises:
        UserError: naming both.
    """
    require(
        code == expected,
        f"run {run.label}: {folder} was made by other code (jaxode {code.version}, source {code.source}) than the rest "
        f"({expected.version}, {expected.source}); delete that folder, use --out elsewhere, or keep it with "
        "--accept-older",
    )


def check_same_corpus(run: Run, folder: Path, tokens: Mapping[str, int], expected: Mapping[str, int]) -> None:
    """Refuse a run on other text.

    Raises:
        UserError: naming the sizes.
    """
    require(
        dict(tokens) == dict(expected),
        f"run {run.label}: {folder} was trained on other text ({_sizes(tokens)}) than there is for the rest "
        f"({_sizes(expected)}); restore the text, delete that folder, or use --out elsewhere",
    )


def corpus_key(config: Config) -> str:
    """Equal where two runs read the same text in the same rows."""
    data = {name: value for name, value in to_dict(config.data).items() if f"data.{name}" not in PLACES}
    return json.dumps([data, config.model.length, config.model.kind])


def _sizes(tokens: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} tokens of {split}" for split, count in tokens.items())
