"""The loop end to end on a tiny corpus: stop and continue, signals, divergence, refusals."""

import dataclasses
import itertools
import json
import math
import os
import shutil
import signal
import threading
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_runs import change, stop_after

from jaxode.checkpoint import Checkpoints, RunFolder, load_run
from jaxode.config import ObjectiveConfig, UserError
from jaxode.evaluation.figures import read_csv
from jaxode.tracking import read_jsonl
from jaxode.training import loop, objectives, run, train, validation
from jaxode.training.curriculum import Curriculum
from jaxode.training.guards import Guard
from jaxode.training.signals import Stopped, abandoned
from jaxode.training.summary import sweep


def test_learns_logs_and_leaves_a_run_that_loads(config):
    result = train(config)
    records = read_jsonl(RunFolder(result.run.path).metrics)
    losses = [record["loss"] for record in records if "loss" in record]
    assert losses[-1] < losses[0]
    assert {"loss", "bits_per_byte", "tokens_per_second", "peak_fraction", "learning_rate"} <= records[0].keys()
    assert any("validation_loss" in record for record in records)
    assert not any("mfu" in record for record in records)  # nobody says what a CPU multiplies at most
    assert result.validation is not None
    trained = load_run(result.run.path)
    assert trained.step == 8
    assert trained.config.model.vocab_size == trained.tokenizer.vocab_size
    for name, value in result.params.items():
        np.testing.assert_array_equal(trained.params[name], value, err_msg=name)


def test_the_validation_at_the_end_reads_as_many_batches_as_asked(config, tmp_path):
    whole = train(config).validation
    result = train(dataclasses.replace(change(config, final_batches=1), out=str(tmp_path / "part")))
    part = result.validation
    assert 0 < part.tokens < whole.tokens
    # and so does the sweep behind it, at the full depth first
    sweep(result)
    rows = read_csv(result.run.path / "sweep.csv")
    assert rows[0]["nats_per_token"] == pytest.approx(part.nats_per_token, rel=1e-6)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("kind", ["causal", "masked"])
@pytest.mark.broad
def test_stopped_and_continued_equals_never_stopped(config, tmp_path, monkeypatch, capsys, number, kind):
    objective = ObjectiveConfig("random") if kind == "masked" else ObjectiveConfig()
    model = dataclasses.replace(config.model, kind=kind, dropout=0.1)
    config = dataclasses.replace(config, model=model, objective=objective)
    whole = train(config)
    assert "parameters, N = 3, dropout 0.1; " in capsys.readouterr().err
    halved = dataclasses.replace(config, out=str(tmp_path / "halved"))
    with monkeypatch.context() as patch:
        stop_after(patch, 5, number)
        first = train(halved)
    assert first.stopped_by == number
    assert 4 <= first.step < 8
    assert first.validation is None
    second = train(dataclasses.replace(halved, resume=True))
    assert second.step == 8
    for name, value in whole.params.items():
        np.testing.assert_array_equal(second.params[name], value, err_msg=name)
    assert second.validation == whole.validation
    spent = [read_jsonl(run.metrics)[-1]["training_flops"] for run in (whole.run, second.run)]
    assert spent[0] == spent[1] > 0


@pytest.mark.deep
def test_random_depth_compiles_a_program_for_each_step_count(config, monkeypatch):
    made = []
    original = run.make_train_step

    def counted(*args, **kwargs):
        made.append(kwargs["solves"].main)
        return original(*args, **kwargs)

    monkeypatch.setattr(run, "make_train_step", counted)
    result = train(change(dataclasses.replace(config, objective=ObjectiveConfig("random")), updates=20))
    assert sorted(made) == [1, 3]
    (*_, last) = (record for record in read_jsonl(result.run.metrics) if "block_evaluations" in record)
    assert 20 * 64 * 1 < last["block_evaluations"] < 20 * 64 * 3


@pytest.mark.deep
def test_a_killed_run_continues_from_its_last_checkpoint(config, tmp_path, monkeypatch):
    whole = train(config)
    killed = dataclasses.replace(config, out=str(tmp_path / "killed"))

    class Killed(BaseException):
        pass

    with monkeypatch.context() as patch:
        original = loop.Loop._check

        def check(self, metrics, step):
            original(self, metrics, step)
            if step == 4:
                raise Killed

        patch.setattr(loop.Loop, "_check", check)
        with pytest.raises(Killed):
            train(killed)
    with Checkpoints(RunFolder(tmp_path / "killed")) as checkpoints:
        assert checkpoints.latest == 3
    resumed = train(dataclasses.replace(killed, resume=True))
    for name, value in whole.params.items():
        np.testing.assert_array_equal(resumed.params[name], value, err_msg=name)


@pytest.mark.deep
def test_pmap_gives_the_same_run(config, tmp_path):
    single = train(config)
    pmapped = dataclasses.replace(change(config, parallel="pmap", devices=4), out=str(tmp_path / "pmap"))
    many = train(pmapped)
    for name, value in single.params.items():
        np.testing.assert_allclose(many.params[name], value, atol=1e-4, err_msg=name)


