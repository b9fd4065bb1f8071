"""The trackers: what is written can be read, after a crash, a resume and a full disk too."""

import json
import struct
import sys
import types
from pathlib import Path

import pytest

from jaxode.config import UserError
from jaxode.tracking import JsonlTracker, ProgressBar, TensorBoardTracker, Trackers, WandbTracker, read_jsonl

FULL_DISK = Path("/dev/full")  # every write fails with "No space left on device"
needs_full_disk = pytest.mark.skipif(not FULL_DISK.exists(), reason="no /dev/full on this system")


def write(path, *records):
    tracker = JsonlTracker(path)
    for step, metrics in records:
        tracker.log(step, metrics)
    tracker.close()


def test_jsonl_returns_what_was_logged_and_creates_the_folder(tmp_path):
    path = tmp_path / "run" / "metrics.jsonl"
    write(path, (1, {"loss": 3.25, "note": "größer", "tokens": 4}), (2, {"loss": 1e-9, "note": "", "tokens": 8}))
    assert read_jsonl(path) == [
        {"step": 1, "loss": 3.25, "note": "größer", "tokens": 4},
        {"step": 2, "loss": 1e-9, "note": "", "tokens": 8},
    ]


def test_jsonl_line_is_on_disk_before_close(tmp_path):
    tracker = JsonlTracker(tmp_path / "m.jsonl")
    tracker.log(1, {"loss": 1.0})
    assert (tmp_path / "m.jsonl").read_text() == '{"step": 1, "loss": 1.0}\n'
    tracker.close()


def test_jsonl_keeps_a_diverged_loss(tmp_path):
    path = tmp_path / "m.jsonl"
    write(path, (1, {"loss": float("inf")}))
    assert read_jsonl(path) == [{"step": 1, "loss": float("inf")}]


def test_jsonl_resumed_run_overrides_the_steps_it_repeats(tmp_path):
    path = tmp_path / "m.jsonl"
    write(path, (10, {"loss": 3.0}), (20, {"loss": 2.0}), (30, {"loss": 1.0}))
    before = path.read_bytes()
    write(path, (20, {"loss": 2.5}), (30, {"loss": 1.5}), (40, {"loss": 0.5}))
    assert [(r["step"], r["loss"]) for r in read_jsonl(path)] == [(10, 3.0), (20, 2.5), (30, 1.5), (40, 0.5)]
    assert path.read_bytes().startswith(before), "a resumed run must not rewrite what is on disk"


def test_jsonl_merges_what_one_step_logs_apart(tmp_path):
    path = tmp_path / "m.jsonl"
    write(path, (10, {"loss": 3.0}), (10, {"valid_loss": 3.5}))
    assert read_jsonl(path) == [{"step": 10, "loss": 3.0, "valid_loss": 3.5}]


@pytest.mark.parametrize("cut", range(1, 26))
def test_jsonl_torn_last_line_costs_only_itself(tmp_path, cut):
    path = tmp_path / "m.jsonl"
    write(path, (1, {"loss": 1.0}), (2, {"loss": 2.0}))
    torn = path.read_bytes()[:-cut]
    path.write_bytes(torn)
    whole = 2 if cut == 1 else 1  # without its newline only, the line is complete
    assert [r["step"] for r in read_jsonl(path)] == [1, 2][:whole]
    write(path, (3, {"loss": 3.0}))
    assert [r["step"] for r in read_jsonl(path)] == [*[1, 2][:whole], 3]
    assert path.read_bytes().startswith(torn), "the torn line stays, only a newline ends it"


@pytest.mark.parametrize(("after", "kept"), [(0, 0), (9, 0), (10, 2), (25, 3), (30, 4), (99, 4)])
def test_jsonl_resumed_run_cuts_off_what_a_kill_undid(tmp_path, after, kept):
    path = tmp_path / "m.jsonl"
    write(path, (10, {"loss": 3.0}), (10, {"valid_loss": 3.5}), (20, {"loss": 2.0}), (30, {"loss": 1.0}))
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines) + b'{"step": 40, "lo')
    tracker = JsonlTracker(path, after)
    assert path.read_bytes() == b"".join(lines[:kept])
    tracker.log(50, {"loss": 0.5})
    tracker.close()
    assert path.read_bytes().splitlines()[kept:] == [b'{"step": 50, "loss": 0.5}']


