"""Several processes train as one does; one of them killed costs no more than what was not saved yet."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxode import hosts
from jaxode.checkpoint import load_run
from jaxode.config import HostsConfig, TrainConfig, UserError
from jaxode.data import BatchSpec, byte_tokenizer
from jaxode.data.batches import Batches

ROOT = Path(__file__).parents[2]
DIES = """
import os, signal, sys
from jaxode.training import loop
from jaxode.training.__main__ import main
check = loop.Loop._check
def dying(self, metrics, step):
    check(self, metrics, step)
    if step == 12:
        os.kill(os.getpid(), signal.SIGKILL)
loop.Loop._check = dying
sys.exit(main(sys.argv[1:]))
"""


FAILS = """
import sys
from jaxode.config import UserError
from jaxode.training import loop
from jaxode.training.__main__ import main
check = loop.Loop._check
def failing(self, metrics, step):
    check(self, metrics, step)
    if step == 6:
        self.checkpoints.wait()  # that of update 5, which is written meanwhile
        raise UserError("/disk: cannot be written: No space left on device")
loop.Loop._check = failing
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture
def flags(tmp_path):
    rng, folder = np.random.default_rng(0), tmp_path / "text"
    folder.mkdir()
    for number in range(12):
        (folder / f"{number}.txt").write_text(" ".join(rng.choice(["depth", "is", "time", "and", "a", "block"], 400)))
    settings = {
        "model": {"kind": "masked", "width": 32, "heads": 4, "length": 16, "steps": 3},
        "optimizer": {"name": "adamw"},
        "data": {"files": f"{folder}/*.txt", "tokenizer": "bytes", "cache": tmp_path / "cache", "valid-fraction": 0.1},
        "train": {"updates": 20, "batch-size": 8, "log-every": 1, "validate-every": 10, "checkpoint-every": 5},
    }
    named = [(f"--{part}.{name}", str(value)) for part, values in settings.items() for name, value in values.items()]
    return [word for pair in named for word in pair]