def test_divergence_stops_and_keeps_the_last_good_checkpoint(config, monkeypatch):
    original = run.make_train_step

    def poisoned(*args, **kwargs):
        step = original(*args, **kwargs)

        def wrapped(state, batch, key):
            after, metrics = step(state, batch, key)
            return after, metrics.replace(loss=jax.numpy.where(state.step == 4, np.nan, metrics.loss))

        return wrapped

    monkeypatch.setattr(run, "make_train_step", poisoned)
    with pytest.raises(UserError, match=r"update 5: loss nan.*checkpoint of update 3 is kept"):
        train(config)
    assert load_run(config.out).step == 3


def test_five_updates_are_traced_and_what_a_known_chip_gives_is_logged(config, monkeypatch, capsys):
    monkeypatch.setattr(loop, "matmul_peak", lambda dtype, device: 2e12)
    monkeypatch.setattr(loop, "bfloat16_peak", lambda devices: 1e12)
    result = train(change(config, profile=True))
    folder = result.run.path / "profile"
    assert len(list(folder.rglob("*.xplane.pb"))) == len(list(folder.rglob("*.trace.json.gz"))) == 1
    (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("trace of"))
    assert line.startswith(f"trace of updates 4 to 8 in {folder}: xprof --logdir {folder} (pip install xprof)")
    records = [record for record in read_jsonl(result.run.metrics) if "loss" in record]
    assert [record["mfu"] for record in records] == [pytest.approx(2 * r["peak_fraction"]) for r in records]
    with pytest.raises(UserError, match=r"train\.profile = true with 0 update\(s\) left of 8: a trace takes 5 after 3"):
        train(dataclasses.replace(change(config, profile=True), resume=True))
    with pytest.raises(UserError, match=r"train\.profile = true with train\.updates = 7: .* make it at least 8"):
        change(config, profile=True, updates=7)


def test_refuses_to_overwrite_a_run(config):
    train(change(config, updates=2))
    with pytest.raises(UserError, match=r"already holds a run: continue it with --resume, or name another folder"):
        train(config)


def test_refuses_to_resume_with_other_settings(config):
    train(change(config, updates=2))
    other = dataclasses.replace(config, resume=True, train=dataclasses.replace(config.train, updates=2, seed=5))
    with pytest.raises(UserError, match=r"train\.seed = 5: the run in .* was started with 0"):
        train(other)


@pytest.mark.deep
def test_resumes_over_an_edited_text_only_when_told(config, tmp_path, monkeypatch):
    folder = tmp_path / "corpus"
    shutil.copytree(Path(config.data.files).parent, folder, ignore=shutil.ignore_patterns("cache"))
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, files=f"{folder}/*.txt"))
    with monkeypatch.context() as patch:
        stop_after(patch, 5)
        train(config)
    for path in folder.iterdir():
        path.write_text(path.read_text().replace("depth", "width"))
    resumed = dataclasses.replace(config, resume=True)
    with pytest.raises(UserError, match=r"the text of the train split differs in \d+\.txt#0; .* data\.edited = true"):
        train(resumed)
    accepted = train(dataclasses.replace(resumed, data=dataclasses.replace(config.data, edited=True)))
    assert accepted.step == 8


def test_refuses_to_resume_what_is_not_there(config):
    with pytest.raises(UserError, match="no such run folder"):
        train(dataclasses.replace(config, resume=True))


def test_a_corpus_shorter_than_a_batch(config):
    with pytest.raises(UserError, match=r"needs \d+ tokens: lower train\.batch_size or model\.length"):
        train(change(config, batch_size=10_000, accumulate=1))


def test_a_vocabulary_smaller_than_the_tokenizers(config):
    small = dataclasses.replace(config, model=dataclasses.replace(config.model, vocab_size=100))
    with pytest.raises(UserError, match=r"model\.vocab_size = 100: the tokenizer .* set model\.vocab_size to at least"):
        train(small)


def test_steps_that_do_not_fit_are_refused_before_data_is_read(config):
    bad = dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, steps=4, sharing="cycle", groups=2),
        depth=dataclasses.replace(config.depth, steps=3),
        data=dataclasses.replace(config.data, files="nowhere/*.txt"),
    )
    with pytest.raises(UserError, match=r"depth\.steps = 3 does not fit 2 groups"):
        train(bad)


def test_metrics_are_json_lines(config):
    train(change(config, updates=2))
    lines = RunFolder(Path(config.out)).metrics.read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [2]


def test_a_full_disk_ends_in_one_line_and_keeps_the_older_checkpoint(config, monkeypatch):
    from orbax.checkpoint import CheckpointManager

    original = CheckpointManager.save

    def save(self, step, *args, **kwargs):
        if step > 3:
            raise ValueError("RESOURCE_EXHAUSTED: No space left on device\nand forty lines more")
        return original(self, step, *args, **kwargs)

    monkeypatch.setattr(CheckpointManager, "save", save)
    with pytest.raises(
        UserError, match=r"cannot be written \(RESOURCE_EXHAUSTED: No space left on device\).*update 3 is kept"
    ):
        train(config)
    assert load_run(config.out).step == 3