def test_jsonl_that_cannot_be_cut_is_whole(tmp_path, monkeypatch):
    path = tmp_path / "m.jsonl"
    write(path, (10, {"loss": 3.0}), (20, {"loss": 2.0}))
    before = path.read_bytes()

    def crash(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("jaxode.tracking.os.truncate", crash)
    with pytest.raises(KeyboardInterrupt):
        JsonlTracker(path, 10)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_jsonl_without_a_file_has_nothing_to_cut(tmp_path):
    JsonlTracker(tmp_path / "m.jsonl", 10).close()
    assert (tmp_path / "m.jsonl").read_bytes() == b""


def test_jsonl_skips_lines_that_are_no_record(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_bytes(b'\xff\xfe\n[1]\n"step"\n{"loss": 1.0}\n{"step": "x"}\n{"step": 7}\n')
    assert read_jsonl(path) == [{"step": 7}]


def test_jsonl_write_that_failed_midway_costs_only_its_line(tmp_path):
    path = tmp_path / "m.jsonl"
    tracker = JsonlTracker(path)
    tracker.log(1, {"loss": 1.0})
    healthy = tracker._file

    class Filling:
        def write(self, data):
            if healthy.tell() > 30:
                raise OSError(28, "No space left on device")
            return healthy.write(bytes(data)[:8])

    tracker._file = Filling()
    with pytest.raises(OSError, match="No space"):
        tracker.log(2, {"loss": 2.0})
    tracker._file = healthy
    tracker.log(3, {"loss": 3.0})
    tracker.close()
    assert path.read_bytes() == b'{"step": 1, "loss": 1.0}\n{"step":\n{"step": 3, "loss": 3.0}\n'
    assert [r["step"] for r in read_jsonl(path)] == [1, 3]


class Recorder:
    def __init__(self):
        self.seen = []

    def log(self, step, metrics):
        self.seen.append((step, dict(metrics)))

    def close(self):
        self.seen.append("closed")


class Full(Recorder):
    def log(self, step, metrics):
        raise OSError(28, "No space left on device")

    def close(self):
        raise OSError(28, "No space left on device")


def test_trackers_fan_out_past_one_that_fails_and_warn_once(capsys):
    first, last = Recorder(), Recorder()
    trackers = Trackers([first, Full(), last])
    trackers.log(1, {"loss": 1.0})
    trackers.log(2, {"loss": 2.0})
    trackers.close()
    assert first.seen == last.seen == [(1, {"loss": 1.0}), (2, {"loss": 2.0}), "closed"]
    assert capsys.readouterr().err.splitlines() == [
        "Full: metrics are being lost, training goes on: [Errno 28] No space left on device"
    ]


def test_trackers_hide_no_other_error():
    class Broken(Recorder):
        def log(self, step, metrics):
            raise KeyError("loss")

    with pytest.raises(KeyError):
        Trackers([Broken()]).log(1, {})


@needs_full_disk
def test_full_disk_does_not_stop_training(tmp_path, capsys):
    (tmp_path / "m.jsonl").symlink_to(FULL_DISK)
    trackers = Trackers([JsonlTracker(tmp_path / "m.jsonl")])
    for step in range(5):
        trackers.log(step, {"loss": 1.0})
    trackers.close()
    assert capsys.readouterr().err.count("No space left on device") == 1


def read_events(folder):
    """(step, name, number or text) of every event, in order, of files laid out as TFRecord."""
    event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")
    for path in sorted(folder.iterdir()):
        data, at = path.read_bytes(), 0
        while at < len(data):
            (size,) = struct.unpack_from("<Q", data, at)
            event = event_pb2.Event.FromString(data[at + 12 : at + 12 + size])
            at += 12 + size + 4
            for value in event.summary.value:
                text = value.tensor.string_val
                yield event.step, value.tag, text[0].decode() if text else value.simple_value


def test_tensorboard_events_can_be_read_back(tmp_path):
    pytest.importorskip("tensorboardX")
    tracker = TensorBoardTracker(tmp_path / "tb")
    tracker.log(3, {"loss": 1.5, "tokens": 12, "note": "hello"})
    events = list(read_events(tmp_path / "tb"))  # before close: log flushes
    tracker.close()
    assert events == [(3, "loss", 1.5), (3, "tokens", 12.0), (3, "note/text_summary", "hello")]


def test_tensorboard_is_told_where_a_run_goes_on(tmp_path):
    event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")
    TensorBoardTracker(tmp_path, after=20).close()
    (path,) = tmp_path.iterdir()
    data, at, events = path.read_bytes(), 0, []
    while at < len(data):
        (size,) = struct.unpack_from("<Q", data, at)
        events.append(event_pb2.Event.FromString(data[at + 12 : at + 12 + size]))
        at += 12 + size + 4
    assert [(event.step, event.session_log.status) for event in events[1:]] == [(21, event_pb2.SessionLog.START)]


@needs_full_disk
def test_tensorboard_on_a_full_disk_neither_stops_nor_blocks(tmp_path, capsys):
    pytest.importorskip("tensorboardX")
    tracker = TensorBoardTracker(tmp_path)
    tracker._writer._py_recordio_writer._writer = FULL_DISK.open("wb", buffering=0)
    trackers = Trackers([tracker])
    for step in range(50):  # an asynchronous writer's queue of 10 would be full by now
        trackers.log(step, {"loss": 1.0})
    trackers.close()
    assert capsys.readouterr().err.count("No space left on device") == 1


def test_wandb_gets_project_name_config_and_steps(monkeypatch):
    calls = []
    run = types.SimpleNamespace(
        log=lambda metrics, step: calls.append((step, metrics)), finish=lambda: calls.append("finished")
    )
    fake = types.SimpleNamespace(init=lambda **settings: calls.append(settings) or run)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    tracker = WandbTracker("depth", "run-1", {"model": {"width": 8}})
    tracker.log(5, {"loss": 2.0})
    tracker.close()
    assert calls == [
        {"project": "depth", "name": "run-1", "config": {"model": {"width": 8}}},
        (5, {"loss": 2.0}),
        "finished",
    ]


def test_missing_packages_name_the_extra(monkeypatch, tmp_path):
    for module in ("tensorboardX", "tensorboardX.event_file_writer", "wandb"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=r'tensorboardX is not installed: pip install "jaxode\[tensorboard\]"'):
        TensorBoardTracker(tmp_path / "tb")
    assert not (tmp_path / "tb").exists()
    with pytest.raises(UserError, match=r'wandb is not installed: pip install "jaxode\[wandb\]"'):
        WandbTracker("p", "r", {})


def test_progress_bar_shows_rate_time_left_and_losses(capsys):
    bar = ProgressBar(100, 40, disable=False, tokens_per_update=2048)
    bar.log(50, {"loss": 3.14159, "learning_rate": 0.5})
    bar.log(50, {"valid_loss": 3.5, "note_loss": "not a number"})
    bar.log(60, {"loss": 2.5, "mfu": 0.4321})
    bar.close()
    out, err = capsys.readouterr()
    last = err.strip().rpartition("\r")[2]
    assert out == ""
    assert "60%" in last
    assert "123k/205k" in last, "tokens done of tokens in all"
    assert "tok/s" in last
    assert "<" in last, "elapsed<left"
    assert last.endswith("update=60, loss=2.5000, valid_loss=3.5000, mfu=43.2%]")


def test_progress_bar_is_silent_where_standard_error_is_no_terminal(capsys):
    bar = ProgressBar(10, 0)
    bar.log(10, {"loss": 1.0})
    bar.close()
    assert capsys.readouterr().err == ""


def test_jsonl_is_plain_json_lines(tmp_path):
    write(tmp_path / "m.jsonl", (1, {"note": "two\nlines\u2028and more"}))
    (line,) = (tmp_path / "m.jsonl").read_text().splitlines()
    assert json.loads(line)["note"] == "two\nlines\u2028and more"
