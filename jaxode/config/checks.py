"""What refuses a wrong value: one error type, one line."""

from __future__ import annotations


class UserError(ValueError):
    """Something the user can mend: one line that names the field or file, the value, what is allowed, what to do."""


def require(condition: bool, message: str) -> None:
    """Raise `UserError(message)` unless `condition` holds."""
    if not condition:
        raise UserError(message)


def at_least(name: str, value: float | int, least: float | int) -> None:
    """Refuse a value below `least`."""
    require(value >= least, f"{name} = {value}: must be at least {least}")


def at_most(name: str, value: float | int, most: float | int, why: str = "") -> None:
    """Refuse a value above `most`; `why` tells what sets that bound."""
    # Python refuses to print integers of more than 4300 digits
    shown = f"a number of {value.bit_length()} bits" if isinstance(value, int) and value >> 1000 else value
    require(value <= most, f"{name} = {shown}: must be at most {most}{why and f' ({why})'}")


def within(name: str, value: float, low: float, high: float) -> None:
    """Refuse a value outside [low, high]."""
    require(low <= value <= high, f"{name} = {value}: must lie in [{low}, {high}]")
