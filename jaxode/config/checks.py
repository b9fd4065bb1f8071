"""What refuses a wrong value: one error type, one line."""

from __future__ import annotations

from typing import Any


class UserError(ValueError):
    """Something the user can mend: one line that names the field or file, the value, what is allowed, what to do.

    What it quotes from a file stays on that line: line ends, codes for terminals, and what is no character are escaped.
    """

    def __init__(self, message: str):
        """Of this line."""
        super().__init__("".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in message))


def require(condition: bool, message: str) -> None:
    """Raise `UserError(message)` unless `condition` holds."""
    if not condition:
        raise UserError(message)


def at_least(name: str, value: float | int, least: float | int) -> None:
    """Refuse a value below `least`."""
    if not value >= least:  # so that nan is refused
        raise UserError(f"{name} = {short(value)}: must be at least {least}")


def at_most(name: str, value: float | int, most: float | int, why: str = "") -> None:
    """Refuse a value above `most`; `why` tells what sets that bound."""
    if not value <= most:
        raise UserError(f"{name} = {short(value)}: must be at most {most}{why and f' ({why})'}")


def short(value: float | int) -> str:
    """A number as errors show it; Python itself refuses to print integers of more than 4300 digits."""
    if isinstance(value, int) and value.bit_length() > 1000:
        return f"an integer of {value.bit_length()} bits"
    return str(value)


def shown(value: Any) -> str:
    """A value as errors show it, on one line."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an integer of more than 4300 digits within, or lists of lists of lists
        return f"a {type(value).__name__} that is too large to be shown"
    # arrays print themselves in several lines
    return " ".join(text.split()) if "\n" in text else text


def within(name: str, value: float, low: float, high: float) -> None:
    """Refuse a value outside [low, high]."""
    require(low <= value <= high, f"{name} = {value}: must lie in [{low}, {high}]")


def parse_frame(name: str, value: str) -> bool | tuple[str, str] | None:
    """What a text stands within, as functions on texts take it: None is the tokenizer's own habit."""
    if value in ("", "none"):
        return None if not value else False
    tokens = value.split()
    require(
        len(tokens) == 2,
        f'{name} = "{value}": give two entries of the vocabulary, such as "[CLS] [SEP]", or none',
    )
    return tokens[0], tokens[1]
