"""The parameters of a finished run in one file, weights.safetensors: no optimizer state, nothing of Orbax."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from jaxode.config import UserError, require
from jaxode.model.parameters import Parameters, check_fit, fingerprint

WEIGHTS = "weights.safetensors"
FORMAT = "jaxode-1"
"""Raise its number when the meaning of a file changes; this version is named in the file and reads no other."""

_REMEDY = "copy or export the model again"


@dataclass(frozen=True)
class Weights:
    """What the file holds."""

    params: Parameters
    step: int
    """Updates of training behind them."""


def write_weights(path: Path, weights: Weights) -> None:
    """Write the parameters under their names, in the type they have: float32, or bfloat16 where a model was cast.

    Raises:
        OSError: the file cannot be written.
    """
    arrays = {name: np.asarray(value, order="C") for name, value in weights.params.items()}
    about = {"format": FORMAT, "fingerprint": fingerprint(arrays), "step": str(weights.step)}
    try:
        save_file(arrays, path, metadata=about)
    except SafetensorError as error:  # a full disk
        raise OSError(str(error)) from None


def read_weights(path: Path, shapes: Mapping[str, Any]) -> Weights:
    """Read what `write_weights` wrote for a model of these shapes.

    Raises:
        UserError: a damaged file, one of another kind, a tensor that is missing, unknown or of another shape, or
            numbers that are not those that were written.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            about = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, TypeError, ValueError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)[:160]
        raise UserError(f"{path}: cannot be read as safetensors ({reason}); {_REMEDY}") from None
    require(
        about.get("format") == FORMAT,
        f"{path}: its format is {about.get('format')!r}, this version reads {FORMAT!r}; "
        "export the run again with this version",
    )
    check_fit(shapes, arrays, str(path), f"the file belongs to another config.toml; {_REMEDY}")
    # safetensors keeps no checksum
    require(
        about.get("fingerprint") == fingerprint(arrays) and about.get("step", "").isdecimal(),
        f"{path}: is damaged: its numbers are not those that were written; {_REMEDY}",
    )
    return Weights({name: jnp.asarray(value) for name, value in arrays.items()}, int(about["step"]))
