"""Whether the weights of a folder fit into memory, told before the first of them is read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxode.config import UserError
from jaxode.machine import available_memory, gigabytes

SMALLEST = "bfloat16"


def check_room(params: Mapping[str, Any], source: str) -> None:
    """Refuse parameters of these shapes and types that do not fit.

    Raises:
        UserError: more bytes than are available, with both numbers and the type in which they would fit.
    """
    needed, free = sum(_size(value) * value.dtype.itemsize for value in params.values()), available_memory()
    if free is None or needed <= free:
        return
    least = sum(_size(value) for value in params.values()) * 2
    kinds = " and ".join(sorted({str(value.dtype) for value in params.values()}))
    remedy = "use another machine"
    if least < needed:
        remedy = f'dtype = "{SMALLEST}" takes {gigabytes(least)}'
        remedy = f"read it with {remedy}" if least <= free else f"use another machine ({remedy}, too much as well)"
    raise UserError(
        f"{source}: its weights take {gigabytes(needed)} in {kinds}, {gigabytes(free)} are available: {remedy}"
    )


def _size(value: Any) -> int:
    return int(np.prod(value.shape))
