"""What a study does, what it skips and what it shows. Its processes are played, but for those of the last tests."""

import json
import math
import re
import shutil
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from small_study import FIRST, HEAD, RECIPE, ROOT, VARIANTS, write

from jaxode.checkpoint import load_run
from jaxode.config import Config, DepthConfig, from_toml
from jaxode.data import prepare
from jaxode.evaluation import evaluate
from jaxode.evaluation.figures import read_csv
from jaxode.evaluation.study import outcome
from jaxode.evaluation.study.__main__ import main
from jaxode.evaluation.study.children import Children, Stopped
from jaxode.evaluation.study.records import Code


def test_everything_is_done_once(study, played, capsys):
    assert study() == (0, FIRST)
    first = capsys.readouterr()
    assert study() == (0, [])
    assert capsys.readouterr().out == first.out
    assert from_toml(Config, ROOT / "direct-2-s1.toml").train.seed == 1
    shutil.rmtree(ROOT / "fixed-s1")
    assert study() == (0, [("data",), *(call for call in FIRST if call[0] == "fixed-s1")])


def test_rows_hold_what_was_trained_and_measured(study, played):
    played.logged = {"training_flops": 3e9, "block_evaluations": 1024}
    assert study("--results", "shown")[0] == 0
    rows = read_csv(Path("shown/small.csv"))
    # 4, 2, calibrated 2 and 3 of both fixed ones; 4 and 2 of those trained at 2 alone; the unshared one at 4
    assert len(rows) == 2 * 4 + 2 * 2 + 1
    row = next(row for row in rows if (row["variant"], row["seed"], row["n"]) == ("fixed", 1, 2))
    assert row["training_seconds"] > 0
    code = Code.current()
    expected = {
        "variant": "fixed", "seed": 1, "parameters": 100, "N": 4, "trained_at": 4, "trained_tokens": 256,
        "training_flops": 3e9, "block_evaluations_trained": 1024, "n": 2, "solver": "euler", "block_evaluations": 2,
        "nats_per_token": 2.6, "batches": 6, "version": code.version, "code": code.source,
        "tokens_train": 90, "tokens_validation": 30,
    }  # fmt: skip
    assert expected.items() <= row.items()
    assert row["rise_nats_per_token"] == pytest.approx(0.5)
    assert row["perplexity_rise_percent"] == pytest.approx(100 * (math.exp(0.5) - 1))
    # over its own loss at 2 steps, where it was trained; not over that of 4
    direct = next(row for row in rows if (row["variant"], row["n"], row["seed"]) == ("direct-2", 4, 0))
    assert direct["rise_nats_per_token"] == pytest.approx(0.25)
    assert len({row["config"] for row in rows}) == 5


def test_the_table_compares_seed_by_seed(study, capsys):
    study()
    lines = {tuple(line.split()[:3]): line for line in capsys.readouterr().out.splitlines()}
    assert lines["variant", "n", "solver"].endswith("nats_per_token_over_fixed")
    # seeds 0 and 1 differ by 0.1: their sample deviation is 0.1 / sqrt 2
    assert "2.5500 ± 0.0707" in lines["fixed", "2", "euler"]
    assert lines["fixed", "2", "euler"].endswith("0.5000 ± 0.0000")
    assert "2.3000 ± 0.0707" in lines["fixed", "2", "calibrated"]
    assert lines["direct-2", "2", "euler"].endswith("0.0000 ± 0.0000")
    # one seed: against the same seed of the baseline, 2.1, and not against the mean of both
    assert lines["unshared", "4", "euler"].split()[4:] == ["1", "3.1000", "0.0000", "0.0000", "1.0000"]


def test_the_figure_shows_the_best_solver_and_joins_the_direct_ones(study, played):
    more = '[[variant]]\nname = "direct-1"\nsettings = { "depth.steps" = 1 }\n'
    assert study(text=HEAD + VARIANTS + more)[0] == 0
    loss_against_depth, loss_against_cost = played.drawn[-1]
    joined = "trained directly at n"
    assert set(loss_against_depth.series) == set(loss_against_cost.series) == {"fixed", joined, "unshared"}
    x, y = loss_against_depth.series["fixed"]
    assert x == [2, 3, 4]
    assert y == pytest.approx([2.3, 2.05 + 1 / 6, 2.05])
    x, y = loss_against_depth.series[joined]
    assert (x, y) == ([1, 2], pytest.approx([2.05, 2.05]))
    # seeds 0 and 1 lie 0.1 apart; the unshared one has a single seed
    low, high = loss_against_depth.ranges["fixed"]
    assert low == pytest.approx([2.25, 2 + 1 / 6, 2.0])
    assert high == pytest.approx([2.35, 2.1 + 1 / 6, 2.1])
    assert loss_against_depth.ranges.keys() == loss_against_cost.ranges.keys() == {"fixed", joined}
    # these runs logged no FLOPs
    assert loss_against_cost.xlabel == "seconds of training"
    assert loss_against_cost.series["unshared"][1] == [pytest.approx(3.1)]


