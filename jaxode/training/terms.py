"""Terms of an objective that plug-ins bring, each a number a predicted token."""

from __future__ import annotations

import inspect
from typing import Any, Protocol, cast, runtime_checkable

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxode.config import ObjectiveConfig, UserError, require
from jaxode.config.objective import WEIGHTS
from jaxode.data import Batch
from jaxode.model import ModelOutput
from jaxode.plugins import Table
from jaxode.types import Scalar


@runtime_checkable
class Term(Protocol):
    """From a solve to a number a position; those of predicted tokens count, and are averaged as the loss is.

    One that has ``reads_trace = True`` finds the trajectory in `out.trace`.
    """

    def __call__(self, out: ModelOutput, batch: Batch) -> Float[Array, "B L"]:
        """Traceable and differentiable."""
        ...


def _fit(name: str, part: Any) -> Term:
    require(callable(part) and not isinstance(part, type), f"{part!r}: must be a function of (out, batch)")
    try:
        inspect.signature(part).bind(None, None)
    except TypeError as error:
        raise UserError(f"{part!r}: is called with (out, batch), which it does not take ({error})") from None
    return cast(Term, part)


TERMS: Table[Term] = Table("objective", "objective.terms", {}, _fit, reserved=("loss", *WEIGHTS))
"""By name; the built-in ones are fields of `ObjectiveConfig`."""


def check_terms(objective: ObjectiveConfig, learns: str) -> None:
    """Refuse terms that nobody brings, or for a model that does not predict tokens.

    Raises:
        UserError: naming them.
    """
    for name, _ in objective.weighted_terms:
        TERMS.find(name, objective.terms)
    require(
        not objective.terms or learns in ("causal", "masked"),
        f'objective.terms = "{objective.terms}" for a model that learns as {learns}: terms are a number a predicted '
        "token, which only a language model has; leave them out",
    )


def reads_trace(objective: ObjectiveConfig) -> bool:
    """Whether a term reads the trajectory."""
    return any(getattr(TERMS[name], "reads_trace", False) for name, _ in objective.weighted_terms)


def term_mean(name: str, out: ModelOutput, batch: Batch, weights: Float[Array, "B L"], tokens: Scalar) -> Scalar:
    """A term summed over the predicted tokens of a part of a batch, over those of all of it.

    Raises:
        UserError: it is not a number a position.
    """
    each = jnp.asarray(TERMS.find(name)(out, batch))
    require(
        each.shape == weights.shape,
        f'objective.terms: "{name}" gives numbers of shape {list(each.shape)}: must be one a position, '
        f"{list(weights.shape)}",
    )
    # where, not only the product: a padded position may hold anything, and 0 * inf is nan
    return jnp.sum(jnp.where(weights > 0, each * weights, 0.0)) / tokens
