"""Whether a model fits into memory, told before anything is allocated."""

from __future__ import annotations

import jax.numpy as jnp
from jax.core import Tracer

from jaxode.config import ModelConfig, UserError
from jaxode.config.size import large_fields, num_parameters
from jaxode.machine import available_memory, gigabytes


def check_memory(model: ModelConfig) -> None:
    """Refuse a model whose parameters do not fit; where only shapes are traced, nothing is refused.

    Raises:
        UserError: more bytes than are available, with both numbers and the fields that make it large.
    """
    # under a transformation nothing is allocated here
    if isinstance(jnp.zeros(()), Tracer):
        return
    parameters, free = num_parameters(model), available_memory()
    if free is not None and 4 * parameters > free:
        raise UserError(
            f"a model of {parameters:,} parameters takes {gigabytes(4 * parameters)}, {gigabytes(free)} are available "
            f"({large_fields(model)}): make it smaller, or use another machine"
        )