def test_direct_ones_that_differ_in_more_than_their_depth_are_lines_of_their_own():
    def row(variant, at, parameters, tokens):
        return {"variant": variant, "trained_at": at, "N": 12, "parameters": parameters, "trained_tokens": tokens}

    rows = [row("fixed", 12, 5, 9), row("direct-6", 6, 5, 9), row("direct-3", 3, 5, 9)]
    joined = {"fixed": "fixed", "direct-6": outcome.DIRECT, "direct-3": outcome.DIRECT}
    assert outcome._lines(rows) == joined
    others = [row("direct-3-told", 3, 6, 9), row("direct-3-longer", 3, 5, 14)]
    assert outcome._lines(rows + others) == joined | {
        "direct-3-told": "direct-3-told",
        "direct-3-longer": "direct-3-longer",
    }


def test_runs_on_a_task_are_compared_by_their_answers(study, capsys):
    task = '[settings]\ndata = { files = "", corpus = "tasks/parity", valid_fraction = 0.1 }\n'
    assert study(text=HEAD + task + VARIANTS)[0] == 0
    shown = capsys.readouterr().out
    answers = read_csv(ROOT / "small-answers.csv")
    assert len(answers) == 3 * len(read_csv(ROOT / "small.csv"))
    assert {row["difficulty"] for row in answers if row["variant"] == "unshared"} == {1, 2, 3}
    # of 1 and 2, which were trained on, weighed by what is predicted: (1 * 1 + 2 * 2) / 3 of what is played
    row = next(
        row for row in read_csv(ROOT / "small.csv") if (row["variant"], row["seed"], row["n"]) == ("fixed", 1, 4)
    )
    assert row["nats_per_token"] == pytest.approx(2.1 * 5 / 3)
    exact = {tuple(line.split()[:3]): line for line in shown.split("\n\n")[1].splitlines()}
    assert exact["variant", "n", "solver"].split()[3:] == ["d1", "d2", "d3"]
    assert exact["fixed", "2", "euler"].endswith("0.5000 ± 0.0000  0.2500 ± 0.0000  0.1667 ± 0.0000")
    assert study(text=HEAD + task + VARIANTS) == (0, [])


def test_controls_where_the_study_asks_for_them(study, played):
    assert study()[0] == 0
    assert not (ROOT / "small-controls.csv").exists()
    asked = HEAD + "controls = true\n" + VARIANTS
    # measured again, and not trained; the unshared one has no loop, another no full depth that was trained
    again = [call for call in FIRST if call[1:2] == ("sweep",) and call[0].startswith("fixed")]
    assert study(text=asked) == (0, [("data",), *again])
    rows = read_csv(ROOT / "small-controls.csv")
    assert [(row["variant"], row["seed"], row["control"], row["rise"]) for row in rows] == [
        ("fixed", 0, "prefix", 0.5), ("fixed", 1, "prefix", 1.5),
    ]  # fmt: skip
    assert study(text=asked) == (0, [])


def test_flops_are_the_cost_where_every_run_has_them(study, played):
    played.logged = {"training_flops": 3e9}
    assert study()[0] == 0
    assert played.drawn[-1][1].series["fixed"] == ([3e9], [pytest.approx(2.05)])


