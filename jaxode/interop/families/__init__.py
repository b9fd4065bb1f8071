"""Families of public looped language models, each as data: a reader of its config.json, a table of names, a choice of
parts. To add one is to add a file here and its line below.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxode.config import UserError, require
from jaxode.interop.families.dory import DORY
from jaxode.interop.families.family import Family
from jaxode.interop.families.hrm_text import HRM_TEXT
from jaxode.interop.families.huginn import HUGINN
from jaxode.interop.families.loopformer import LOOPFORMER
from jaxode.interop.families.nanbeige import NANBEIGE
from jaxode.interop.families.ouro import OURO

FAMILIES: dict[str, Family] = {
    family.model_type: family for family in (OURO, NANBEIGE, HUGINN, LOOPFORMER, DORY, HRM_TEXT)
}
"""By `model_type`."""
REFUSED = {
    "inkling2_loop": "its mixture of experts and the messages between its passes are no field over depth",
    "iquestloopcoder": "its second pass reads the keys of its first, so a pass is no function of the state",
}
"""Looped models that are not read, and why."""


def family_of(raw: Mapping[str, Any], source: str) -> Family | None:
    """The family of a config.json; None for an ALBERT.

    Raises:
        UserError: another model type.
    """
    kind = raw.get("model_type")
    require(kind is None or isinstance(kind, str), f"{source}: model_type = {kind!r}: must be a name")
    if kind == "albert":
        return None
    if kind in FAMILIES:
        return FAMILIES[kind]
    allowed = ", ".join(sorted({"albert", *FAMILIES}))
    why = f"not read: {REFUSED[kind]}" if kind in REFUSED else "no looped model that is read"
    raise UserError(f"{source}: model_type = {kind!r}: {why}; allowed are {allowed}")


__all__ = ["FAMILIES", "REFUSED", "Family", "family_of"]
