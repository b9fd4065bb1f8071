"""Processes of a study: logs, errors, signals."""

import ast
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from jaxode.evaluation.study.children import Children, Stopped


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Makes a module of this source that children can run."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)

    def make(source):
        (tmp_path / "played.py").write_text(source)
        return ["played"]

    return make


def test_a_child_leaves_a_log_and_the_last_line_of_its_error(module, tmp_path):
    log = tmp_path / "new" / "log.txt"
    with Children() as children:
        assert children.call(module("print('fine')"), log) is None
        command = module("import sys; print('about'); sys.exit('error: out of luck\\n')")
        assert children.call(command, log) == f"out of luck (exit code 1; {log})"
        assert children.call(module("import sys; sys.exit(3)"), log) == f"it said nothing (exit code 3; {log})"
    assert log.read_text().split() == ["fine", "about", "error:", "out", "of", "luck"]


def test_children_side_by_side_keep_to_one_core_each(module, tmp_path, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--a=1")
    source = "import os; print(os.environ.get('OMP_NUM_THREADS'), os.environ['XLA_FLAGS'])"
    for one_core, said in ((False, "None --a=1"), (True, "1 --a=1 --xla_cpu_multi_thread_eigen=false")):
        log = tmp_path / f"{one_core}"
        with Children(one_core) as children:
            children.call(module(source), log)
        assert log.read_text().strip() == said


def test_children_share_what_they_compile(module, tmp_path, monkeypatch):
    names = ("JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS")
    command = module(f"import os; print([os.environ.get(name) for name in {names}])")

    def said(programs):
        log = tmp_path / "log"
        log.unlink(missing_ok=True)
        with Children(programs=programs) as children:
            children.call(command, log)
        return ast.literal_eval(log.read_text())

    monkeypatch.chdir(tmp_path)
    for name in ("JAXODE_COMPILED", *names):
        monkeypatch.delenv(name, raising=False)
    # also those that take less than JAX's least time
    assert said(Path("programs")) == [str(tmp_path / "programs"), "0"]
    assert said(None) == [None, None]
    monkeypatch.setenv("JAXODE_COMPILED", "elsewhere")
    assert said(Path("programs")) == [str(tmp_path / "elsewhere"), "0"]
    monkeypatch.setenv("JAXODE_COMPILED", "none")
    assert said(Path("programs")) == [None, None]
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "of jax")
    monkeypatch.setenv("JAXODE_COMPILED", "")
    assert said(Path("programs")) == ["of jax", None]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_the_children_once_and_starts_no_more(module, tmp_path, number):
    before = signal.getsignal(number)
    ready, log = tmp_path / "ready", tmp_path / "log"
    source = f"""
import os, pathlib, signal, sys, time
assert os.getsid(0) == os.getpid()  # out of reach of the terminal's Ctrl-C
def stop(*_):
    print("saved", flush=True)
    time.sleep(0.2)  # for a second signal to arrive
    sys.exit(143)
signal.signal(signal.SIGTERM, stop)
pathlib.Path({str(ready)!r}).touch()
for _ in range(600):  # a signal just before one long sleep would wait for its end
    time.sleep(0.1)
"""

    def interrupt():
        while not ready.exists():
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    threading.Thread(target=interrupt, daemon=True).start()
    with Children() as children:
        with pytest.raises(Stopped):
            children.call(module(source), log)
        assert children.signal == number
        with pytest.raises(Stopped):
            children.call(module("print('more')"), log)
    assert log.read_text() == "saved\n"
    assert signal.getsignal(number) == before
