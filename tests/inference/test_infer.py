"""infer.py from its command line: results on standard output, all else on standard error, errors in one line."""

import json
import math
import os
import re
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_runs import TOKENIZER, fails, model_config, write_run

from jaxode.checkpoint.folder import newest_run
from jaxode.config import DepthConfig
from jaxode.data import BatchSpec, text_batches
from jaxode.data.checksums import sealed
from jaxode.evaluation import evaluate
from jaxode.evaluation.figures import read_csv
from jaxode.inference import Temperature, generate, make_sampling
from jaxode.inference.generation import speculation

ROOT = Path(__file__).parents[2]
TEXT = "Depth is time: one block, applied again and again. " * 4


@pytest.fixture
def text_file(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


def cells(line):
    return re.split(r"\s{2,}", line.strip())


def test_generate_writes_the_text_alone_to_standard_output(infer, runs, causal):
    ran = infer("--checkpoint", runs["causal"], "--prompt", "abc", "--seed", 3, "--max-new-tokens", 24)
    assert ran.code == 0
    expected = generate(*causal, TOKENIZER, "abc", sampling=Temperature(0.8), seed=3, max_new_tokens=24)
    assert ran.out == expected.text + "\n"
    about, prompt, cost = ran.err.splitlines()
    assert prompt == "abc"
    assert about.startswith(f"run {runs['causal']}, step 7: causal, ")
    assert re.fullmatch(
        r"steps 4 \(euler\): 4 block evaluations a token, [\d.]+ MFLOP, [\d.]+ ms a token "
        r"\(the first [\d.]+ s\); 24 tokens",
        cost,
    )
    assert infer("--checkpoint", runs["causal"], "--prompt", "abc", "--seed", 3, "--max-new-tokens", 24).out == ran.out


@pytest.mark.deep
def test_depth_and_temperature_flags_reach_the_model(infer, runs):
    common = ("--checkpoint", runs["causal"], "--prompt", "abc", "--max-new-tokens", 12, "--temperature", 0)
    full, half = infer(*common), infer(*common, "--steps", 2)
    assert "steps 2 (euler): 2 block evaluations" in half.err
    assert full.out != half.out


def test_a_long_prompt_is_refused_unless_a_window_is_asked_for(infer, runs):
    common = ("--checkpoint", runs["causal"], "--prompt", "x" * 40, "--max-new-tokens", 1)
    assert "the prompt has 40 tokens, more than the 16 that the model reads at once" in fails(infer(*common))
    assert infer(*common, "--context", "window").code == 0


@pytest.mark.deep
def test_sampling_flags_reach_the_draws(infer, runs, causal):
    flags = {"top_k": 30, "top_p": 0.9, "min_p": 0.01, "repetition_penalty": 1.3}
    given = [one for name, value in flags.items() for one in (f"--{name.replace('_', '-')}", value)]
    ran = infer("--checkpoint", runs["causal"], "--prompt", "abc", "--seed", 3, "--max-new-tokens", 24, *given)
    rules = {"sampling": make_sampling(0.8, **flags), "max_new_tokens": 24}
    assert ran.out == generate(*causal, TOKENIZER, "abc", seed=3, **rules).text + "\n"


def test_the_smallest_temperature_is_temperature_0(infer, runs):
    common = ("--checkpoint", runs["causal"], "--prompt", "abc", "--max-new-tokens", 12, "--temperature")
    greedy, cold = infer(*common, 0), infer(*common, 1.2e-38)
    assert (cold.code, cold.out) == (0, greedy.out)


def test_the_largest_seed_is_one_of_its_own(infer, runs):
    common = ("--checkpoint", runs["causal"], "--prompt", "abc", "--max-new-tokens", 12, "--seed")
    texts = [infer(*common, seed) for seed in (0, 2**31 - 1, 2**31, 2**32 - 1)]
    assert [ran.code for ran in texts] == [0, 0, 0, 0]
    assert len({ran.out for ran in texts}) == 4


def test_home_is_the_folder_of_a_run(infer, runs, monkeypatch):
    monkeypatch.setenv("HOME", str(runs["causal"].parent))
    common = ("--prompt", "abc", "--temperature", 0, "--max-new-tokens", 4)
    ran = infer("--checkpoint", f"~/{runs['causal'].name}", *common)
    assert (ran.code, ran.out) == (0, infer("--checkpoint", runs["causal"], *common).out)


@pytest.mark.deep
def test_drafts_leave_greedy_text_as_it_is(infer, runs, monkeypatch):
    common = ("--checkpoint", runs["causal"], "--prompt", "abc", "--temperature", 0, "--max-new-tokens", 40)
    plain, drafted = infer(*common), infer(*common, "--speculative")
    assert plain.out == drafted.out
    assert "40 tokens, no draft would pay here" in drafted.err
    monkeypatch.setitem(speculation.PARALLEL, "cpu", 0.05)
    tried = infer(*common, "--speculative")
    assert tried.out == plain.out
    assert re.search(r"40 tokens, \d+% of the drafted ones accepted", tried.err)


@pytest.mark.deep
def test_bench_measures_every_way_to_decode(infer, runs):
    ran = infer("--checkpoint", runs["causal"], "--task", "bench", "--max-new-tokens", 12, "--batch-size", 2)
    assert ran.code == 0
    header, _, *lines = ran.out.splitlines()
    rates, rest = ["tokens_per_second", "25%", "75%"], ["milliseconds_to_first", "block_evaluations_per_token"]
    assert cells(header)[4:] == [*rates, *rest]
    rows = [cells(line) for line in lines]
    assert "tokens a second: median and quartiles of" in ran.err.splitlines()[-1]
    assert [(row[0], row[2].split()[-1], row[3]) for row in rows] == [("full", "none", "2"), ("full", "accepted", "2")]
    assert all(float(row[4]) > 0 for row in rows)


@pytest.mark.deep
def test_texts_and_costs_of_depths_side_by_side(infer, tmp_path):
    run = write_run(tmp_path / "run", model_config("causal"))
    text = ("--checkpoint", run, "--prompt", "abc", "--seed", 3, "--max-new-tokens", 12)
    ran = infer(*text, "--compare", "4,2")
    assert ran.code == 0, ran.err
    full, half = (infer(*text, "--steps", steps).out for steps in (4, 2))
    head = f"4 steps (euler):\n{full}\n2 steps (euler):\n{half}\n"
    assert ran.out.startswith(head)
    header, _, *rows = map(cells, ran.out.removeprefix(head).splitlines())
    names = ["steps", "solver", "tokens", "block_evaluations_per_token", "tokens_per_second", "25%", "75%", "speedup"]
    assert header == names
    assert [row[:4] for row in rows] == [["4", "euler", "12", "4.0000"], ["2", "euler", "12", "2.0000"]]
    assert all(float(low) <= float(rate) <= float(high) for *_, rate, low, high, _ in rows)
    assert rows[0][-1] == "1.0000"
    assert max(map(len, ran.out.removeprefix(head).splitlines())) <= 100
    about, meaning, prompt, timed = ran.err.splitlines()
    assert meaning == "2 steps of N = 4: h = 2, each step stands for 2 of training"
    assert (about.split(",")[0], prompt) == (f"run {run}", "abc")
    assert timed.endswith("in turn, after one that compiled and is not counted")


def test_auto_fills_with_a_masked_run(infer, runs):
    ran = infer("--checkpoint", runs["masked"], "--prompt", "a[MASK]b[MASK]", "--top", 3)
    assert ran.code == 0
    filled, blank, head, _, *rows = ran.out.splitlines()
    assert re.fullmatch(r"a.+b.+", filled)
    assert (blank, cells(head)) == ("", ["mask", "token", "probability"])
    assert [row.split()[0] for row in rows] == ["1"] * 3 + ["2"] * 3
    assert ran.err.splitlines()[-1].startswith("steps 4 (euler): 4 block evaluations")


def test_without_a_checkpoint_the_newest_run_is_taken(infer, runs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(runs["masked"], "runs/a")
    shutil.copytree(runs["causal"], "runs/b")
    Path("runs/a/checkpoints").touch()
    Path("runs/c").mkdir()
    ran = infer("--prompt", "a[MASK]")
    assert ran.code == 0
    assert ran.err.startswith(f"run {Path('runs/a')} (the newest), step 7: masked")


def test_runs_of_one_moment_are_told_apart_by_name(tmp_path):
    for name in ("b", "c", "a"):
        (tmp_path / name / "checkpoints" / "7").mkdir(parents=True)
        os.utime(tmp_path / name / "checkpoints", (1000, 1000))
    assert newest_run(tmp_path) == tmp_path / "c"
    os.utime(tmp_path / "a" / "checkpoints", ns=(10**12, 10**12 + 1))
    assert newest_run(tmp_path) == tmp_path / "a"


def test_score(infer, runs, text_file, causal):
    ran = infer("--checkpoint", runs["causal"], "--task", "score", "--file", text_file)
    assert ran.code == 0
    head, _, values = map(cells, ran.out.splitlines())
    assert head == ["tokens", "nats_per_token", "perplexity", "bits_per_byte", "word_perplexity"]
    scored = text_batches(TEXT, BatchSpec(TOKENIZER), 16, 2)
    # one token a byte, and one for the end
    expected = evaluate(*causal, scored.batches, DepthConfig(), bytes_per_token=len(TEXT) / (len(TEXT) + 1))
    assert expected.bits_per_byte is not None
    words = len(TEXT.split()) + len(TEXT.splitlines())
    by_word = math.exp(expected.nats_per_token * (len(TEXT) + 1) / words)
    numbers = [expected.tokens, expected.nats_per_token, expected.perplexity, expected.bits_per_byte, by_word]
    assert [float(value) for value in values] == pytest.approx(numbers, rel=1e-4)
    assert expected.tokens == len(TEXT)
    first = infer("--checkpoint", runs["causal"], "--task", "score", "--file", text_file, "--batches", 1)
    assert cells(first.out.splitlines()[2])[0] == "32"


@pytest.mark.parametrize("stride", [1, 5, 16])
@pytest.mark.broad
def test_score_of_windows_predicts_each_token_behind_what_its_row_holds(infer, runs, text_file, causal, stride):
    ran = infer("--checkpoint", runs["causal"], "--task", "score", "--file", text_file, "--stride", stride)
    assert ran.code == 0
    architecture, params = causal
    stream = np.asarray([*TOKENIZER.encode(TEXT), TOKENIZER.end_id])
    nats, start = [], 0
    while 1 + len(nats) < len(stream):
        row = stream[start : start + 17]
        logits = architecture.bind(params)(jnp.asarray(row[None, :-1]), DepthConfig()).logits[0]
        each = -jax.nn.log_softmax(logits)[np.arange(len(row) - 1), row[1:]]
        nats += each[len(nats) - start :].tolist()
        start = min(start + stride, len(stream) - 17)
    values = cells(ran.out.splitlines()[2])
    assert int(values[0]) == len(TEXT) == len(nats)
    assert float(values[1]) == pytest.approx(np.mean(nats), rel=1e-3)


def test_a_stride_is_for_causal_models_and_whole_files(infer, runs, text_file):
    refused = {
        ("masked", ()): "this is a masked model",
        ("causal", ("--lines",)): "stride = 4 with lines",
        ("causal", ("--stride", 17)): "stride = 17: rows of a causal model's stream of text move on, by 16 tokens",
    }
    for (run, flags), message in refused.items():
        ran = infer("--checkpoint", runs[run], "--task", "score", "--file", text_file, "--stride", 4, *flags)
        assert ran.code == 2
        assert message in ran.err


def test_score_of_a_masked_run_has_no_bits_per_byte(infer, runs, text_file):
    ran = infer("--checkpoint", runs["masked"], "--task", "score", "--file", text_file)
    assert ran.code == 0
    assert cells(ran.out.splitlines()[0]) == ["tokens", "nats_per_token", "perplexity"]


def test_sweep_of_a_file(infer, runs, text_file, tmp_path):
    ran = infer("--checkpoint", runs["causal"], "--task", "sweep", "--file", text_file, "--out", tmp_path / "out")
    assert ran.code == 0
    rows = read_csv(tmp_path / "out" / "sweep.csv")
    assert [row["steps"] for row in rows] == [4, 2, 1]
    assert [cells(line)[2] for line in ran.out.splitlines()[2:]] == ["4", "2", "1"]
    assert (tmp_path / "out" / "sweep.png").is_file()
    assert str(tmp_path / "out" / "sweep.png") in ran.err
    assert rows[0]["bits_per_byte"] > 0


@pytest.mark.deep
def test_sweep_at_a_list_of_steps(infer, runs, text_file, tmp_path):
    flags = ("--checkpoint", runs["causal"], "--task", "sweep", "--file", text_file, "--out", tmp_path)
    assert infer(*flags, "--at", "3,1").code == 0
    rows = read_csv(tmp_path / "sweep.csv")
    assert [(row["solver"], row["steps"]) for row in rows] == [("euler", 4), ("euler", 3), ("euler", 1)]
    assert infer(*flags, "--at", "2,4", "--solver", "heun").code == 0
    rows = read_csv(tmp_path / "sweep.csv")
    assert [(row["solver"], row["steps"]) for row in rows] == [("euler", 4), ("heun", 2), ("heun", 4)]


def test_sweep_of_the_runs_own_validation_split(infer, tmp_path):
    for i in range(4):
        (tmp_path / f"{i}.txt").write_text(TEXT)
    data = {"files": str(tmp_path / "*.txt"), "cache": str(tmp_path / "cache"), "valid_fraction": 0.5}
    run = write_run(tmp_path / "run", model_config("causal"), **data)
    ran = infer("--checkpoint", run, "--task", "sweep", "--steps", 2, "--batches", 3)
    assert ran.code == 0, ran.err
    assert [row["steps"] for row in read_csv(run / "sweep.csv")] == [4, 2]
    assert f"{3 * 2 * 16} tokens predicted" in ran.err


def test_a_run_is_calibrated_once_and_then_runs_calibrated(infer, tmp_path):
    for i in range(8):
        (tmp_path / f"{i}.txt").write_text(f"{i} {TEXT}")
    data = {"files": str(tmp_path / "*.txt"), "cache": str(tmp_path / "cache"), "valid_fraction": 0.5}
    run = write_run(tmp_path / "run", model_config("causal"), **data)
    about = ("--checkpoint", run)
    assert "is calibrated for no number of steps" in fails(infer(*about, "--steps", 2, "--solver", "calibrated"))
    assert "none is calibrated" in fails(infer(*about, "--max-loss-increase", 0.5))
    few = infer(*about, "--task", "calibrate", "--steps", 2, "--batches", 2)
    assert "2 batches to calibrate on: at least 3 needed" in fails(few)
    ran = infer(*about, "--task", "calibrate", "--steps", 2)
    assert ran.code == 0, ran.err
    header, _, row = (cells(line) for line in ran.out.splitlines())
    found = dict(zip(header, row, strict=True))
    assert found["steps"] == "2"
    assert sum(map(int, found["schedule"].split(","))) == 4
    assert (run / "calibration-2.json").is_file()
    text = (*about, "--prompt", "abc", "--max-new-tokens", 3)
    assert "steps 2 (calibrated): 2 block evaluations" in infer(*text, "--steps", 2).err
    assert "steps 2 (euler)" in infer(*text, "--steps", 2, "--solver", "euler").err
    both = infer(*text, "--compare", "4,2")
    assert [line for line in both.out.splitlines() if "steps (" in line] == [
        "4 steps (euler):",
        "2 steps (calibrated):",
    ]
    assert "steps 4 (euler)" in infer(*text).err
    within = infer(*text, "--budget", 0.5)
    assert "chosen: 2 steps (calibrated): 0.50 of the block evaluations" in within.err
    assert "steps 2 (calibrated)" in within.err
    assert "takes 0.50 of the block evaluations" in fails(infer(*text, "--budget", 0.2))
    infer(*about, "--task", "sweep", "--batches", 1, "--at", 3)
    measured = [(row["solver"], row["steps"]) for row in read_csv(run / "sweep.csv")]
    assert measured == [("euler", 4), ("euler", 3), ("calibrated", 2)]
    calibration = run / "calibration-2.json"
    moved = calibration.read_text()
    raw = json.loads(moved)
    del raw["checksum"]
    raw["origin"]["weights"] = "of another run"
    calibration.write_text(json.dumps(sealed(raw)))
    assert "made for other weights (fingerprint of another run" in fails(infer(*text, "--steps", 2))
    assert infer(*text).code == 0  # it is not asked for
    calibration.write_text("{")
    assert "calibration-2.json: cannot be read as a calibration" in fails(infer(*text))


def test_an_unusual_number_of_steps_is_said_to_be_one(infer, tmp_path):
    run = write_run(tmp_path / "run", model_config("causal"))
    text = ("--checkpoint", run, "--prompt", "abc", "--max-new-tokens", 1)
    assert "1 step: one evaluation of the block stands for all N = 4" in infer(*text, "--steps", 1).err
    assert "8 steps, more than the N = 4 of training" in infer(*text, "--steps", 8).err
    assert "step:" not in infer(*text, "--steps", 2).err
