"""A run that goes on: from what, with which settings, and what it leaves behind where it cannot."""

import dataclasses
import json
import shutil
import signal
import threading
from pathlib import Path

import numpy as np
import pytest
from small_runs import change, kill_after, stop_after

from jaxode.checkpoint import Checkpoints, RunFolder, load_run
from jaxode.config import Config, DataConfig, DepthConfig, ModelConfig, TaskConfig, TrainConfig, UserError, to_toml
from jaxode.training import loop, train
from jaxode.training import run as training_run
from jaxode.training.__main__ import main
from jaxode.training.continuation import check_same
from jaxode.training.summary import write_summary


def resumed(config, **changes):
    return dataclasses.replace(config, resume=True, **changes)


def assert_same(result, expected):
    for name, value in expected.params.items():
        np.testing.assert_array_equal(result.params[name], value, err_msg=name)


def damage(run, step):
    files = [path for path in (run.checkpoints / str(step) / "params").rglob("*") if path.is_file()]
    path = max(files, key=lambda path: path.stat().st_size)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize(
    ("begun", "now", "message"),
    [
        (None, 2, r"depth\.steps = 2: the run in x was started with full depth;"),
        (2, None, r"depth\.steps = full depth: the run in x was started with 2;"),
    ],
)
def test_settings_that_only_one_side_has_are_compared(begun, now, message):
    stored, config = (Config(out="x", depth=DepthConfig(steps=steps)) for steps in (begun, now))
    with pytest.raises(UserError, match=message):
        check_same(stored, config)
    check_same(stored, stored)


def test_where_a_mixture_lies_is_free_since_the_data_position_knows_its_text():
    stored = Config(data=DataConfig(mixture=("here/*.txt=1",)))
    check_same(stored, Config(data=DataConfig(mixture=("there/*.txt=1",))))


def test_what_is_asked_at_the_end_is_free():
    task = DataConfig(corpus="tasks/s3", tokenizer="bytes", task=TaskConfig(difficulty="2"))
    more = dataclasses.replace(task, task=TaskConfig(difficulty="2", beyond="3", tested=10))
    check_same(Config(data=task), Config(data=more))
    other = dataclasses.replace(task, task=TaskConfig(difficulty="3"))
    with pytest.raises(UserError, match=r"data\.task\.difficulty = '3': the run in x was started with '2'"):
        check_same(Config(out="x", data=task), Config(out="x", data=other))


def test_patience_counts_validations_of_one_kind():
    stored = Config(out="x", train=TrainConfig(validate_every=50))
    rarer = TrainConfig(validate_every=10, best="loss", patience=3)
    with pytest.raises(UserError, match=r"validate_every = 10: train\.patience = 3 counts .* one every 50 updates"):
        check_same(stored, Config(out="x", train=rarer))
    check_same(stored, Config(out="x", train=dataclasses.replace(rarer, patience=0)))


@pytest.fixture
def short(config, corpus):
    """The settings of a finished run of two updates, which is made once and copied."""
    made = corpus / "short"
    if not made.exists():
        train(dataclasses.replace(change(config, updates=2), out=str(made)))
    shutil.copytree(made, config.out)
    return change(config, updates=2)


def test_another_depth_is_refused_and_nothing_is_written(config, short):
    before = sorted(Path(config.out).rglob("*"))
    with pytest.raises(UserError, match=r"depth\.steps = 2: the run in .* was started with full depth"):
        train(resumed(short, depth=DepthConfig(steps=2)))
    assert sorted(Path(config.out).rglob("*")) == before


def test_a_config_written_before_a_field_was_there(config, short):
    path = Path(config.out) / "config.toml"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if not line.startswith(("branch_rate", "conditioning", "adjoint"))))
    (path.parent / "checksums.json").unlink()  # there were none either
    assert train(resumed(short)).step == 2


@pytest.mark.deep
def test_the_text_may_have_moved(config, corpus, tmp_path, monkeypatch):
    never_stopped = train(config)
    folder = shutil.copytree(corpus, tmp_path / "texts")
    halved = dataclasses.replace(
        config, data=dataclasses.replace(config.data, files=f"{folder}/*.txt"), out=str(tmp_path / "halved")
    )
    with monkeypatch.context() as patch:
        stop_after(patch, 5)
        train(halved)
    moved = folder.rename(tmp_path / "moved")
    with pytest.raises(UserError, match="no file matches"):
        train(resumed(halved))
    result = train(resumed(halved, data=dataclasses.replace(config.data, files=f"{moved}/*.txt")))
    assert_same(result, never_stopped)


