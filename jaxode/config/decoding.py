"""Settings of decoding that Python's functions take as well as `InferConfig`."""

from __future__ import annotations

from jaxode.config.checks import require, within

MOST_SLOTS = 10_000
"""Slots of one block: more than any model has loops."""


def cache_rule(cache: str, share: int = 1) -> tuple[str, int]:
    """The name of a rule for the cache over loops, and its number where it has one; else 0.

    Raises:
        UserError: an unknown rule, or one beside `cache_share`, which is a rule too.
    """
    name, _, number = cache.partition(":")
    plain = cache in ("auto", "loop", "last", "first")
    counted = name == "modulo" and number.isascii() and number.isdecimal() and 1 <= int(number) <= MOST_SLOTS
    require(
        plain or counted,
        f'cache = "{cache}": allowed are auto, loop, last, first and modulo:k with k from 1 to {MOST_SLOTS}, such as '
        '"modulo:2"',
    )
    require(
        cache == "auto" or share == 1,
        f'cache = "{cache}" with cache_share = {share}: both say which loops have a slot together; leave one out',
    )
    return (name, int(number)) if counted else (cache, 0)


def check_penalty(factor: float) -> None:
    """Refuse a repetition penalty with which logits of any model could leave float32.

    Raises:
        UserError: it lies outside [1e-30, 1e30].
    """
    require(factor > 0, f"repetition_penalty = {factor}: must be positive (1: none)")
    within("repetition_penalty", factor, 1e-30, 1e30)