def start(arguments, devices, code=None):
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("JAX_COMPILATION", "XLA"))}
    flags = f"--xla_force_host_platform_device_count={devices} --xla_backend_optimization_level=0"
    environment |= {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    program = ["train.py"] if code is None else ["-c", code]
    command = [sys.executable, *program, *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)


def address():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return f"localhost:{free.getsockname()[1]}"


def together(arguments, processes, devices, dies=None, how=DIES):
    meeting = ["--train.hosts.coordinator", address(), "--train.hosts.processes", processes]
    return [
        start(
            [*arguments, *meeting, "--train.hosts.process", number],
            devices,
            how if number == dies else None,
        )
        for number in range(processes)
    ]


def ended(process, seconds=240):
    """Its exit code, and what it said."""
    _, said = process.communicate(timeout=seconds)
    return process.returncode, said


def losses(run):
    lines = (json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines())
    return {line["step"]: line["loss"] for line in lines if "loss" in line}


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [(2, 1), pytest.param(4, 2, marks=pytest.mark.deep)])
def test_one_of_several_is_killed_and_fewer_go_on(flags, tmp_path, before, after):
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    code, said = ended(start([*flags, "--out", alone], 2))
    assert code == 0, said
    processes = together([*flags, "--train.mesh.fsdp", before, "--out", shared], before, 1, dies=1)
    assert ended(processes.pop(1))[0] == -signal.SIGKILL
    for process in processes:
        code, said = ended(process, seconds=60)
        assert code not in (0, -signal.SIGKILL), said
        lines = ("another process of the run is gone", "another task died", "process 1 has given no sign of life")
        assert any(line in said for line in lines), said
    steps = [int(path.name) for path in (shared / "checkpoints").iterdir() if path.name.isdigit()]
    assert max(steps) in (5, 10)
    for process in together(["--resume", "--out", shared, "--train.mesh.fsdp", after], after, 2 // after):
        code, said = ended(process)
        assert code == 0, said
    found, want = losses(shared), losses(alone)
    assert found.keys() == want.keys() == set(range(1, 21))
    np.testing.assert_allclose(list(found.values()), list(want.values()), atol=1e-5)
    assert load_run(shared).step == 20


@pytest.mark.broad
@pytest.mark.slow
@pytest.mark.parametrize("fails", [0, 1])
def test_what_fails_in_one_process_alone_ends_the_other_with_one_line(flags, tmp_path, fails):
    processes = together([*flags, "--out", tmp_path / "run"], 2, 1, dies=fails, how=FAILS)
    code, said = ended(processes[fails])
    reason = "/disk: cannot be written: No space left on device"
    assert (code, said.splitlines()[-1]) == (2, f"error: {reason}"), said
    code, said = ended(processes[1 - fails], seconds=60)  # it has ended before, or while the other one lingered
    line = f"error: process {fails}: {reason}; the run ends: start all processes again with --resume"
    assert (code, said.splitlines()[-1]) == (2, line), said
    assert "Traceback" not in said
    assert max(int(path.name) for path in (tmp_path / "run" / "checkpoints").iterdir() if path.name.isdigit()) == 5


WAITS = """
import os, signal, sys, time
from jaxode import hosts
from jaxode.config import HostsConfig
with hosts.ending_together(()):
    process = int(sys.argv[2])
    hosts.join(HostsConfig(sys.argv[1], 2, process))
    if process:
        time.sleep(5)
        os.kill(os.getpid(), signal.SIGKILL)
    hosts.barrier("the other one")
"""


@pytest.mark.slow
def test_one_that_waits_for_a_killed_one_says_so():
    meeting = address()
    waits, dies = (start([meeting, process], 1, WAITS) for process in (0, 1))
    assert ended(dies)[0] == -signal.SIGKILL
    code, said = ended(waits, seconds=60)
    line = "process 1 has given no sign of life for 20 s: it was killed, or hangs"
    assert (code, said.splitlines()[-1]) == (2, f"error: {line}; the run ends: start all processes again with --resume")


class Board:
    """Where processes leave each other lines, as JAX's client of the coordination service."""

    def __init__(self, heard=0):
        self.lines = {f"{hosts.HEARD}/{number}": "done" for number in range(heard)}

    def key_value_set(self, key, value, allow_overwrite=False):
        if key in self.lines and not allow_overwrite:
            raise jax.errors.JaxRuntimeError(f"ALREADY_EXISTS: {key}")
        self.lines[key] = value

    def key_value_try_get(self, key):
        if key not in self.lines:
            raise jax.errors.JaxRuntimeError(f"NOT_FOUND: {key}")
        return self.lines[key]

    def key_value_dir_get(self, folder):
        return [pair for pair in self.lines.items() if pair[0].startswith(f"{folder}/")]


@pytest.fixture
def board(monkeypatch):
    """One process of two."""
    board = Board(heard=1)
    monkeypatch.setattr(hosts, "_client", lambda: board)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    monkeypatch.setattr(hosts, "_MET", threading.Event())
    monkeypatch.setattr(hosts, "_ENDING", threading.Event())
    monkeypatch.setattr(hosts, "_AT_WORK", threading.Event())
    hosts._MET.set()
    return board


class Agreed(Exception):
    """What all processes raise."""


@pytest.mark.parametrize(
    ("error", "reason"), [(UserError("a: is full"), "a: is full"), (KeyboardInterrupt(), "KeyboardInterrupt")]
)
def test_what_fails_is_left_to_the_others(board, error, reason):
    with pytest.raises(type(error)), hosts.ending_together(Agreed):
        raise error
    assert board.lines[hosts.FAILED] == f"process 1: {reason}"
    assert f"{hosts.HEARD}/1" in board.lines, "so that all have"


def test_what_all_agree_on_is_not(board):
    with pytest.raises(Agreed), hosts.ending_together(Agreed):
        raise Agreed
    assert hosts.FAILED not in board.lines


def test_the_first_failure_counts_and_whoever_was_first_hears_of_the_next(board):
    board.lines |= {hosts.FAILED: "process 0: first"}
    with pytest.raises(UserError), hosts.ending_together(Agreed):
        raise UserError("second")
    assert board.lines[hosts.FAILED] == "process 0: first"
    assert f"{hosts.HEARD}/1" in board.lines


class Ended(BaseException):
    """In the place of the end of a process."""


@pytest.fixture
def ends(monkeypatch):
    def end(code):
        raise Ended(code)

    monkeypatch.setattr(os, "_exit", end)
    monkeypatch.setattr(hosts, "LOOK", 0.0)


def test_a_process_that_hears_of_a_failure_ends(board, ends, capsys):
    assert hosts._read(hosts.FAILED) is None
    board.lines = {hosts.FAILED: "process 0: a: is full"}
    with pytest.raises(Ended, match="2"):
        hosts._watch()
    assert capsys.readouterr().err == (
        "\nerror: process 0: a: is full; the run ends: start all processes again with --resume\n"
    )
    assert board.lines[f"{hosts.HEARD}/1"] == "done"
    hosts._watch()  # of a process that ends already


def test_a_process_that_falls_silent_ends_the_others(board, ends, monkeypatch, capsys):
    monkeypatch.setattr(hosts, "SILENT", 0.0)
    board.lines = {f"{hosts.ALIVE}/0": "17"}
    with pytest.raises(Ended, match="2"):
        hosts._watch()
    line = "process 0 has given no sign of life for 0 s: it was killed, or hangs"
    assert board.lines[hosts.FAILED] == line, "for all to read"
    assert f"{hosts.HEARD}/0" in board.lines, "so that nobody waits until it has heard"
    assert capsys.readouterr().err == f"\nerror: {line}; the run ends: start all processes again with --resume\n"


def test_one_that_gives_signs_or_is_done_is_not_gone(board, monkeypatch):
    monkeypatch.setattr(hosts, "SILENT", 0.0)
    after = hosts._Silence(0)
    assert after.line() is None, "it has not begun"
    for sign in ("1", "2", "done", "done"):
        board.lines[f"{hosts.ALIVE}/0"] = sign
        assert after.line() is None
    with hosts.ending_together(Agreed):
        hosts._sign(5)
        assert board.lines[f"{hosts.ALIVE}/1"] == "5"
    assert board.lines[f"{hosts.ALIVE}/1"] == "done"
    hosts._sign(6)
    assert board.lines[f"{hosts.ALIVE}/1"] == "done"


def dealt_rows(what):
    """Texts of unlike length where they are labelled, so that each process by itself would pad to another one."""
    rng = np.random.default_rng(0)
    for number in range(40):
        row = {"tokens": rng.integers(0, 256, 9).astype(np.int32), "count": np.int32(9)}
        if what in ("texts", "pairs", "words"):
            row["count"] = np.int32(9 if number % 8 == 0 else 1 + number % 3)
        if what in ("texts", "pairs"):
            row |= {"wanted": np.float32([number % 2]), "weight": np.float32(1)}
        if what == "pairs":
            row["kinds"] = rng.integers(0, 2, 9).astype(np.int32)
        if what == "words":
            row |= {"targets": np.full(9, number, np.int32), "weights": np.ones(9, np.float32)}
        yield row


@pytest.mark.parametrize(
    ("what", "kind"),
    [
        ("stream", "causal"),
        ("stream", "masked"),
        ("texts", "classifier"),
        ("pairs", "classifier"),
        ("words", "token_classifier"),
    ],
)
def test_what_processes_read_is_together_the_batch_of_one(what, kind):
    rows, spec = list(dealt_rows(what)), BatchSpec(byte_tokenizer(), kind)
    for step in (0, 3, 11):
        whole = Batches(rows, spec, 8, seed=1).at(step)
        parts = [Batches(rows, spec, 8, seed=1, part=(number, 4)).at(step) for number in range(4)]
        together = jax.tree.map(lambda *rows: np.stack(rows, axis=1).reshape(8, -1), *parts)
        jax.tree.map(np.testing.assert_array_equal, together, whole)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"coordinator": "node1"}, r'coordinator = "node1": must be ADDRESS:PORT of process 0'),
        ({"coordinator": "node1:0", "processes": 2, "process": 0}, "must be ADDRESS:PORT"),
        ({"coordinator": "node1:99", "processes": 2, "process": 2}, r"process = 2 of .*processes = 2: .* 0 \.\. 1"),
        ({"processes": 2}, r'processes = 2, .* with train\.hosts\.coordinator = "": they belong to the address'),
        ({"coordinator": "auto", "process": 1}, "they belong to the address"),
    ],
)
def test_settings_that_name_no_process_are_refused(fields, message):
    with pytest.raises(UserError, match=message):
        HostsConfig(**fields)


def test_several_processes_use_all_of_their_devices():
    hosts = HostsConfig("node1:99", 2, 0)
    for fields in ({"parallel": "pmap"}, {"devices": 2}):
        with pytest.raises(UserError, match=r"several processes train under \"jit\", with all of their devices"):
            TrainConfig(hosts=hosts, **fields)
