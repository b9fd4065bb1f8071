"""Task report of infer.py: every method, the run's calibrations and magnitude matching in one command."""

import dataclasses

import numpy as np
import pytest
from tiny_runs import model_config, write_run

from jaxode import load, save_pretrained
from jaxode.calibration import Calibration, Origin, save
from jaxode.checkpoint import load_run
from jaxode.config import DepthConfig, InferConfig, UserError
from jaxode.depth import Coefficients
from jaxode.evaluation.figures import read_csv
from jaxode.inference.tasks import report
from jaxode.inference.tasks.report import report_methods

TEXT = "Depth is time: one block, applied again and again. " * 4
MODEL = model_config("causal", steps=2)
FITTED = Calibration(1, (2,), Coefficients(np.full((1, 1), 1.5, np.float32)), 100, 1.0, kl=0.1, rise=0.1)


def calibrated_run(path, **data):
    run = write_run(path, MODEL, **data)
    trained = load_run(run)
    save(run, FITTED, Origin.of(trained.config.model, trained.tokenizer, trained.params))
    return run


@pytest.fixture
def text_file(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


@pytest.mark.deep
def test_report_of_a_file_without_a_corpus_at_hand(infer, text_file, tmp_path, rescaled_alone):
    run = calibrated_run(tmp_path / "run", files=str(tmp_path / "gone" / "*.txt"))
    out = tmp_path / "out"
    ran = infer("--checkpoint", run, "--task", "report", "--file", text_file, "--batches", 2, "--out", out)
    assert ran.code == 0, ran.err
    rows = read_csv(out / "report.csv")
    names = list(dict.fromkeys(row["method"] for row in rows))
    assert names == ["full depth", "step rescaling", "calibrated", "magnitude matching"]
    assert {row["block_evaluations"] for row in rows} == {1, 2, 4}
    assert len(ran.out.splitlines()) == 2 + len(rows)
    by_name = {(row["method"], row["steps"]): row["nats_per_token"] for row in rows}
    # a step of 1.5 is not that of 2
    assert by_name["calibrated", 1] != by_name["step rescaling", 1]
    assert [path.name for path in sorted(out.iterdir())] == ["report.csv", "report.png", "trace.csv", "trace.png"]
    assert {(row["method"], row["steps"]) for row in read_csv(out / "trace.csv")} == {
        ("full depth", 2), ("step rescaling", 4), ("step rescaling", 1),
    }  # fmt: skip
    *_, lengths, written = ran.err.splitlines()
    assert lengths.startswith("magnitude matching: lengths of 2 batches of the measured text itself, for the")
    assert written.startswith(f"{2 * 2 * 16} tokens predicted; written: {out / 'report.csv'}, {out / 'report.png'}")


def test_report_of_the_validation_split_fits_on_training_text(infer, tmp_path, monkeypatch):
    for i in range(8):
        (tmp_path / f"{i}.txt").write_text(TEXT)
    data = {"files": str(tmp_path / "*.txt"), "cache": str(tmp_path / "cache"), "valid_fraction": 0.5}
    run = calibrated_run(tmp_path / "run", **data)
    monkeypatch.setattr(report, "comparators", lambda model, counts: ())
    ran = infer("--checkpoint", run, "--task", "report", "--batches", 1)
    assert ran.code == 0, ran.err
    assert "magnitude matching: lengths of 10 batches of the run's training text" in ran.err
    assert [row["method"] for row in read_csv(run / "report.csv")] == ["full depth", "calibrated", "magnitude matching"]


def test_an_own_solver_is_measured_under_its_own_name_and_steps_join_the_counts():
    def methods(**flags):
        config = InferConfig(task="report", **flags)
        solver = "euler" if config.solver == "auto" else config.solver
        depth = DepthConfig(steps=config.steps, solver=solver, schedule=config.schedule)
        return report_methods(model_config("causal", steps=12), config, depth, {1: FITTED})

    assert list(dict.fromkeys(method.name for method in methods())) == [
        "truncation", "step rescaling", "Lie splitting", "geometric 1.5", "geometric 2", "secant", "AB2", "AB3", "Heun",
        "midpoint", "RK4", "calibrated",
    ]  # fmt: skip
    assert methods()[-1].depth == FITTED.depth
    own = methods(steps=3, schedule="1,4,7")[-2]
    assert (own.name, own.depth) == ("euler, 1,4,7", DepthConfig(steps=3, solver="euler", schedule="1,4,7"))
    assert methods(solver="tsit5")[-2].depth == DepthConfig(solver="tsit5", schedule="even")
    # Heun of 3 steps is there already, as 6 evaluations
    assert [one.name for one in methods(steps=3, solver="heun")] == [one.name for one in methods()]
    assert {one.depth.steps for one in methods(steps=8) if one.name == "secant"} == {8, 6, 4, 3, 2}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--budget", 0.5), "budget = 0.5 with task = report"),
        (("--solver", "magic"), 'depth.solver = "magic": allowed are'),
        (("--steps", 3, "--schedule", "1,2"), "has 2 steps but depth.steps = 3"),
        (("--file", "absent.txt"), "absent.txt: cannot be read"),
    ],
)
def test_bad_flags(infer, runs, flags, message):
    ran = infer("--checkpoint", runs["causal"], "--task", "report", *flags)
    assert (ran.code, ran.out) == (2, "")
    assert message in ran.err.splitlines()[-1]


