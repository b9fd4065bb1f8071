"""Calibrations beside a checkpoint: RUN/calibration-4.json for 4 steps, with the figures it reached and its origin."""

from __future__ import annotations

import base64
import dataclasses
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxode.calibration.fit import Calibration
from jaxode.calibration.origin import Origin
from jaxode.config import UserError
from jaxode.config.parsing import parse_json
from jaxode.data.checksums import sealed, unsealed
from jaxode.model.parameters import Parameters, calibration_parameters, coefficients, named

FORMAT, UNSEALED = 3, 2
"""That of files without a checksum, which are still read."""
FIELDS = (
    "format",
    "steps",
    "schedule",
    "kl",
    "rise",
    "error",
    "distance",
    "plain",
    "tokens",
    "seconds",
    "origin",
    "weights",
    "arrays",
)


def save(folder: Path, calibration: Calibration, origin: Origin) -> Path:
    """Write one calibration; an older one for the same number of steps stays until this one is complete.

    Raises:
        UserError: the folder cannot be written.
    """
    path = _path(folder, calibration.steps)
    arrays = named(calibration.coefficients)
    weights = arrays.pop("weights")
    fields = {
        "format": FORMAT,
        "steps": calibration.steps,
        "schedule": list(calibration.schedule),
        "kl": calibration.kl,
        "rise": calibration.rise,
        "error": calibration.error,
        "distance": calibration.distance,
        "plain": calibration.plain,
        "tokens": calibration.tokens,
        "seconds": calibration.seconds,
        "origin": dataclasses.asdict(origin),
        "weights": [[float(w) for w in row] for row in weights],
        "arrays": {name: _packed(array) for name, array in arrays.items()},
    }
    partial = path.with_suffix(".partial")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(sealed(fields), indent=1) + "\n", encoding="utf-8")
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from None
    return path


def load_all(folder: Path) -> dict[int, Calibration]:
    """Every calibration of a folder, by number of steps, the fewest first; `with_calibrations` asks where they belong.

    Raises:
        UserError: a file that cannot be read, or whose name and content name different numbers of steps.
    """
    found = (_load(path) for path in folder.glob("calibration-*.json"))
    return {calibration.steps: calibration for calibration in sorted(found, key=lambda one: one.steps)}


def with_calibrations(
    params: Parameters, calibrations: Mapping[int, Calibration] | Iterable[Calibration], origin: Origin | None = None
) -> Parameters:
    """Parameters of a model that runs solver "calibrated" for these numbers of steps.

    Args:
        params: the weights.
        calibrations: theirs.
        origin: of the model at hand; a calibration that was read from a file must have the same.

    Raises:
        UserError: naming what a calibration was made for, and what is at hand.
    """
    extra: Parameters = {}
    for calibration in calibrations.values() if isinstance(calibrations, Mapping) else calibrations:
        if origin is not None and calibration.origin is not None:
            difference = calibration.origin.difference(origin)
            if difference:
                raise UserError(
                    f"calibration-{calibration.steps}.json was made for {difference}; calibrate again with "
                    f"--task calibrate --steps {calibration.steps}, or delete it"
                )
        extra |= calibration_parameters(calibration.steps, calibration.coefficients)
    return params | extra


def _path(folder: Path, steps: int) -> Path:
    return folder / f"calibration-{steps}.json"


def _load(path: Path) -> Calibration:
    try:
        raw = parse_json(path.read_bytes())
        if isinstance(raw, dict) and raw["format"] not in (UNSEALED, FORMAT):
            raise ValueError(f"format {raw['format']}, this version reads {FORMAT}")
        raw = unsealed(raw, FIELDS, always=isinstance(raw, dict) and raw["format"] == FORMAT)
        arrays = {name: _unpacked(array) for name, array in raw["arrays"].items()}
        fitted = coefficients({"weights": np.asarray(raw["weights"], np.float32), **arrays})
        steps = int(raw["steps"])
        if path != _path(path.parent, steps):
            raise ValueError(f"it holds {steps} steps, its name says otherwise")
        for name, array in named(fitted).items():
            if len(array) != fitted.steps:
                raise ValueError(f"{name} has {len(array)} rows for {fitted.steps} solver steps")
            if not np.isfinite(array).all():
                raise ValueError(f"{name} is not finite")
        return Calibration(
            steps=steps,
            schedule=tuple(raw["schedule"]),
            coefficients=fitted,
            **{name: raw[name] for name in ("kl", "rise", "tokens", "seconds")},
            origin=Origin(**raw["origin"]),
            error=raw.get("error"),
            distance=raw.get("distance"),
            plain=raw.get("plain"),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise UserError(f"{path}: cannot be read as a calibration ({error}); delete it and calibrate again") from None


def _packed(array: Any) -> dict[str, Any]:
    data = base64.b64encode(np.asarray(array, np.float16).tobytes()).decode()
    return {"shape": list(array.shape), "float16": data}


def _unpacked(raw: dict[str, Any]) -> np.ndarray:
    flat = np.frombuffer(base64.b64decode(raw["float16"]), np.float16)
    return flat.reshape(raw["shape"]).astype(np.float32)
