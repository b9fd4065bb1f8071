"""Every command of the pages, run small: `python -m pytest -m slow --whole tests/docs` (minutes)."""

import os
import re
import sys
import time

import pytest
from commands import PAGES, commands
from running import call, parsed
from scaled import LEFT, PARSED, RUN, fits, way

ALL = [(page, command) for page in PAGES for command in commands(page)]


def test_every_command_is_run_or_excepted_by_name():
    assert not [f"{page}: {command}" for page, command in ALL if way(command) is None]


def test_no_pattern_outlives_its_commands():
    patterns = [*LEFT, *PARSED, *RUN]
    assert not [pattern for pattern in patterns if not any(fits(pattern, command) for _, command in ALL)]


@pytest.mark.slow
@pytest.mark.deep
@pytest.mark.parametrize("page", list(dict.fromkeys(page for page, _ in ALL)))
def test_commands_run(page, checkout, capfd):
    """One after the other in one folder, so that a command finds what those before it have made."""
    mine = commands(page)
    _make_places(page, " ".join(map(str, mine)), checkout)
    failed = []
    for command in mine:
        start = time.process_time()
        code, said = _ended(command, checkout, capfd)
        with capfd.disabled():
            sys.stdout.write(f"{page}: {code}, {time.process_time() - start:.1f} s: {command}\n")
            sys.stdout.flush()
        if code:
            failed.append(f"{command}\nended with {code}:\n{said[-3000:]}")
    assert not failed, "\n\n".join(failed)


def _make_places(page, said, folder):
    """Those that a command names; what lies under DATA, with the first word of it."""
    from places import PLACES, PLACES_OF

    for name, make in (PLACES | PLACES_OF.get(page, {})).items():
        if re.search(rf"(?<![\w./-]){re.escape('DATA' if name.startswith('DATA/') else name)}(?![\w-])", said):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            make(folder / name)


def _ended(command, folder, capfd):
    """Its exit code, and what it wrote."""
    kind, value = way(command)
    if kind == "left":
        return 0, ""
    capfd.readouterr()
    os.environ.update(command.environment)
    try:
        code = call(command.program, [*command.words, *value.split()]) if kind == "run" else parsed(command)
    finally:
        for name in command.environment:
            del os.environ[name]
    wrote = capfd.readouterr()
    if command.into:
        (folder / command.into).write_text(wrote.out, encoding="utf-8")
    return code, wrote.out[-1000:] + wrote.err
