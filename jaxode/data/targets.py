"""Labels as a file has them, as numbers that a classifier predicts. Imports no jax."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxode.config import UserError, require

_LARGEST = float(np.finfo(np.float32).max)

Target = tuple[int, ...] | tuple[float, ...]
"""Numbers of the labels that hold (one, or several), or what a regression predicts."""


def read_targets(
    values: Sequence[Any], problem_type: str, labels: Sequence[str], names: Sequence[str]
) -> tuple[Target, ...]:
    """What a file says of every text, for a head of a kind.

    A label is written by its name, or by its number from 0 where no name is a number. Several labels are a list of JSON
    or stand parted by ";"; none is an empty cell. A regression of several numbers has as many, parted so.

    Args:
        values: as the file has them.
        problem_type: of the head, as transformers calls it.
        labels: their names by number; of a regression, of its numbers.
        names: what errors call the texts.

    Raises:
        UserError: a label that there is not, or a number that is none.
    """
    return tuple(_target(value, problem_type, labels, name) for value, name in zip(values, names, strict=True))


def read_tags(values: Sequence[Sequence[Any]], labels: Sequence[str], names: Sequence[str]) -> tuple[Target, ...]:
    """The numbers of the labels of words, sentence by sentence.

    Raises:
        UserError: a label that there is not.
    """
    return tuple(tuple(_number(one, labels, name) for one in value) for value, name in zip(values, names, strict=True))


def label_name(value: Any, name: str) -> str:
    """A label as text: what a cell says, or a whole number, or true and false.

    Raises:
        UserError: nothing, or another value of JSON; `name` says where.
    """
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = value.strip() if isinstance(value, str) else str(value) if isinstance(value, int) else ""
    require(bool(text), f"{name}: label {value!r} is none; a label is a text or a whole number")
    return text


def label_parts(value: Any) -> list[Any]:
    """Several labels, or numbers, one by one; of a text, one in quotation marks may hold what parts them, as in CSV."""
    if isinstance(value, list | tuple):
        return list(value)
    if not isinstance(value, str):
        return [value]
    try:
        rows = list(csv.reader(io.StringIO(value, newline=""), delimiter=";", skipinitialspace=True))
    except csv.Error:  # longer than a cell may be
        rows = []
    # a line's end outside of quotation marks parts nothing
    parts = rows[0] if len(rows) == 1 else value.split(";")
    return [part.strip() for part in parts if part.strip()]


def _target(value: Any, problem_type: str, labels: Sequence[str], name: str) -> Target:
    if problem_type == "single_label_classification":
        return (_number(value, labels, name),)
    parts = label_parts(value)
    if problem_type == "multi_label_classification":
        return tuple(sorted({_number(part, labels, name) for part in parts}))
    numbers = tuple(_real(part, name) for part in parts)
    require(len(numbers) == len(labels), f"{name} has {len(numbers)} numbers to predict, the model gives {len(labels)}")
    return numbers


def _number(value: Any, labels: Sequence[str], name: str) -> int:
    text = label_name(value, name)
    if text in labels:
        return list(labels).index(text)
    # a number beside labels that are numbers would be read as another one's
    numbered = not any(map(_is_numeric, labels))
    if numbered and text.isdecimal() and int(text) < len(labels):
        return int(text)
    some = ", ".join(labels[:20]) + (", .." if len(labels) > 20 else "")
    also = f", or a number from 0 to {len(labels) - 1}" if numbered else ""
    raise UserError(f'{name}: label "{text}" is none of the model\'s: {some}{also}')


def _is_numeric(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _real(value: Any, name: str) -> float:
    try:
        # Python reads 1_000 and True as numbers; no other program writes them so
        number = math.nan if isinstance(value, bool) or (isinstance(value, str) and "_" in value) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    require(abs(number) <= _LARGEST, f"{name}: {repr(value)[:40]} is no number to predict")
    return number
