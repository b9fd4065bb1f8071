"""Names with a number each in one text, such as "typical:0.9,min_p:0.05"."""

from __future__ import annotations

from jaxode.config.checks import UserError, require


def named_numbers(field: str, text: str, example: str) -> tuple[tuple[str, int | float | None], ...]:
    """Names and their numbers, in order; None where a name stands alone.

    Args:
        field: of the setting, for errors.
        text: empty for nothing.
        example: of such a text.

    Raises:
        UserError: what is no name, or no number, or a name that stands there twice.
    """
    wrong = f'{field} = "{text}": must be names, with a number where they take one, such as "{example}"'
    pairs: list[tuple[str, int | float | None]] = []
    for part in text.split(",") if text else ():
        name, colon, number = (piece.strip() for piece in part.partition(":"))
        require(bool(name) and bool(number) == bool(colon), wrong)
        pairs.append((name, _number(number, wrong) if colon else None))
    names = [name for name, _ in pairs]
    require(len(set(names)) == len(names), f'{field} = "{text}": names one of them twice')
    return tuple(pairs)


def _number(text: str, wrong: str) -> int | float:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    raise UserError(wrong)
