"""Models by name: which one infer.py takes, and that each one in the package is whole, small and trained."""

import dataclasses
import math
import shutil
from pathlib import Path

import pytest
from tiny_runs import fails, model_config, write_run

import jaxode
from jaxode.checkpoint import RunFolder
from jaxode.config import DepthConfig
from jaxode.data import BatchSpec, text_batches
from jaxode.data.tasks import asked
from jaxode.evaluation import evaluate
from jaxode.evaluation.answers import evaluate_answers
from jaxode.inference.loading import names as library
from jaxode.inference.loading.export import export

TEXT = (
    "The old man sat down by the fire and looked at the letter which his daughter had left upon the table. "
    '"I do not know," he said at last, "what she means to do; but I am sure that she will not come back to this house '
    'before the end of the summer." His wife made no answer. She went to the window, and for a long time she stood '
    "there in silence, with her hand upon the curtain, and watched the rain as it fell upon the garden and the road. "
)
SHIPPED = library.shipped()
KINDS = {name: RunFolder(path).config().model.kind for name, path in SHIPPED.items()}
TASKS = {name for name, path in SHIPPED.items() if RunFolder(path).config().data.corpus.startswith("tasks/")}
BOOKS = set(SHIPPED) - TASKS
PROMPTS = {"causal": "Once upon a time", "masked": "He sat down by the [MASK]."}


@pytest.fixture
def no_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def other_models(tmp_path, monkeypatch):
    """Another set of shipped models: one, causal, of no training."""
    folder = tmp_path / "shipped"
    run = write_run(tmp_path / "run", model_config("causal"), steps=(700,))
    trained = jaxode.load(run)
    export(trained, {}, folder / "books-causal")
    monkeypatch.setattr(library, "SHIPPED", folder)
    return folder


def loss(name, depth):
    found = jaxode.load(name)
    model = found.config.model
    spec = BatchSpec(found.tokenizer, model.kind)
    batches = text_batches(TEXT * 4, spec, model.length, 4).batches
    return evaluate(found.architecture, found.params, batches, depth).nats_per_token


def test_books_causal_is_shipped():
    assert KINDS["books-causal"] == "causal"


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_model_is_small_whole_and_documented(name):
    folder = SHIPPED[name]
    assert sum(path.stat().st_size for path in folder.rglob("*")) <= 10e6
    found = jaxode.load(name)  # refuses damage, and calibrations of other weights
    assert len(found.model.calibrations) >= 1 or name in TASKS
    card = (folder / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert f"# {name}\n" in card
    assert ("made by the program" if name in TASKS else "public domain") in card
    assert f"--out jaxode/shipped/{name}" in card


@pytest.mark.parametrize("name", sorted(TASKS))
def test_a_shipped_model_of_a_task_needs_its_depth_as_the_question_does(name):
    found = jaxode.load(name)
    data, model = found.config.data, found.config.model
    spec = BatchSpec.of(data, found.own_tokenizer, "causal", model.length)

    def exact(difficulty, steps):
        task = dataclasses.replace(data.task, difficulty=str(difficulty), beyond="", tested=200)
        (one,) = asked(dataclasses.replace(data, task=task))
        batches = text_batches(one.texts, spec, model.length, 64).batches
        return evaluate_answers(found, batches, DepthConfig(steps=steps)).exact

    assert exact(3, 3) > 0.95
    assert exact(12, 3) < 0.4
    assert exact(12, 12) > 0.9


@pytest.mark.deep
def test_the_swaps_of_five_are_answered_by_name(infer, no_runs):
    """Ten letters: the swaps (1 2), (1 3) .. (4 5)."""
    ran = infer("--checkpoint", "s5", "--prompt", "abcdefghij=", "--max-new-tokens", 5, "--temperature", 0)
    assert ran.code == 0, ran.err
    assert ran.out.strip() == "54321"


@pytest.mark.parametrize("name", sorted(BOOKS))
@pytest.mark.broad
def test_a_shipped_model_is_trained(name):
    full = loss(name, DepthConfig())
    assert full < 0.6 * math.log(jaxode.load(name).tokenizer.vocab_size)
    # calibrated steps keep the full depth's loss; those of the model trained at fixed depth lose it without
    steps = max(jaxode.load(name).model.calibrations)
    calibrated, plain = (loss(name, DepthConfig(steps=steps, solver=solver)) for solver in ("calibrated", "euler"))
    assert abs(calibrated - full) < 0.05
    if name == "books-causal":
        assert plain > full + 0.2


@pytest.mark.broad
@pytest.mark.parametrize("name", sorted(BOOKS))
def test_a_shipped_model_runs_by_its_name(infer, no_runs, name):
    ran = infer("--checkpoint", name, "--prompt", PROMPTS[KINDS[name]], "--budget", 0.33, "--max-new-tokens", 4)
    assert ran.code == 0, ran.err
    assert ran.err.startswith(f"shipped model {name}, step ")
    assert "(calibrated)" in ran.err
    assert len(ran.out.strip()) > 0


def test_without_runs_the_shipped_causal_model_is_taken(infer, no_runs, other_models):
    ran = infer("--prompt", "Once", "--max-new-tokens", 1)
    assert ran.code == 0, ran.err
    assert ran.err.startswith("shipped model books-causal (no trained run under runs/), step 700: causal")


def test_for_a_mask_the_shipped_masked_model_is_taken(infer, no_runs, other_models, runs):
    for flags in (("--prompt", "a[MASK]"), ("--task", "fill")):
        error = fails(infer(*flags))
        assert "no trained run under runs/, and no masked model is shipped (shipped: books-causal): train" in error
    masked = write_run(other_models.parent / "masked", model_config("masked"), steps=(700,))
    shutil.copytree(masked, other_models / "books-masked")
    ran = infer("--prompt", "a[MASK]")
    assert ran.code == 0, ran.err
    assert ran.err.startswith("shipped model books-masked (no trained run under runs/), step 700: masked")


def test_a_run_goes_before_a_shipped_model_and_a_folder_before_a_name(infer, no_runs, other_models, runs):
    shutil.copytree(runs["causal"], "runs/a")
    assert infer("--prompt", "a", "--max-new-tokens", 1).err.startswith(f"run {Path('runs/a')} (the newest), step 7")
    shutil.copytree(runs["causal"], "books-causal")
    assert infer("--checkpoint", "books-causal", "--prompt", "a").err.startswith("run books-causal, step 7")


def test_an_unknown_name_lists_the_shipped_ones(other_models):
    message = "nosuch: no such run folder, and no shipped model of that name .shipped: books-causal."
    with pytest.raises(jaxode.UserError, match=message):
        jaxode.load("nosuch")


def test_nothing_is_written_beside_a_shipped_model(infer, no_runs, other_models, tmp_path):
    (tmp_path / "text.txt").write_text(TEXT)
    before = sorted(other_models.rglob("*"))
    about = ("--checkpoint", "books-causal", "--file", tmp_path / "text.txt", "--batches", 1)
    for task in ("sweep", "report"):
        assert "name a folder for the results with --out" in fails(infer(*about, "--task", task))
    assert "copy " in fails(infer(*about, "--task", "calibrate", "--steps", 2))
    assert infer(*about, "--task", "sweep", "--out", tmp_path / "out").code == 0
    assert sorted(other_models.rglob("*")) == before
