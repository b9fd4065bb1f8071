"""The depths of infer.py: one rule for the solver, the same from Python; what they mean, and what they risk."""

import csv
import io

import jax.numpy as jnp
import numpy as np
import pytest
from tiny_runs import TOKENIZER, calibrated, model_config, write_run

import jaxode
from jaxode.calibration import Calibration, Origin, save
from jaxode.checkpoint import load_run
from jaxode.config import DepthConfig
from jaxode.data import Batch
from jaxode.depth import StateChange
from jaxode.evaluation import depth_sweep, evaluate
from jaxode.inference import error_estimates, exit_early, generate, score_texts
from jaxode.inference.tasks.depths import meaning, risk
from jaxode.inference.texts.fill_mask import fill

LINES = ["the first line", "and a second"]


@pytest.fixture
def calibrated_run(tmp_path):
    """A causal run with a made-up calibration for 2 steps."""
    run = write_run(tmp_path / "run", model_config("causal"))
    model = jaxode.load(run)
    coefficients = model.architecture.bind(calibrated(model.params)).calibrations[2]
    made = Calibration(2, (2, 2), coefficients, kl=0.1, rise=0.1, tokens=100, seconds=1.0)
    save(run, made, Origin.of(model.config.model, model.tokenizer, model.params))
    return run


def scored(model, depth):
    return score_texts(model.architecture, model.params, model.tokenizer, LINES, depth=depth)


@pytest.mark.parametrize(("steps", "solver"), [(None, "euler"), (2, "calibrated"), (3, "euler")])
@pytest.mark.broad
def test_the_command_and_python_solve_the_same_steps_alike(infer, calibrated_run, tmp_path, steps, solver):
    (tmp_path / "lines.txt").write_text("\n".join(LINES))
    flags = ("--checkpoint", calibrated_run, "--task", "score", "--lines", "--file", tmp_path / "lines.txt")
    ran = infer(*flags, *(("--steps", steps) if steps else ()))
    assert ran.code == 0, ran.err
    assert f"steps {steps or 4} ({solver})" in ran.err
    rows = list(csv.DictReader(io.StringIO(ran.out)))
    found = scored(jaxode.load(calibrated_run), DepthConfig(steps=steps))
    assert found.solver == found.throughput.solver == solver
    assert [float(row["nats"]) for row in rows] == pytest.approx([score.nats for score in found.scores], rel=1e-6)
    named = scored(jaxode.load(calibrated_run), DepthConfig(steps=steps, solver=solver))
    assert named.scores == found.scores
    # weights alone hold no calibration
    bare = scored(load_run(calibrated_run), DepthConfig(steps=steps))
    assert bare.solver == "euler"
    assert (bare.scores == found.scores) == (solver == "euler")


@pytest.mark.parametrize(("steps", "solver"), [(2, "calibrated"), (3, "euler"), (None, "euler")])
@pytest.mark.broad
def test_every_result_says_which_solver_ran(causal, masked, steps, solver):
    depth, tokens = DepthConfig(steps=steps), jnp.asarray([[1, 2, 3, 4]])
    architecture, params = causal[0], calibrated(causal[1])
    model = architecture.bind(params)
    ones = np.ones((1, 4), np.int32)
    batch = Batch(ones, ones, ones.astype(np.float32), ones)
    results = [
        model(tokens, depth),
        evaluate(architecture, params, [batch], depth),
        score_texts(architecture, params, TOKENIZER, ["abc"], depth=depth),
        generate(architecture, params, TOKENIZER, "abc", depth=depth, max_new_tokens=1),
        fill(masked[0], calibrated(masked[1]), TOKENIZER, "a[MASK]", depth=depth),
        exit_early(model, tokens, StateChange(0.1), depth),
        error_estimates(model, tokens, depth),
        depth_sweep(architecture, params, [batch], [depth], rounds=1).rows[-1],
    ]
    assert [result.solver for result in results] == len(results) * [solver]