def test_another_text_is_refused(config, short, tmp_path):
    (tmp_path / "other.txt").write_text("another text " * 900)
    (tmp_path / "more.txt").write_text("and more of it " * 900)
    data = dataclasses.replace(config.data, files=f"{tmp_path}/*.txt")
    with pytest.raises(UserError, match=r"data position|corpus"):
        train(resumed(short, data=data))


def test_metrics_of_updates_that_a_kill_undid_are_cut_off(config):
    kill_after_five(config)
    path = RunFolder(Path(config.out)).metrics
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [2, 4, 4]
    train(resumed(config))
    records = [json.loads(line) for line in path.read_text().splitlines()]
    counted = [(record["step"], name) for record in records for name in record if name != "step"]
    assert len(counted) == len(set(counted))
    assert [record["step"] for record in records if "loss" in record] == [2, 4, 6, 8]


def kill_after_five(config):
    """Checkpoints of update 3, metrics of 2 and 4."""
    with pytest.MonkeyPatch.context() as patch:
        kill_after(patch, 5, config)


def test_a_damaged_newest_checkpoint_costs_its_updates_and_nothing_else(config, tmp_path, monkeypatch, capfd):
    never_stopped = train(config)
    killed = dataclasses.replace(config, out=str(tmp_path / "killed"))
    kill_after(monkeypatch, 7, killed)
    run = RunFolder(tmp_path / "killed")
    damage(run, 6)
    capfd.readouterr()
    result = train(resumed(killed))
    noted = capfd.readouterr().err
    assert "6: checkpoint is damaged or incomplete (params: not what was written)" in noted
    assert "the checkpoint of update 3 is taken in its place" in noted
    assert_same(result, never_stopped)
    assert (run.checkpoints / "6.damaged").is_dir()
    with Checkpoints(run) as checkpoints:
        assert checkpoints.steps == [8, 6]
    assert load_run(run.path, step=6).step == 6


def test_a_step_that_was_copied_by_half_is_not_in_the_way(config, tmp_path, monkeypatch):
    kill_after(monkeypatch, 5, config)
    run = RunFolder(Path(config.out))
    (run.checkpoints / "6").mkdir()
    assert train(resumed(config)).step == 8
    with Checkpoints(run) as checkpoints:
        assert checkpoints.steps == [8, 6]


def test_where_no_checkpoint_can_be_read_nothing_is_touched(config, monkeypatch):
    kill_after(monkeypatch, 7, config)
    run = RunFolder(Path(config.out))
    for step in (3, 6):
        damage(run, step)
    before = run.metrics.read_bytes(), sorted(run.path.rglob("*"))
    with pytest.raises(UserError, match="6: checkpoint is damaged or incomplete"):
        train(resumed(config))
    assert (run.metrics.read_bytes(), sorted(run.path.rglob("*"))) == before


def test_two_processes_cannot_train_the_same_run(config, short):
    with (
        RunFolder(Path(config.out)).held(new=False),
        pytest.raises(UserError, match="another process trains this run; wait for it, or stop it first"),
    ):
        train(resumed(short))
    assert train(resumed(short)).step == 2


def test_a_finished_run_says_on_how_many_tokens_its_loss_was_measured(config, short):
    summaries = []
    for settings in (resumed(short), resumed(change(short, final_batches=1)), resumed(short)):
        write_summary(train(settings))
        summaries.append(json.loads((Path(config.out) / "summary.json").read_text()))
    first, part, again = summaries
    assert first == again
    assert 0 < part["validation_tokens"] < first["validation_tokens"]


def test_training_outside_of_the_main_thread(config, capsys):
    results = []
    worker = threading.Thread(target=lambda: results.append(train(change(config, updates=2))))
    worker.start()
    worker.join()
    assert [result.step for result in results] == [2]
    assert capsys.readouterr().err.count("outside of the main thread") == 1