def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_measured(infer, runs, text_file, monkeypatch):
    monkeypatch.setattr(report, "work_precision", lambda *a, **k: pytest.fail("measured"))
    ran = infer("--checkpoint", runs["causal"], "--task", "report", "--file", text_file, "--out", text_file)
    assert ran.code == 2
    assert "the report cannot be written there" in ran.err


def test_an_unshared_run_is_refused_before_its_weights_are_read(infer, tmp_path):
    run = write_run(tmp_path / "run", model_config("causal", sharing="none"), steps=())
    ran = infer("--checkpoint", run, "--task", "report")
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("error: an unshared model runs its blocks once each")


@pytest.mark.deep
def test_controls_beside_the_report(infer, text_file, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "comparators", lambda model, counts: ())
    run = write_run(tmp_path / "run", model_config("causal", steps=4), files=str(tmp_path / "gone" / "*.txt"))
    out = tmp_path / "out"
    flags = ("--checkpoint", run, "--task", "report", "--file", text_file, "--batches", 4, "--out", out)
    ran = infer(*flags, "--controls")
    assert ran.code == 0, ran.err
    rows = read_csv(out / "controls.csv")
    assert {row["k"] for row in rows} == {1, 2, 4}
    assert len({row["control"] for row in rows}) == 6
    assert "controls: read-out refitted on the first half of the text, measured on the second" in ran.err
    assert (out / "controls.png").exists()
    assert rows[0]["control"] in ran.out


def test_controls_belong_to_a_report_of_a_loop(infer, text_file, tmp_path):
    with pytest.raises(UserError, match=r"controls = true with task = score: only report, sweep read it"):
        InferConfig(task="score", controls=True)
    run = write_run(tmp_path / "run", model_config("causal", steps=4, sharing="sequence", groups=2))
    for task in ("report", "sweep"):
        ran = infer("--checkpoint", run, "--task", task, "--file", text_file, "--controls")
        assert ran.code == 2
        assert 'controls: model.sharing = "sequence" has no loop of which a part' in ran.err


def test_a_tuned_classifier_of_words_is_one_whatever_its_settings_hold(tmp_path):
    """Of a Hugging Face folder the head is not among them."""
    form = model_config(
        "masked",
        steps=2,
        head="token_classifier",
        labels=("O", "B-PER"),
        norm_position="post",
        positions="learned",
        embedding_norm=True,
        token_types=2,
        embedding_width=8,
        feed_forward="gelu",
        head_activation="gelu",
    )
    begun = load(save_pretrained(load_run(write_run(tmp_path / "first", form, train="gone.csv")), tmp_path / "albert"))
    tuned = write_run(tmp_path / "tuned", form, train="gone.csv", tokenizer=begun.own_tokenizer)
    assert report.tuned_model(begun, str(tuned), by_labels=False).task == "token_classifier"
    other = write_run(tmp_path / "other", dataclasses.replace(form, head="pooler", labels=()))
    with pytest.raises(UserError, match="has task = 'encoder', this model 'token_classifier'"):
        report.tuned_model(begun, str(other), by_labels=False)
