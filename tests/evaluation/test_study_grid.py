"""From a study's file to its runs, and every refusal of a file."""

from pathlib import Path

import pytest
from small_study import HEAD, VARIANTS, write

from jaxode.config import DepthConfig, ModelConfig
from jaxode.evaluation import fits
from jaxode.evaluation.study.__main__ import main
from jaxode.evaluation.study.grid import load_study, takes


def test_every_variant_at_every_combination_of_axes_and_every_seed(place):
    axes = """
    [settings]
    train.updates = 7
    "data.valid_fraction" = 0.2
    [axes]
    sharing = { full = {}, two = { "model.sharing" = "sequence", "model.groups" = 2 } }
    width = { d16 = {}, d32 = { "model.width" = 32 } }
    """
    study = load_study(write(place, HEAD + axes + VARIANTS.replace('"model.sharing" = "none"', "train.batch_size = 8")))
    names = [f"{base}/{sharing}/{width}" for base in ("fixed", "direct-2", "unshared")
             for sharing in ("full", "two") for width in ("d16", "d32")]  # fmt: skip
    assert list(dict.fromkeys(run.variant for run in study.runs)) == names
    assert [run.seed for run in study.runs] == 8 * [0, 1] + 4 * [1]
    assert len({run.folder for run in study.runs}) == len(study.runs) == 20
    last = study.runs[-1]
    assert (last.label, last.folder) == ("unshared/two/d32 s1", "unshared-two-d32-s1")
    assert last.rival == "fixed/two/d32"
    config = last.config
    assert (config.model.sharing, config.model.groups, config.model.width) == ("sequence", 2, 32)
    assert (config.train.updates, config.train.batch_size, config.train.seed) == (7, 8, 1)
    assert (config.data.valid_fraction, config.train.sweep) == (0.2, False)
    assert config.train.final_batches == study.settings.batches  # the study measures its runs itself


def test_a_baseline_may_name_the_values_of_the_axes(place):
    axes = '[axes]\nwidth = { d16 = {}, d32 = { "model.width" = 32 } }\n'
    text = HEAD.replace('"fixed"', '"fixed/d32"') + axes + VARIANTS
    assert {run.rival for run in load_study(write(place, text)).runs} == {"fixed/d32"}


def test_only_steps_that_fit_a_run_are_asked_of_it(place):
    text = HEAD.replace("calibrate = [3, 2]", "calibrate = [6, 4, 3, 2]").replace("[4, 2]", "[4, 3, 1]")
    groups = '[[variant]]\nname = "two"\nsettings = { "model.sharing" = "cycle", "model.groups" = 2 }\n'
    study = load_study(write(place, text + VARIANTS + groups))
    by_name = {run.variant: run for run in study.runs}
    measured = {name: study.measured_at(run) for name, run in by_name.items()}
    assert measured == {"fixed": (4, 3, 1), "direct-2": (2, 4, 3, 1), "unshared": (4,), "two": (4,)}
    calibrated = {name: study.calibrated_for(run) for name, run in by_name.items()}
    assert calibrated == {"fixed": (3, 2), "direct-2": (), "unshared": (), "two": (2,)}
    assert study.wanted(by_name["two"]) == {("euler", 4), ("calibrated", 2)}


def test_a_variant_may_be_calibrated_for_other_steps_or_for_none(place):
    own = '[[variant]]\nname = "one"\ncalibrate = [2]\n[[variant]]\nname = "none"\ncalibrate = []\n'
    study = load_study(write(place, HEAD + VARIANTS + own))
    asked = {run.variant: study.calibrated_for(run) for run in study.runs}
    assert asked == {"fixed": (3, 2), "direct-2": (), "unshared": (), "one": (2,), "none": ()}


@pytest.mark.parametrize(
    "layout",
    [
        {},
        {"sharing": "none"},
        {"sharing": "sequence", "groups": 3},
        {"sharing": "cycle", "groups": 2},
        {"sharing": "sequence", "groups": 3, "group_steps": "3,2,1"},
    ],
)
def test_the_layout_takes_what_the_solver_takes(layout):
    model = ModelConfig(steps=6, **layout)
    for steps in range(1, 10):
        assert takes(model, steps) == fits(model, DepthConfig(steps=steps)), steps


