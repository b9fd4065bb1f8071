"""Which plug-ins made a run: files and hashes of their content, in its folder. Opening the run loads none of them."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Collection, Iterable
from pathlib import Path

from jaxode.config import Config, UserError
from jaxode.config.mixture import parse_mixture
from jaxode.config.parsing import parse_json
from jaxode.data.notices import notice
from jaxode.plugins import Plugin, loaded

RECORD = "plugins.json"
_SAID: set[str] = set()


def plugins_of(config: Config) -> tuple[Plugin, ...]:
    """Those loaded plug-ins of which the settings name a part."""
    data = config.data
    named = {("block", config.model.block), ("boundary", config.model.loop.boundary)}
    named |= {("solver", config.depth.solver), ("corpus", data.corpus)}
    named |= {("corpus", share.corpus) for share in parse_mixture("data.mixture", data.mixture)}
    named |= {("objective", name) for name, _ in config.objective.weighted_terms}
    return tuple(plugin for plugin in loaded() if named & set(plugin.parts))


def write_record(folder: Path, plugins: Iterable[Plugin]) -> None:
    """Keep them in a folder; without any, nothing is written.

    Raises:
        OSError: it cannot be written.
    """
    listed = [dataclasses.asdict(plugin) for plugin in plugins]
    if listed:
        partial = folder / f"{RECORD}.partial"
        partial.write_text(json.dumps(listed, indent=1) + "\n", encoding="utf-8")
        os.replace(partial, folder / RECORD)


def read_record(folder: Path) -> tuple[Plugin, ...]:
    """What is kept there.

    Raises:
        UserError: it cannot be read.
    """
    path = folder / RECORD
    try:
        listed = parse_json(path.read_bytes())
        return tuple(
            Plugin(str(one["source"]), str(one["sha256"]), tuple((str(kind), str(name)) for kind, name in one["parts"]))
            for one in listed
        )
    except FileNotFoundError:
        return ()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); copy it again") from None


def check_record(folder: Path, needed: Collection[str]) -> None:
    """Say which plug-ins of a run are not loaded, or have changed.

    Args:
        folder: of the run.
        needed: kinds of parts without which what follows cannot be done.

    Raises:
        UserError: one that brings such a part is not loaded; the message says how to give it.
    """
    for plugin in read_record(folder):
        brings = ", ".join(f'{kind} "{name}"' for kind, name in plugin.parts)
        now = [one for one in loaded() if set(one.parts) & set(plugin.parts)]
        missing = (
            f"{folder}: was made with the plug-in {plugin.source} ({brings}), which is not loaded; give it with "
            f'--plugins {plugin.source}, in Python with jaxode.plugins.load("{plugin.source}")'
        )
        if not now and any(kind in needed for kind, _ in plugin.parts):
            raise UserError(missing)
        if not now:
            _say_once(missing)
        for one in now:
            if one.sha256 != plugin.sha256:
                _say_once(
                    f"{folder}: was made with another {plugin.source} (sha256 {plugin.sha256[:12]}) than {one.source} "
                    f"is now ({one.sha256[:12]})"
                )


def _say_once(line: str) -> None:
    if line not in _SAID:
        _SAID.add(line)
        notice(line)