class TestGuard:
    """Losses that are not a number, and losses that jump."""

    def test_a_spike_is_told_with_what_was_usual(self, capsys):
        guard = Guard(False, str)
        for step in range(1, 31):
            guard.check(step, 2.0 + 0.01 * (step % 3), 1.0)
        guard.check(31, 2.2, 1.0)
        assert "spike" not in capsys.readouterr().err.split("update 31")[0]
        guard.check(32, 4.0, 1.0)
        assert "update 32: loss 4, a spike: the median of the last 31 is 2.01" in capsys.readouterr().err

    def test_it_counts_what_is_left_out_and_ends_at_many_in_a_row(self, capsys):
        guard = Guard(True, lambda: "nothing is kept")
        for step in range(1, 20):
            guard.check(step, math.nan, 1.0)
        guard.check(20, 1.0, 1.0)
        guard.check(21, 1.0, math.inf)
        assert guard.skipped == 20
        assert "update 21: loss 1.0, gradient norm inf: left out, 20 in all" in capsys.readouterr().err
        for step in range(22, 40):
            guard.check(step, math.nan, 1.0)
        guard.check(39, math.nan, 1.0)  # looked at a second time
        with pytest.raises(UserError, match=r"update 40: .* diverged 20 updates in a row; nothing is kept"):
            guard.check(40, math.nan, 1.0)


def test_an_update_that_is_not_finite_is_left_out(config, tmp_path, monkeypatch):
    """The step that reads a poisoned batch changes nothing but the count, and the run goes on from there."""
    original = objectives.token_loss

    def poisoned(logits, targets, weights):
        sums = original(logits, targets, weights)
        # batches that begin with an even token
        return dataclasses.replace(sums, nats=jnp.where(targets[0, 0] % 2 == 0, jnp.nan, sums.nats))

    monkeypatch.setattr(objectives, "token_loss", poisoned)
    with pytest.raises(UserError, match=r"update \d+: loss nan.* training has diverged; no checkpoint was written yet"):
        train(change(config, checkpoint_every=100))
    skipping = change(config, nonfinite="skip", log_every=1)
    result = train(dataclasses.replace(skipping, out=str(tmp_path / "skips")))
    records = [record for record in read_jsonl(result.run.metrics) if "loss" in record]
    lost = sum(math.isnan(record["loss"]) for record in records)
    assert 0 < lost < 8
    assert records[-1]["skipped_updates"] == lost
    for name, value in result.params.items():
        assert np.isfinite(value).all(), name


def test_what_is_saved_at_multiples_is_kept_for_good(config):
    result = train(change(config, checkpoint_every=1, keep=1, keep_every=3))
    with Checkpoints(result.run) as checkpoints:
        assert checkpoints.steps == [8, 6, 3]
    with pytest.raises(UserError, match=r"train\.keep_every = 5 with train\.checkpoint_every = 3: .* multiple of 3"):
        change(config, keep_every=5)


def test_a_signal_ends_a_validation_too(config, monkeypatch):
    """It is left where it stands, and the update before it is saved as the last."""
    left = threading.Event()

    def endless(*_, **__):
        os.kill(os.getpid(), signal.SIGTERM)
        left.wait(60)

    monkeypatch.setattr(validation, "evaluate", endless)
    result = train(config)
    left.set()
    assert (result.step, result.stopped_by, result.validation) == (4, signal.SIGTERM, None)
    with Checkpoints(result.run) as checkpoints:
        assert checkpoints.latest == 4


def compiles_for_ever(monkeypatch, program):
    """A signal comes while XLA is busy with the program of that number; the event lets it end."""
    original, count, left = jax.stages.Lowered.compile, itertools.count(1), threading.Event()

    def compiled(self, *args, **kwargs):
        if next(count) == program:
            os.kill(os.getpid(), signal.SIGTERM)
            left.wait(60)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(jax.stages.Lowered, "compile", compiled)
    return left


def test_a_signal_before_the_first_update_leaves_nothing(config, monkeypatch):
    left = compiles_for_ever(monkeypatch, 1)
    with pytest.raises(Stopped, match="SIGTERM before the first update") as stopped:
        train(config)
    assert stopped.value.signal == signal.SIGTERM
    assert abandoned()
    assert not Path(config.out).exists()
    left.set()


def test_a_signal_while_another_depth_compiles_saves_the_update_before_it(config, tmp_path, monkeypatch):
    config = dataclasses.replace(config, objective=ObjectiveConfig("random"), data=config.data)
    config = change(config, updates=12, validate_every=0, checkpoint_every=100, sweep=False)
    whole = train(config)
    halved = dataclasses.replace(config, out=str(tmp_path / "halved"))
    with monkeypatch.context() as patch:
        left = compiles_for_ever(patch, 2)
        first = train(halved)
        left.set()
    draws = Curriculum(whole.config)
    assert first.step == next(update for update in range(12) if draws.at(update) != draws.at(0)) > 0
    assert first.stopped_by == signal.SIGTERM
    second = train(dataclasses.replace(halved, resume=True))
    assert second.step == 12
    for name, value in whole.params.items():
        np.testing.assert_array_equal(second.params[name], value, err_msg=name)
