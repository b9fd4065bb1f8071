"""Compiled programs that a start keeps for the next. Starts are processes: one process keeps them in one place."""

import errno
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest

from jaxode.inference.programs import forget_oldest, keep_compiled

WATCHED = """
import json, sys
import jax.monitoring
events = []
jax.monitoring.register_event_listener(lambda event, **_: events.append(event.split("/")[-1]))
from jaxode.inference.__main__ import main
code = main(sys.argv[1:])
print(json.dumps([events.count("compile_requests_use_cache"), events.count("cache_hits")]))
sys.exit(code)
"""


@pytest.fixture
def start(runs, tmp_path):
    """Runs infer.py on a prompt; returns how many programs it needed, how many it had, and its notes."""

    def call():
        command = [sys.executable, "-c", WATCHED, "--checkpoint", runs["causal"], "--prompt", "abc"]
        # without the folder that these tests keep programs in
        own = {name: value for name, value in os.environ.items() if "COMPILATION_CACHE" not in name}
        environment = own | {"JAXODE_CACHE": str(tmp_path / "cache"), "JAXODE_COMPILED": ""}
        done = subprocess.run(
            [*map(str, command), "--max-new-tokens", "3"], capture_output=True, text=True, env=environment
        )
        assert done.returncode == 0, done.stderr
        *_, last = done.stdout.splitlines()
        return *json.loads(last), done.stderr

    return call


def files(folder):
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*")}


@pytest.mark.deep
def test_a_second_start_compiles_only_what_was_damaged_and_the_model_folder_stays_as_it_is(start, runs, tmp_path):
    before = files(runs["causal"])
    programs, found, _ = start()
    assert programs > found == 0
    kept = files(tmp_path / "cache" / "compiled")
    # whatever each of them took to compile
    assert len(kept) == programs
    assert any("decode" in name for name in kept)
    # one that a process was killed over is no reason to fail, or to warn
    damaged, *whole = sorted(kept)
    Path(damaged).write_bytes(Path(damaged).read_bytes()[:100])
    programs, found, notes = start()
    assert (programs, found) == (len(kept), len(whole))
    assert "cache entry" not in notes
    after = files(tmp_path / "cache" / "compiled")
    assert after.keys() == kept.keys()
    assert all(after[name] == kept[name] for name in whole)
    assert files(runs["causal"]) == before


def test_where_programs_are_kept(monkeypatch, tmp_path):
    """A flag before jaxode's variable, that before JAX's own, and the cache folder last."""
    updates = {}
    config = SimpleNamespace(update=updates.__setitem__)
    monkeypatch.setattr("jaxode.inference.programs.jax", SimpleNamespace(config=config))
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.setenv("JAXODE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path))

    def kept_in(flag, variable=""):
        updates.clear()
        monkeypatch.setenv("JAXODE_COMPILED", variable)
        with warnings.catch_warnings():
            keep_compiled(flag, pytest.fail)
        return updates.get("jax_compilation_cache_dir")

    assert kept_in("") == str(tmp_path / "cache" / "compiled")
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "of jax")
    assert kept_in("") is None
    assert kept_in("", str(tmp_path / "variable")) == str(tmp_path / "variable")
    assert kept_in("~/flag", "none") == str(tmp_path / "flag")
    assert kept_in("", "none") is None
    assert kept_in("none", "variable") is None


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_a_folder_that_cannot_be_written_costs_one_note(infer, runs, tmp_path, place):
    (tmp_path / "file").touch()
    ran = infer("--checkpoint", runs["causal"], "--prompt", "abc", "--compiled", tmp_path / place)
    assert ran.code == 0
    assert ran.out
    (note,) = (line for line in ran.err.splitlines() if "compiled" in line)
    assert note.startswith(f"compiled programs cannot be kept in {tmp_path / place} (")
    assert "Traceback" not in ran.err


def test_a_full_disk_keeps_nothing(monkeypatch, tmp_path):
    def full(dir):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    notes = []
    monkeypatch.setattr("jaxode.inference.programs.tempfile.TemporaryFile", full)
    keep_compiled(str(tmp_path), notes.append)
    assert notes == [
        f"compiled programs cannot be kept in {tmp_path} (No space left on device): the next start compiles again"
    ]


def test_the_oldest_programs_go_first(tmp_path):
    for age, name in enumerate(("new", "middle", "old", "oldest")):
        path = tmp_path / f"{name}-cache"
        path.write_bytes(bytes(100))
        os.utime(path, (1000 - age, 1000 - age))
    (tmp_path / "other").write_bytes(bytes(1000))
    forget_oldest(tmp_path, 400)
    assert len(files(tmp_path)) == 5
    forget_oldest(tmp_path, 399)
    assert {path.name for path in tmp_path.iterdir()} == {"new-cache", "other"}
