"""Low-rank changes beside a model's matrices while a run trains: W + A B (Hu et al. 2022, LoRA).

In a run's parameters A and B lie beside W under names of their own; `Architecture.bind` takes the sum.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxode.config import UserError, require

LOW_RANK = "lora."
"""Before the name of a matrix W [E, F]: of A (.down, [E, R]) and B (.up, [R, F])."""


def with_low_rank(parameters: Mapping[str, Any], rank: int, names: str = "", seed: int = 0) -> dict[str, Any]:
    """The parameters with A, random, and B, zero, of every matrix that `names` says: the model is the same at first.

    Raises:
        UserError: a name that no matrix of the blocks has, or a rank above that of one.
    """
    rng, added = np.random.default_rng((seed, 0x10A)), {}
    for name in matrices(parameters, names):
        width, out = parameters[name].shape
        require(
            rank <= min(width, out),
            f"train.lora_rank = {rank}: {name} is a matrix of {width} by {out}; must be at most {min(width, out)}",
        )
        down = rng.normal(size=(width, rank)) / np.sqrt(width)
        added[f"{LOW_RANK}{name}.down"] = jnp.asarray(down, jnp.float32)
        added[f"{LOW_RANK}{name}.up"] = jnp.zeros((rank, out), jnp.float32)
    return {**parameters, **added}


def merged(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of the model itself: each W + A B in the place of W, A and B."""
    whole = {name: value for name, value in parameters.items() if not name.startswith(LOW_RANK)}
    for name, down in parameters.items():
        if name.startswith(LOW_RANK) and name.endswith(".down"):
            matrix = name.removeprefix(LOW_RANK).removesuffix(".down")
            whole[matrix] = _sum(whole[matrix], down, parameters[f"{LOW_RANK}{matrix}.up"])
    return whole


def _sum(matrix: Any, down: Any, up: Any) -> Any:
    if not isinstance(matrix, np.ndarray):
        return matrix + down @ up
    # on the host the same numbers on every machine: fingerprints are of them
    return (matrix + np.asarray(down, np.float64) @ np.asarray(up, np.float64)).astype(matrix.dtype)


def matrices(parameters: Mapping[str, Any], names: str = "") -> list[str]:
    """The blocks' matrices that a list such as "qkv,feed_forward.inner" says by the ends of their names; empty: all.

    Raises:
        UserError: an end that none has.
    """
    every = [
        name
        for name, value in parameters.items()
        if re.match(r"stack\.(prelude|looped|coda)\.", name) and ".conditioning." not in name and len(value.shape) == 2
    ]
    found: list[str] = []
    for part in filter(None, names.split(",")):
        end = f".{part.strip()}"
        own = [name for name in every if f".{name}".removesuffix(".kernel").endswith(end)]
        if not own:
            ends = {re.sub(r"^stack\.\w+\.\d+\.", "", name).removesuffix(".kernel") for name in every}
            raise UserError(
                f'train.lora_matrices = "{names}": no matrix of the blocks is called "{part.strip()}"; there are '
                f"{', '.join(sorted(ends))}"
            )
        found += [name for name in own if name not in found]
    return found or every