def test_only_what_is_missing_is_done(study):
    study()
    (ROOT / "fixed-s0" / "result.json").unlink()
    assert study()[1] == [("data",), ("fixed-s0", "train", "--resume"), ("fixed-s0", "sweep", "4,2")]
    assert study(text=HEAD.replace("[4, 2]", "[2]").replace("[3, 2]", "[3]") + VARIANTS)[1] == []
    shown = [(row["solver"], row["n"]) for row in read_csv(ROOT / "small.csv") if row["variant"] == "fixed"]
    assert shown == 2 * [("euler", 4), ("euler", 2), ("calibrated", 3)], (
        "what the study no longer asks for is kept, not shown"
    )
    only = ("--only", "fixed")
    code, calls = study(*only, text=HEAD.replace("[4, 2]", "[4, 2, 8]") + VARIANTS)
    assert (code, calls) == (0, [("data",), ("fixed-s0", "sweep", "4,2,8"), ("fixed-s1", "sweep", "4,2,8")])
    code, calls = study(*only, text=HEAD.replace("[3, 2]", "[3, 2, 1]") + VARIANTS)
    assert calls[1:3] == [("fixed-s0", "calibrate", "1"), ("fixed-s0", "sweep", "4,2")]
    assert {row["variant"] for row in read_csv(ROOT / "small.csv")} == {"fixed", "direct-2", "unshared"}
    code, calls = study(*only, text=HEAD.replace("batches = 6", "batches = 7") + VARIANTS)
    assert [call[1] for call in calls[1:]] == ["sweep", "sweep"]
    # what was measured on 6 batches does not stand beside it
    assert {row["variant"] for row in read_csv(ROOT / "small.csv")} == {"fixed"}


def test_variants_are_named_with_and_without_axes(study, capsys):
    axes = '[axes]\nwidth = { d16 = {}, d32 = { "model.width" = 32 } }\n'
    text = HEAD.replace("[0, 1]", "[0]").replace("[3, 2]", "[]") + axes + VARIANTS
    _, calls = study("--only", "unshared/d16,fixed", text=text)
    assert [call[0] for call in calls if call[1:2] == ("train",)] == ["fixed-d16-s0", "fixed-d32-s0", "unshared-d16-s1"]
    assert study("--only", "fixed,unshard", text=text) == (2, [])
    assert "'unshard' is no variant of the study; it has fixed/d16, fixed/d32, direct" in capsys.readouterr().err


def test_a_failure_leaves_the_others_and_is_told_at_the_end(study, played, capsys):
    played.fails = {"fixed-s0": "update 3: diverged", ("fixed-s1", "calibrate"): "too little text"}
    code, calls = study()
    assert code == 1
    assert [call for call in calls if call[0] == "fixed-s0"] == [("fixed-s0", "train")]
    assert [call[1] for call in calls if call[0] == "fixed-s1"] == ["train", "calibrate", "calibrate", "sweep"]
    assert {call[0] for call in calls if call[1:2] == ("sweep",)} == {run[0] for run in FIRST[1:]} - {"fixed-s0"}
    errors = capsys.readouterr().err.splitlines()
    assert "failed: fixed s0, train: update 3: diverged" in errors
    assert "failed: fixed s1, calibrate 3: too little text" in errors
    played.fails.clear()
    code, calls = study()
    assert code == 0
    assert next(call for call in calls if call[0] == "fixed-s0") == ("fixed-s0", "train", "--resume")
    assert [call[1] for call in calls if call[0] == "fixed-s1"] == ["calibrate", "calibrate", "sweep"]


def test_every_run_that_is_through_is_told_where_no_bar_is_seen(study, played, capsys, monkeypatch):
    played.fails = {"fixed-s1": "gone"}
    study("--only", "fixed")
    lines = [line for line in capsys.readouterr().err.splitlines() if "of 2)" in line]
    assert [re.sub(r"\d+ s", "T s", line) for line in lines] == [
        "fixed s0: done in T s (1 of 2)",
        "fixed s1: failed after T s (2 of 2)",
    ]
    played.fails.clear()
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    study("--only", "fixed")
    assert "done in" not in capsys.readouterr().err


def test_seconds_add_up_over_interruptions(study, played):
    played.fails = {"fixed-s0": "gone"}
    study("--only", "fixed")
    path = ROOT / "fixed-s0" / "started.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"seconds": 50.0}))
    played.fails.clear()
    study("--only", "fixed")
    seconds = {row["seed"]: row["training_seconds"] for row in read_csv(ROOT / "small.csv")}
    # of this machine's own seconds nothing is known
    assert seconds[0] > 50
    assert seconds[1] > 0