@pytest.mark.parametrize(
    ("changes", "depth", "message"),
    [
        ({}, {"solver": "euler"}, None),
        ({}, {"solver": "secant"}, None),
        ({}, {"steps": 4, "solver": "lie", "schedule": "unit"}, None),
        ({"sharing": "none"}, {"solver": "euler"}, None),
        ({}, {"steps": 1, "solver": "euler"}, "1 step: one evaluation of the block stands for all N = 4"),
        ({}, {"steps": 2, "solver": "euler"}, "2 steps of N = 4: h = 2, each step stands for 2 of training"),
        ({}, {"steps": 3, "solver": "secant"}, "3 steps of N = 4: h = 1.33, each step stands for 1.33 of training"),
        ({"sharing": "cycle", "groups": 2}, {"steps": 2, "solver": "euler"}, "2 steps of N = 4: h = 2, each step"),
        ({}, {"steps": 2, "solver": "calibrated"}, "2 steps of N = 4: calibrated to end where the 4 of training end"),
        ({}, {"steps": 2, "solver": "euler", "schedule": "1,3"}, "2 steps of N = 4: sizes from h = 1 to 3 steps"),
        (
            {"sharing": "sequence", "groups": 2, "group_steps": "3,1"},
            {"steps": 3, "solver": "euler"},
            "3 steps of N = 4: sizes from h = 1 to 1.5 steps of training",
        ),
        ({}, {"steps": 8, "solver": "euler"}, "8 steps, more than the N = 4 of training: the same interval of depth"),
        (
            {},
            {"steps": 2, "solver": "euler", "schedule": "unit"},
            "2 steps of size 1: truncation, which stops after 2 of the N = 4 of training",
        ),
        (
            {"sharing": "sequence", "groups": 2},
            {"steps": 2, "solver": "euler", "schedule": "unit"},
            "which stops after 2 of the N = 4 of training, each of 2 groups its share",
        ),
        (
            {},
            {"steps": 6, "solver": "euler", "schedule": "unit"},
            "6 steps of size 1, more than the N = 4 of training: the loop goes on beyond its end",
        ),
        ({}, {"solver": "heun"}, "heun in 4 steps: another way through depth than Euler's, that of training"),
        ({}, {"solver": "tsit5"}, None),
        ({}, {"steps": 6, "solver": "tsit5", "schedule": "unit"}, "the loop goes on beyond its end"),
    ],
)
def test_what_a_depth_means(changes, depth, message):
    found = meaning(model_config("causal", **changes), DepthConfig(**depth))
    assert found is None if message is None else message in found


@pytest.mark.parametrize(
    ("position", "depth", "message"),
    [
        (
            "post",
            {"steps": 2},
            "calibrate them first with --task calibrate --steps 2 --file TEXT, or leave --steps out",
        ),
        ("post", {"steps": 3, "schedule": "1,1,2"}, "--task calibrate --steps 3"),
        ("post", {"steps": 6}, "predict far from the full depth: leave --steps out"),
        ("post", {}, None),
        ("post", {"steps": 2, "schedule": "unit"}, None),
        ("post", {"steps": 2, "solver": "calibrated"}, None),
        ("pre", {"steps": 2}, None),
    ],
)
def test_plain_steps_through_post_norm_blocks_are_said_to_be_a_risk(position, depth, message):
    found = risk(model_config("masked", norm_position=position), DepthConfig(**{"solver": "euler"} | depth))
    assert found is None if message is None else message in found


def test_meaning_and_risk_are_said_before_the_result(infer, tmp_path):
    run = write_run(tmp_path / "run", model_config("masked", norm_position="post"))
    flags = ("--checkpoint", run, "--prompt", "a[MASK]")
    notes = infer(*flags, "--steps", 2).err.splitlines()
    assert notes[1] == "2 steps of N = 4: h = 2, each step stands for 2 of training"
    assert notes[2].startswith("2 Euler steps through post-norm blocks often diverge")
    longer = infer(*flags, "--steps", 6, "--schedule", "unit")
    assert longer.code == 0, longer.err
    assert longer.err.splitlines()[1].startswith("6 steps of size 1, more than the N = 4 of training")
    assert len(infer(*flags).err.splitlines()) == 2


def test_a_run_that_was_trained_in_fewer_steps_alone_says_so(infer, tmp_path):
    """And compares with no full depth, which it was never trained for."""
    run = write_run(tmp_path / "run", model_config("causal"), depth=DepthConfig(steps=2))
    for task in (("--task", "calibrate", "--steps", 1), ("--task", "sweep", "--controls")):
        ran = infer("--checkpoint", run, *task)
        assert ran.code == 2
        assert "compares with the full depth, N = 4, and " in ran.err
        assert "was trained in 2 steps alone (depth.steps); train it with model.steps = 2" in ran.err
    common = ("--checkpoint", run, "--prompt", "abc", "--max-new-tokens", 1)
    note = "trained in 2 steps alone: --steps 2 runs it so"
    assert note in infer(*common).err.splitlines()
    assert note not in infer(*common, "--steps", 2).err


@pytest.mark.parametrize(
    ("depth", "flags", "note"),
    [
        (
            DepthConfig(steps=2, schedule="unit"),
            ("--steps", 2),
            "trained in 2 steps alone and with schedule unit: --steps 2 --schedule unit runs it so",
        ),
        (DepthConfig(solver="heun"), ("--steps", 2), "trained with solver heun: --solver heun runs it so"),
        (
            DepthConfig(solver="heun", schedule="geometric:1.2"),
            ("--solver", "heun"),
            "trained with solver heun and with schedule geometric:1.2: --solver heun --schedule geometric:1.2 runs "
            "it so",
        ),
    ],
)
def test_a_run_of_another_solver_or_schedule_says_how_to_run_it_so(infer, tmp_path, depth, flags, note):
    run = write_run(tmp_path / "run", model_config("causal"), depth=depth)
    common = ("--checkpoint", run, "--prompt", "abc", "--max-new-tokens", 1)
    assert note in infer(*common, *flags).err.splitlines()
    advice = note.split(": ")[1].removesuffix(" runs it so").split()
    so = infer(*common, *advice)
    assert so.code == 0, so.err
    assert "runs it so" not in so.err
