"""No file breaks jaxode: it is accepted, or refused in one line; and nothing is written where it does not belong.

`pytest -n 0 tests/faults/test_damaged_inputs.py --inputs 100000` tries that many, without it each reader some.
"""

import faulthandler
import os
import random
import shutil
import sys
import tempfile
import warnings

import hypothesis
import pytest
from hypothesis import strategies as st
from readers import READERS

from jaxode.config import UserError

SECONDS = 600
"""After so many for one input the process ends with its traceback: it hangs."""
SHARES = sum(reader.share for reader in READERS)
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
PLACES: list[str] = []
"""Where Python may write now; anywhere while there are none."""
ASTRAY: list[str] = []


def _listen(event, args):
    """What Python itself opens, makes, moves and removes."""
    if not PLACES or event not in ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate"):
        return
    if event == "open" and not (isinstance(args[2], int) and args[2] & WRITES):
        return
    if event in ("os.remove", "os.rmdir") and args[1] != -1:
        return  # a name within a folder that is open
    for path in args[: 2 if event == "os.rename" else 1]:
        place = os.path.realpath(os.fsdecode(path)) if isinstance(path, str | bytes | os.PathLike) else ""
        if place and place != os.devnull and not place.startswith(tuple(PLACES)):
            ASTRAY.append(f"{event} {place}")


@pytest.fixture(scope="module", autouse=True)
def _heard():
    sys.addaudithook(_listen)  # there is no way to remove one


@pytest.fixture(scope="module")
def count(request):
    """Takes what became of a reader's inputs, and says it where a number of them was asked for."""
    sums = {"accepted": 0, "refused": 0}

    def say(name, counts):
        if request.config.getoption("--inputs"):
            with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
                sys.stderr.write(f"\n{name}: {sum(counts.values())} inputs, {counts['accepted']} accepted\n")

    def take(name, counts):
        sums.update({kind: sums[kind] + number for kind, number in counts.items()})
        say(name, counts)

    yield take
    say("all", sums)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder for the files that are read, all other writing of which is noticed."""
    aside = tmp_path / "aside"
    aside.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(aside))
    monkeypatch.setenv("JAXODE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    yield tmp_path / "files"
    PLACES.clear()
    ASTRAY.clear()


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name)
def test_what_is_read_is_accepted_or_refused_in_one_line(reader, place, count, request):
    reader.prepare(place)
    path = place / reader.file
    content, before = path.read_bytes(), reader.read(place)
    total = request.config.getoption("--inputs")
    inputs = max(3, round((total or 12 * SHARES) * reader.share / SHARES))
    counts = {"accepted": 0, "refused": 0}
    allowed = [str(place.parent) + os.sep]

    @hypothesis.settings(max_examples=inputs, deadline=None, phases=[hypothesis.Phase.generate])
    @hypothesis.given(st.integers(0, 2**64 - 1))
    def read(seed):
        # a seed, and not hypothesis' own random numbers, which take most of the time
        path.write_bytes(reader.change(content, random.Random(seed)))
        faulthandler.dump_traceback_later(SECONDS, exit=True)
        PLACES[:] = allowed
        after, line = None, ""
        try:
            after = reader.read(place)
        except UserError as error:
            line = str(error)
        finally:
            PLACES.clear()
            faulthandler.cancel_dump_traceback_later()
        counts["refused" if line else "accepted"] += 1
        assert not ASTRAY
        assert line.isprintable()
        assert line or not reader.checked or after == before

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        read()
    count(reader.name, counts)
    shutil.rmtree(place)
