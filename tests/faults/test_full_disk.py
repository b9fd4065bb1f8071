"""A disk that is full, or cannot be written: one clear line, and what was there before is as it was.

The system itself refuses: files may not grow beyond some bytes, which what is written in C or Rust meets as well.
"""

import contextlib
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from samples import CONFIG, MODEL, RECORD, calibration, params, write_albert, write_calibration, write_export

from jaxode.calibration import load_all
from jaxode.checkpoint import Checkpoints, RunFolder
from jaxode.checkpoint.best import Best, read_best, write_best
from jaxode.config import UserError
from jaxode.data import byte_tokenizer
from jaxode.data.checksums import files_below
from jaxode.data.stores import make_folder
from jaxode.evaluation.answer_sweep import save_answer_sweep
from jaxode.evaluation.label_sweep import save_label_sweep
from jaxode.evaluation.study.records import write_record
from jaxode.inference.tasks import vectors
from jaxode.tracking import JsonlTracker
from jaxode.training import initial
from jaxode.training.initial import Initial

resource = pytest.importorskip("resource")
ROWS = [{"solver": "euler", "schedule": "even", "steps": 2, "block_evaluations": 2, "loss": 1.0, "texts": 4}]
ANSWERS = [
    {"difficulty": 1, "block_evaluations": 2, "exact": 0.5, "steps": 2, "solver": "euler"}
    | {"majority": 0.1, "chance": 0.1, "held_out": True}
]


@contextlib.contextmanager
def full(room=16):
    """No file of this process grows beyond so many bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@dataclass(frozen=True)
class Writer:
    """Writes into a folder."""

    write: object
    again: bool = False
    """Whether it may be called again over what it has written."""


def _prepared(folder):
    make_folder(folder / "rows", lambda aside: (aside / "a").write_text("a text of some length"))


WRITERS = {
    "a run": Writer(lambda at: RunFolder(at).create(CONFIG, byte_tokenizer())),
    "the best": Writer(lambda at: write_best(RunFolder(at), Best(3, "loss", 1.5)), again=True),
    "the model it began with": Writer(
        lambda at: initial.record(RunFolder(at), Initial(MODEL, {}, byte_tokenizer(), MODEL, params())),
        again=True,
    ),
    "a calibration": Writer(write_calibration, again=True),
    "an exported model": Writer(write_export),
    "a Hugging Face folder": Writer(write_albert),
    "a sweep": Writer(lambda at: save_label_sweep(at, ROWS), again=True),
    "answers": Writer(lambda at: save_answer_sweep(at, ANSWERS, "s5"), again=True),
    "a record": Writer(lambda at: write_record(at / "r.json", RECORD), again=True),
    "vectors": Writer(lambda at: vectors._write(at / "v.npz", {"a": np.zeros(9)}), again=True),
    "prepared rows": Writer(_prepared),
}


def content(folder):
    return {name: path.read_bytes() for name, path in files_below(folder).items()}


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_is_one_line_and_costs_nothing(tmp_path, name):
    writer, folder = WRITERS[name], tmp_path / "folder"
    if writer.again:
        folder.mkdir()
        writer.write(folder)
    before = content(tmp_path)
    params()  # nothing else is to be made while there is no room
    with full(), pytest.raises(UserError, match=r"cannot be written.*File too large|File too large") as refused:
        writer.write(folder)
    assert str(folder) in str(refused.value)
    after = content(tmp_path)
    assert {name: after.get(name) for name in before} == before
    if writer.again:
        assert after == before, "nothing half written is left"
    writer.write(folder)  # once there is room


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.skipif(not Path("/sys/kernel").is_dir(), reason="a folder that not even root may write to")
def test_a_folder_that_cannot_be_written_is_one_line(name):
    folder = Path("/sys/jaxode")
    with pytest.raises(UserError, match=r"/sys/jaxode.* cannot be written"):
        WRITERS[name].write(folder)
    assert not folder.exists()


def save_and_wait(checkpoints, *what):
    checkpoints.save(*what)
    checkpoints.wait()


def test_a_checkpoint_without_room_leaves_the_older_one(tmp_path):
    run = RunFolder(tmp_path / "run")
    run.create(CONFIG, byte_tokenizer())
    state = params(), {"count": jnp.zeros(())}, {"step": 3}
    with contextlib.ExitStack() as stack:
        checkpoints = stack.enter_context(Checkpoints(run))
        save_and_wait(checkpoints, 3, *state)
        with full():
            with pytest.raises(UserError, match=r"cannot be written .*; the checkpoint of update 3 is kept; make"):
                save_and_wait(checkpoints, 5, *state)
            stack.close()  # threads that still write would find room afterwards
    with Checkpoints(run) as checkpoints:
        assert checkpoints.restore(*state[:2]).step == 3
        save_and_wait(checkpoints, 7, *state)
        assert checkpoints.latest == 7


def test_a_log_that_cannot_be_opened_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file/metrics\.jsonl: cannot be written: "):
        JsonlTracker(tmp_path / "file" / "metrics.jsonl")


def test_what_was_read_before_is_read_after(tmp_path):
    write_calibration(tmp_path)
    write_best(RunFolder(tmp_path), Best(3, "loss", 1.5))
    with full():
        for write in (
            lambda: write_calibration(tmp_path),
            lambda: write_best(RunFolder(tmp_path), Best(4, "loss", 1.0)),
        ):
            with contextlib.suppress(UserError):
                write()
    assert load_all(tmp_path).keys() == {calibration().steps}
    assert read_best(RunFolder(tmp_path)).step == 3


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a file that is always full")
@pytest.mark.parametrize("what", ["print('x' * 100_000)", "print('x')", "open('/dev/full', 'w').write('x' * 100_000)"])
def test_a_command_whose_output_finds_no_room(what):
    code = f"import sys; from jaxode.config import entry; sys.exit(entry(lambda _: {what} and 0 or 0)())"
    with open("/dev/full", "w") as nowhere:
        done = subprocess.run([sys.executable, "-c", code], stdout=nowhere, stderr=subprocess.PIPE, text=True)
    assert done.stderr == "error: No space left on device\n"
    assert done.returncode == 2
