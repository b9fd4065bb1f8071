"""Every task of infer.py on looped families of every kind, each a folder with a tokenizer beside it."""

import csv
import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from families import CASES
from looped_folder import write_tokenizer

import jaxode
from jaxode import DepthConfig, StateChange, exit_early, solve_budgets
from jaxode.checkpoint import load_run
from jaxode.config import Config, DataConfig, TrainConfig
from jaxode.inference import Greedy, Speculation
from jaxode.training import train

pytestmark = pytest.mark.slow
TEXT = "the cat sat on the mat, and the dog did not.\n" * 40
NAMES = ("huginn", "loopformer", "dory", "hrm_text")
"""One of each kind: a start from noise, a block that is told, the sphere with windows, two speeds."""


@pytest.fixture(scope="module", params=NAMES)
def case(request):
    return CASES[request.param]


@pytest.fixture(scope="module")
def folder(case, tmp_path_factory):
    return write_tokenizer(case.write(tmp_path_factory.mktemp("family") / case.name))


@pytest.fixture(scope="module")
def full(case, folder):
    return jaxode.load(folder).config.model.steps


@pytest.fixture
def run(infer, folder, monkeypatch, tmp_path):
    monkeypatch.setenv("JAXODE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "text.txt").write_text(TEXT)

    def call(*flags):
        ran = infer("--checkpoint", folder, *flags)
        assert ran.code == 0, ran.err
        return ran

    call.text = tmp_path / "text.txt"
    return call


@pytest.mark.broad
def test_text_is_continued_at_any_number_of_loops(run, full):
    for steps in (1, full, full + 2):
        ran = run("--prompt", "the cat", "--steps", steps, "--max-new-tokens", 3, "--temperature", 0)
        assert ran.out
        assert ("more than the N" in ran.err) == (steps > full)


@pytest.mark.broad
def test_it_is_swept_and_reported(run, full, tmp_path, rescaled_alone):
    run("--task", "sweep", "--file", run.text, "--at", f"{full},1", "--out", tmp_path / "out", "--batches", 2)
    rows = list(csv.DictReader((tmp_path / "out" / "sweep.csv").open()))
    assert {int(row["steps"]) for row in rows} == {1, full}
    run("--task", "report", "--file", run.text, "--out", tmp_path / "out", "--batches", 2)
    names = {row["method"] for row in csv.DictReader((tmp_path / "out" / "report.csv").open())}
    assert {"full depth", "step rescaling"} <= names


@pytest.mark.broad
def test_calibrated_and_scored_by_line(run, full, folder):
    run("--task", "calibrate", "--steps", full - 1, "--file", run.text, "--batches", 4)
    loaded = jaxode.load(folder)
    assert set(loaded.calibrations) == {full - 1}
    ran = run("--task", "score", "--lines", "--truncate", "--file", run.text, "--steps", full - 1)
    assert f"steps {full - 1} (calibrated)" in ran.err
    assert len(ran.out.splitlines()) == 1 + 40
    ran = run("--task", "bench", "--prompt", "the", "--max-new-tokens", 4)
    assert "calibrated" in ran.out
    settings = {"sampling": Greedy(), "max_new_tokens": 6}
    speculation = Speculation((DepthConfig(steps=full - 1),))
    drafted = jaxode.generate(loaded, "the cat", speculation=speculation, **settings)
    assert drafted.ids == jaxode.generate(loaded, "the cat", **settings).ids


@pytest.mark.broad
def test_training_goes_on_from_its_weights(folder, full, tmp_path):
    for number in range(4):
        (tmp_path / f"{number}.txt").write_text(TEXT)
    train_config = TrainConfig(updates=2, batch_size=2, devices=1, validation_batches=1, final_batches=1)
    data = DataConfig(files=str(tmp_path / "*.txt"), cache=str(tmp_path / "cache"), valid_fraction=0.3)
    result = train(Config(init=str(folder), data=data, train=train_config, out=str(tmp_path / "run")))
    trained, own = load_run(result.run.path), jaxode.load(folder)
    assert trained.config.model == dataclasses.replace(own.config.model, dropout=0.0)
    assert any(not np.array_equal(value, own.params[name]) for name, value in trained.params.items())


@pytest.mark.broad
def test_rows_exit_and_have_budgets_of_their_own(folder, full):
    loaded = jaxode.load(folder)
    ids = loaded.own_tokenizer.encode("the cat sat")
    tokens = jnp.asarray([ids, ids[::-1]], jnp.int32)
    never = exit_early(loaded, tokens, StateChange(0.0, "sequence"))
    assert never.steps.tolist() == [full, full]
    found = solve_budgets(loaded, tokens, jnp.asarray([1, full]), DepthConfig(solver="euler"))
    assert found.steps.tolist() == [1, full]
