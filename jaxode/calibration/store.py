"""Calibrations beside a checkpoint: RUN/calibration-4.json for 4 steps, with the figures it reached."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from jaxode.calibration.fit import Calibration
from jaxode.config import UserError
from jaxode.depth import Coefficients
from jaxode.model.parameters import Parameters, calibration_parameters

FORMAT = 1


def save(folder: Path, calibration: Calibration) -> Path:
    """Write one calibration; an older one for the same number of steps stays until this one is complete.

    Raises:
        UserError: the folder cannot be written.
    """
    path = folder / f"calibration-{calibration.steps}.json"
    coefficients = calibration.coefficients
    text = {
        "format": FORMAT,
        "steps": calibration.steps,
        "schedule": list(calibration.schedule),
        "kl": calibration.kl,
        "rise": calibration.rise,
        "tokens": calibration.tokens,
        "seconds": calibration.seconds,
        "weights": [[float(w) for w in row] for row in coefficients.weights],
        "down": _packed(coefficients.down),
        "up": _packed(coefficients.up),
    }
    partial = path.with_suffix(".partial")
    try:
        partial.write_text(json.dumps(text, indent=1) + "\n", encoding="utf-8")
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from None
    return path


def load_all(folder: Path, width: int) -> dict[int, Calibration]:
    """Every calibration of a run folder, by number of steps, the fewest first.

    Args:
        folder: the run folder.
        width: D of the model.

    Raises:
        UserError: a file that cannot be read, or belongs to a model of another width.
    """
    found = (_load(path, width) for path in folder.glob("calibration-*.json"))
    return {calibration.steps: calibration for calibration in sorted(found, key=lambda one: one.steps)}


def with_calibrations(params: Parameters, calibrations: dict[int, Calibration]) -> Parameters:
    """Parameters of a model that runs solver "calibrated" for these numbers of steps."""
    extra: Parameters = {}
    for steps, calibration in calibrations.items():
        extra |= calibration_parameters(steps, calibration.coefficients)
    return params | extra


def _load(path: Path, width: int) -> Calibration:
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        if raw["format"] != FORMAT:
            raise ValueError(f"format {raw['format']}, this version reads {FORMAT}")
        coefficients = Coefficients(
            np.asarray(raw["weights"], np.float32), _unpacked(raw["down"]), _unpacked(raw["up"])
        )
        if coefficients.up is not None and coefficients.up.shape[-1] != width:
            raise ValueError(f"made for width {coefficients.up.shape[-1]}, the model has {width}")
        return Calibration(
            steps=int(raw["steps"]),
            schedule=tuple(raw["schedule"]),
            coefficients=coefficients,
            **{name: raw[name] for name in ("kl", "rise", "tokens", "seconds")},
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: cannot be read as a calibration ({error}); delete it and calibrate again") from None


def _packed(array: Any) -> dict[str, Any] | None:
    if array is None:
        return None
    data = base64.b64encode(np.asarray(array, np.float16).tobytes()).decode()
    return {"shape": list(array.shape), "float16": data}


def _unpacked(raw: dict[str, Any] | None) -> np.ndarray | None:
    if raw is None:
        return None
    flat = np.frombuffer(base64.b64decode(raw["float16"]), np.float16)
    return flat.reshape(raw["shape"]).astype(np.float32)
