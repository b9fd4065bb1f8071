"""What a field of a configuration may hold, read from its type hint: one rule for Python, TOML and flags."""

from __future__ import annotations

import dataclasses
import difflib
import os
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Literal

from jaxode.config.checks import UserError, at_least, at_most, short, shown
from jaxode.config.places import expand

TINY, HUGE = 2.0**-126, (2 - 2.0**-23) * 2.0**127
"""Smallest and largest number that float32 holds in full precision."""


@dataclass(frozen=True)
class Most:
    """The largest integer that a field may hold, and what sets it."""

    value: int
    why: str = ""


COUNT = Most(2**31 - 1, "sizes and counts have 31 bits")
"""Of every integer that says nothing else: what axes of arrays and the counters of compiled programs hold."""
SEED = Most(2**32 - 1, "seeds have 32 bits")
"""JAX cuts what is above, so that two seeds would give one run."""
PLACE = "place"

Seed = Annotated[int, SEED]
MOST_STEPS = 10_000
Steps = Annotated[int, Most(MOST_STEPS)]
Place = Annotated[str, PLACE]
"""A path, or a name that may stand for one: ~ is the home folder, and its bytes need be no text."""


def check_fields(config: Any, table: str = "") -> None:
    """Give every field of a configuration the type that its hint names, or refuse the first that has another.

    Called first thing in `__post_init__`. Integers become floats where those belong, numbers of NumPy those of Python,
    lists tuples; ~ at the beginning of a path becomes the home folder.

    Args:
        config: the dataclass that is being made.
        table: name of its table in TOML, which errors name.

    Raises:
        UserError: naming table, field, value and what is allowed.
    """
    prefix = f"{table}." if table else ""
    for name, hint in hints(type(config)).items():
        value = getattr(config, name)
        fitting = fit(hint, value, prefix + name)
        if fitting is not value:
            object.__setattr__(config, name, fitting)


def check_seed(value: Any, name: str = "seed") -> int:
    """A seed of JAX's generators and of all others here: from 0 to 2^32 - 1, as an integer of Python.

    Raises:
        UserError: another value or type.
    """
    seed = fit(Seed, value, name)
    at_least(name, seed, 0)
    return seed


@cache
def hints(kind: type) -> dict[str, Any]:
    """The type hints of a dataclass by field, with their annotations."""
    known = typing.get_type_hints(kind, include_extras=True)
    return {field.name: known[field.name] for field in dataclasses.fields(kind)}


def fit(hint: Any, value: Any, name: str) -> Any:
    """The value as a field of this type hint holds it.

    Raises:
        UserError: it does not fit.
    """
    if hint is Any:
        return value
    kinds, rule = _parts(hint)
    # a scalar of NumPy, as sweeps give them; nothing here imports it
    if type(value).__module__ == "numpy" and getattr(value, "ndim", None) == 0:
        value = value.item()
    if value is None and NoneType in kinds:
        return None
    kind, origin = kinds[0], typing.get_origin(kinds[0])
    if origin is Literal:
        return _choice(typing.get_args(kind), value, name)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise _misfit(name, value, "a list")
        return tuple(fit(typing.get_args(kind)[0], item, f"{name}[{i}]") for i, item in enumerate(value))
    if origin is dict:
        if not isinstance(value, Mapping):
            raise _misfit(name, value, "a table")
        return {key: fit(typing.get_args(kind)[1], item, f"{name}.{key}") for key, item in value.items()}
    if rule == PLACE and isinstance(value, os.PathLike):
        value = os.fspath(value)
    if float in kinds and type(value) is int:
        _check_float(name, value)
        value = float(value)
    # by the type itself, for a bool is an int in Python, not in a config
    if type(value) not in kinds:
        raise _misfit(name, value, " or ".join(getattr(kind, "__name__", str(kind)) for kind in kinds))
    if type(value) is float:
        _check_float(name, value)
    elif type(value) is int:
        most = rule if isinstance(rule, Most) else COUNT
        at_most(name, value, most.value, most.why)
    elif type(value) is str:
        if rule == PLACE:
            return expand(name, value)
        check_text(name, value)
    return value


@cache
def _parts(hint: Any) -> tuple[tuple[Any, ...], Any]:
    """The types of which a hint allows any, and the rule of an annotated one among them."""
    union = typing.get_origin(hint) in (typing.Union, UnionType)
    options = typing.get_args(hint) if union else (hint,)
    plain = tuple(typing.get_args(one)[0] if typing.get_origin(one) is Annotated else one for one in options)
    rules = [typing.get_args(one)[1] for one in options if typing.get_origin(one) is Annotated]
    return plain, rules[0] if rules else None


def _misfit(name: str, value: Any, allowed: str) -> UserError:
    text = shown(value) if type(value) is not int else short(value)
    return UserError(f"{name} = {text}: must be {allowed}")


def _choice(options: tuple[Any, ...], value: Any, name: str) -> Any:
    if any(type(value) is type(option) and value == option for option in options):
        return value
    near = difflib.get_close_matches(shown(value).strip("'"), [str(option) for option in options], n=1)
    remedy = f"; did you mean {near[0]!r}?" if near else ""
    raise _misfit(name, value, f"one of {', '.join(map(repr, options))}{remedy}")


def _check_float(name: str, value: float | int) -> None:
    # nan passes here: no field's own bounds hold for it, and they say what is right instead
    if not (value != value or value == 0 or TINY <= abs(value) <= HUGE):
        raise _misfit(name, value, f"0 or of a size that float32 holds, from {TINY:.2g} to {HUGE:.2g}")


def check_text(name: str, value: str) -> None:
    """Refuse what Python keeps of bytes that are no text, in arguments and in names of files.

    Raises:
        UserError: naming the field, with those bytes escaped.
    """
    try:
        value.encode()
    except UnicodeEncodeError:
        raise UserError(f"{name} = {value!r}: holds bytes that are no UTF-8 text; convert them first") from None