def test_a_dry_run_lists_and_does_nothing(study, played, capsys):
    played.fails = {"fixed-s1": "gone"}
    study("--only", "fixed")
    (ROOT / "fixed-s0" / "calibration-3.json").unlink()
    capsys.readouterr()
    assert study("--dry-run") == (0, [])
    table = {tuple(line.split()[:2]): line for line in capsys.readouterr().out.splitlines()[2:]}
    assert table["fixed", "s0"].split("  ")[-1].strip() == "calibrate 3, measure"
    assert table["fixed", "s1"].split("  ")[-1].strip() == "resume, calibrate 3,2, measure"
    assert table["unshared", "s1"].split("  ")[-1].strip() == "train, measure"


def test_a_stopped_study_ends_with_the_signals_code(study, monkeypatch, capsys):
    def call(children, command, log):
        if command[0] == "jaxode.training":
            children.signal = signal.SIGTERM
            raise Stopped
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text('{"train": {"tokens": 1}}')

    monkeypatch.setattr(Children, "call", call)
    assert study()[0] == 143
    assert capsys.readouterr().err.splitlines()[-1] == "stopped; the same command goes on"


# --- for real -------------------------------------------------------------------------------------------------------


def corpus(place):
    rng = np.random.default_rng(0)
    (place / "text").mkdir()
    for i in range(8):
        words = rng.choice(["depth", "is", "time", "and", "a", "block"], 400)
        (place / "text" / f"{i}.txt").write_text(" ".join(words))
    (place / "recipe.toml").write_text(RECIPE.replace("FILES", str(place / "text")))


@pytest.mark.deep
def test_a_study_of_two_variants(place, monkeypatch, capsys):
    corpus(place)
    text = HEAD.replace("[0, 1]", "[3]").replace("[3, 2]", "[]").replace('"fixed"', '"wide"')
    wide = '[[variant]]\nname = "wide"\nsettings.model.width = 24\n'
    direct = '[[variant]]\nname = "direct-2"\nsettings.depth.steps = 2\n'
    path = write(place, text + wide + direct)
    assert main([str(path), "--results", "shown"]) == 0, capsys.readouterr().err
    rows = {(row["variant"], row["n"]): row for row in read_csv(Path("shown/small.csv"))}
    assert rows.keys() == {("wide", 4), ("wide", 2), ("direct-2", 4), ("direct-2", 2)}
    run = load_run(ROOT / "wide-s3")
    data = prepare(run.config.data, 16, "causal")
    alone = evaluate(run.architecture, run.params, data.validation(4, 6), DepthConfig(steps=2))
    row = rows["wide", 2]
    assert row["nats_per_token"] == pytest.approx(alone.nats_per_token, rel=1e-6)
    assert row["rise_nats_per_token"] == row["nats_per_token"] - rows["wide", 4]["nats_per_token"]
    assert (row["parameters"], row["trained_tokens"]) == (run.model.num_parameters, 4 * 4 * 16)
    assert row["tokens_train"] == data.stats["train"].tokens
    assert (run.config.train.seed, run.config.model.width) == (3, 24)
    assert rows["direct-2", 2]["rise_nats_per_token"] == 0
    image = Path("shown/small.png").read_bytes()
    assert image.startswith(b"\x89PNG")
    assert struct.unpack(">II", image[16:24])[0] == round(150 * (2 * 5.4 + 1.8))
    monkeypatch.setattr(Children, "call", lambda *_: pytest.fail("done already"))
    assert main([str(path)]) == 0


@pytest.mark.slow
def test_a_study_is_stopped_goes_on_and_is_calibrated(place):
    corpus(place)
    text = (
        HEAD.replace("[3, 2]", "[2]").replace("[0, 1]", "[0]")
        + "[settings]\ntrain.updates = 600\ntrain.checkpoint_every = 20\n"
    )
    path = write(place, text + VARIANTS)
    command = [sys.executable, "-m", "jaxode.evaluation.study", str(path), "--only", "fixed"]
    process = subprocess.Popen(command)
    try:
        while not any((ROOT / "fixed-s0" / "checkpoints").glob("[0-9]*")):
            time.sleep(0.1)
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait() == 130
    finally:
        process.terminate()
    assert not (ROOT / "fixed-s0" / "result.json").exists()
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "updates 1 to" not in (ROOT / "fixed-s0" / "log.txt").read_text().split("stopped at update")[1]
    rows = {(row["solver"], row["n"]) for row in read_csv(ROOT / "small.csv")}
    assert rows == {("euler", 4), ("euler", 2), ("calibrated", 2)}