FIXED = '[[variant]]\nname = "fixed"'
"""The first variant; what stands before it is put before all of them."""


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("depth.steps", "depth.stepz", "variant direct-2: unknown key depth.stepz; did you mean depth.steps?"),
        ("depth.steps", "dept.steps", "variant direct-2: unknown key dept; did you mean depth?"),
        ("depth.steps", "train.updates.a", "unknown key train.updates.a; updates is a value and holds no keys"),
        (FIXED, '[settings]\n"train.updates" = 0\n' + FIXED, "settings: train.updates = 0: must be at least 1"),
        ('"none"', '"some"', "variant unshared: model.sharing = 'some': must be one of 'full'"),
        ("= 2 }", '= "2" }', "variant direct-2: depth.steps = '2': must be int or NoneType"),
        ('"unshared"', '"fixed"', "variants fixed and fixed are both kept as fixed-s1: rename one"),
        ('baseline = "fixed"', 'baseline = "free"', 'study.baseline = "free": no such variant; the study has fixed, '),
        (VARIANTS, "", "variant is missing"),
        (HEAD + VARIANTS, "variant = []" + HEAD, "the study has no runs; add a [[variant]]"),
        (FIXED, "[axes]\nwidth = {}\n" + FIXED, "axes.width = {}: leaves no runs"),
        (
            FIXED,
            '[axes]\nd = { a = { "depth.steps" = 1 } }\n' + FIXED,
            "direct-2/a: depth.steps is set by a and before",
        ),
        (FIXED, '[axes]\nd = { "a/b" = {} }\n' + FIXED, 'axes.d = "a/b": must be letters, digits'),
        ("seeds = [0, 1]", "seeds = []", "study.seeds = []: must name one at least"),
        ("seeds = [0, 1]", "seeds = [1, 1]", "study.seeds = [1, 1]: names a number twice"),
        ("seeds = [0, 1]", "seeds = 3", "study.seeds = 3: must be a list"),
        ("evaluate = [4, 2]", "evaluate = [4, 0]", "study.evaluate = [4, 0]: must be at least 1 each"),
        ("evaluate = [4, 2]", "evaluate = [4.0]", "study.evaluate[0] = 4.0: must be int"),
        ("batches = 6", "batches = 0", "study.batches = 0: must be at least 1"),
        ("batches", "batchez", "unknown key study.batchez; did you mean study.batches?"),
        ('recipe = "recipe.toml"', "", "study.recipe is missing"),
        ("recipe.toml", "no.toml", 'study.recipe = "no.toml": no such file in the working directory (tried /'),
        ('"direct-2"', '"direct 2"', 'variant.name = "direct 2": must be letters, digits'),
        ("depth.steps", "train.seed", "train.seed = 2: name seeds in study.seeds, or as seeds of a variant; leave it"),
        (FIXED, "[settings]\nout = 'here'\n" + FIXED, "settings: out = 'here': the study chooses the folder"),
        (
            "= 2 }",
            '= 2, depth.solver = "heun" }',
            "variant direct-2: depth.solver = 'heun': a study measures its runs, and",
        ),
        ("= 2 }", '= 2, depth.schedule = "unit" }', "depth.schedule = 'unit': a study measures its runs, and compares"),
        ('= "none"', '= "none", depth.steps = 2', "variant unshared: depth.steps = 2 does not fit model.steps = 4"),
    ],
)
def test_what_is_wrong_is_one_line_before_anything_runs(place, capsys, old, new, message):
    assert old in HEAD + VARIANTS
    path = write(place, (HEAD + VARIANTS).replace(old, new, 1))
    assert main([str(path)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert captured.err.startswith(f"error: {path}: ")
    assert captured.err.count("\n") == 1
    assert not (place / "runs").exists()


def test_a_study_that_is_no_file(place, capsys):
    assert main(["absent.toml"]) == 2
    assert capsys.readouterr().err == "error: absent.toml: no such config file\n"
    with pytest.raises(SystemExit):
        main([])


def test_the_studies_that_are_shipped_can_be_read(monkeypatch):
    root = Path(__file__).parents[2]
    monkeypatch.chdir(root)
    studies = [load_study(path) for path in sorted(root.glob("configs/studies/*.toml"))]
    assert all(study.runs for study in studies)
    assert studies