@pytest.mark.parametrize("name", ["SIGHUP", "SIGUSR1"])
def test_the_exit_code_names_the_signal(config, monkeypatch, name):
    number = signal.Signals[name]
    before = signal.signal(number, signal.SIG_DFL)  # nohup ignores HUP
    try:
        stop_after(monkeypatch, 3, number)
        flags = ["--data.files", config.data.files, "--data.tokenizer", "bytes", "--data.cache", config.data.cache]
        flags += ["--model.width", "16", "--model.heads", "2", "--model.length", "16", "--model.steps", "2"]
        flags += ["--train.batch-size", "4", "--train.devices", "1", "--train.updates", "8", "--out", config.out]
        assert main(flags) == 128 + number
    finally:
        signal.signal(number, before)
    assert load_run(config.out).step in (3, 4)


PLAIN = Config(train=TrainConfig(checkpoint_every=300))
BEST = Config(train=TrainConfig(best="loss"))
LABELS = Config(model=ModelConfig(kind="masked", head="classifier"), data=DataConfig(train="a.tsv", valid="b.tsv"))


@pytest.mark.parametrize(
    ("begun", "flags", "place", "value"),
    [
        (BEST, ("--train.patience", "3"), ("train", "patience"), 3),
        (PLAIN, ("--train.keep_every", "300"), ("train", "keep_every"), 300),
        (LABELS, ("--data.train", "c.tsv"), ("data", "train"), "c.tsv"),
        (LABELS, ("--data.valid", "c.tsv"), ("data", "valid"), "c.tsv"),
    ],
    ids=["patience", "keep_every", "train", "valid"],
)
def test_flags_of_a_run_that_goes_on_stand_over_its_own_settings(tmp_path, monkeypatch, begun, flags, place, value):
    (tmp_path / "config.toml").write_text(to_toml(begun))
    read = []

    def stop(config):
        read.append(config)
        raise UserError("far enough")

    monkeypatch.setattr(training_run, "train", stop)
    assert main(["--resume", *flags, "--out", str(tmp_path)]) == 2
    section, name = place
    expected = dataclasses.replace(begun, resume=True, out=str(tmp_path))
    assert read == [
        dataclasses.replace(expected, **{section: dataclasses.replace(getattr(expected, section), **{name: value})})
    ]


def broken(*_, **__):
    raise RuntimeError("not the run's fault")


FAILURES = {
    "in the set-up": lambda patch: patch.setattr(training_run.StopRequest, "__enter__", broken),
    "where checkpoints are opened": lambda patch: patch.setattr(training_run, "Checkpoints", broken),
    "in the model": lambda patch: patch.setattr(training_run, "make_model", broken),
    "in the first update": lambda patch: patch.setattr(training_run, "make_train_step", broken),
    "in the trackers": lambda patch: patch.setattr(loop, "JsonlTracker", broken),
}


@pytest.mark.parametrize("name", FAILURES)
def test_what_fails_before_there_is_a_run_leaves_its_name_free(config, monkeypatch, name):
    with monkeypatch.context() as patch:
        FAILURES[name](patch)
        with pytest.raises(RuntimeError, match="not the run's fault"):
            train(change(config, updates=2))
    RunFolder(Path(config.out)).check_free()


def test_the_second_try_is_a_run_as_any(config, monkeypatch):
    with monkeypatch.context() as patch:
        FAILURES["in the first update"](patch)
        with pytest.raises(RuntimeError):
            train(change(config, updates=2))
    assert train(change(config, updates=2)).step == 2


def test_what_a_failed_run_has_logged_stays_and_can_be_continued(config, monkeypatch):
    never_checkpointed = change(config, checkpoint_every=100)
    kill_after(monkeypatch, 5, never_checkpointed)
    run = RunFolder(Path(config.out))
    assert run.metrics.stat().st_size > 0
    with pytest.raises(UserError, match="already holds a run: continue it with --resume"):
        train(never_checkpointed)
    assert train(resumed(never_checkpointed)).step == 8


def test_a_resumed_run_that_fails_stays(config, monkeypatch):
    kill_after(monkeypatch, 5, config)
    with monkeypatch.context() as patch:
        patch.setattr(training_run, "make_train_step", broken)
        with pytest.raises(RuntimeError):
            train(resumed(config))
    assert load_run(config.out).step == 3


def test_metrics_of_another_run_are_not_mixed_with(config):
    (Path(config.out)).mkdir()
    (Path(config.out) / "metrics.jsonl").write_text('{"step": 2, "loss": 1.0}\n')
    with pytest.raises(UserError, match="already holds a run"):
        train(config)
