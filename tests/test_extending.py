"""The worked examples of docs/extending.md: a tiny run trained with block, objective and corpus, then solver, sampling
method and exit rule on it; and what opening such a run says.
"""

import dataclasses
import json
import re
import shutil
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxode
from jaxode import plugins
from jaxode.checkpoint import RunFolder, load_run, made_by
from jaxode.config import (
    Config,
    DataConfig,
    DepthConfig,
    InferConfig,
    LoopConfig,
    ModelConfig,
    ObjectiveConfig,
    TrainConfig,
    UserError,
)
from jaxode.data import Batch, open_corpus
from jaxode.data.components import corpora_of
from jaxode.depth import Schedule, integrate
from jaxode.inference.generation.sampling import named_sampling
from jaxode.inference.loading.names import resolve
from jaxode.inference.tasks.main import run
from jaxode.model import ModelOutput, plan
from jaxode.model.loop import Pass
from jaxode.training import train
from jaxode.training.curriculum import Solves
from jaxode.training.objectives import count, objective_terms
from jaxode.training.terms import TERMS, term_mean

EXAMPLES = Path(__file__).parents[1] / "examples/plugins"
TRAINING = tuple(str(EXAMPLES / f"{name}.py") for name in ("parallel_block", "z_loss", "brackets"))
MADE = {"rngs": nnx.Rngs(0), "dtype": jnp.float32}
SIZES = ModelConfig(block="parallel", vocab_size=0, width=16, heads=2, length=16, steps=4)


def settings(folder, **changes):
    config = Config(
        model=SIZES,
        data=DataConfig(corpus="brackets", tokenizer="bytes", cache=str(folder / "cache")),
        objective=ObjectiveConfig(terms="z_loss:0.01"),
        train=TrainConfig(updates=2, batch_size=2, log_every=1, final_batches=1, devices=1),
        plugins=TRAINING,
        out=str(folder / "run"),
    )
    return dataclasses.replace(config, **changes)


@pytest.fixture(autouse=True)
def only_what_a_test_loads(monkeypatch):
    monkeypatch.setattr(plugins, "_LOADED", {})
    monkeypatch.setattr(made_by, "_SAID", set())
    for table in plugins._TABLES.values():
        monkeypatch.setattr(table, "_added", {})


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of two updates; nothing of it stays loaded."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plugins, "_LOADED", {})
        result = train(settings(folder))
        for table in plugins._TABLES.values():
            table._added.clear()
    return result


@pytest.fixture
def copied(trained, tmp_path):
    return Path(shutil.copytree(trained.run.path, tmp_path / "run"))


def told(capsys):
    return capsys.readouterr().err.splitlines()


def infer(*names, checkpoint, **fields):
    written, notes = [], []
    files = tuple(str(EXAMPLES / f"{name}.py") for name in ("parallel_block", *names))
    run(InferConfig(checkpoint=str(checkpoint), plugins=files, **fields), written.append, notes.append)
    return "".join(written), "\n".join(notes)


def test_the_run_records_the_files_that_made_it_and_its_config_names_none(trained):
    recorded = json.loads((trained.run.path / "plugins.json").read_text(encoding="utf-8"))
    assert {(one["source"], one["sha256"]) for one in recorded} == {
        (file, plugins.fingerprint(file)) for file in TRAINING
    }
    assert 'block = "parallel"' in (trained.run.path / "config.toml").read_text(encoding="utf-8")
    assert "plugins" not in (trained.run.path / "config.toml").read_text(encoding="utf-8").replace("plugins = []", "")


def test_the_term_is_added_with_its_weight(trained):
    first = json.loads(trained.run.metrics.read_text(encoding="utf-8").splitlines()[0])
    # fresh predictions are nearly flat over a vocabulary of 259
    assert first["z_loss"] == pytest.approx(np.log(259) ** 2, rel=0.2)


def test_the_objective_is_the_loss_and_the_weighted_mean_over_predicted_tokens():
    plugins.load(TRAINING[1])
    model = jaxode.make_model(ModelConfig(vocab_size=7, width=4, heads=1, length=4, steps=1))
    ids = np.asarray([[1, 2, 3, 4], [4, 3, 2, 0]], np.int32)
    weights = np.asarray([[1, 1, 1, 1], [1, 1, 0, 0]], np.float32)
    batch = Batch(ids, ids, weights, (ids > 0).astype(np.int32))
    options = {"document_mask": False, "key": None, "schedule_key": jax.random.key(0)}
    objective = ObjectiveConfig(terms="z_loss:0.25")
    terms = objective_terms(model, batch, Solves(1), objective, DepthConfig(), count(batch), **options)
    squares = np.square(jax.nn.logsumexp(model(jnp.asarray(ids)).logits, axis=-1))
    np.testing.assert_allclose(terms.others["z_loss"], np.sum(squares * weights) / 6, rtol=1e-5)
    np.testing.assert_allclose(terms.total, terms.loss + 0.25 * terms.others["z_loss"], rtol=1e-6)


def test_the_block_adds_both_increments_of_one_state(trained):
    plugins.load(TRAINING[0])
    model = load_run(trained.run.path).model
    block, x = model.stack.looped[0], jnp.asarray(np.random.default_rng(0).normal(size=(1, 4, 16)), jnp.float32)
    _, context = model.start(jnp.zeros((1, 4), jnp.int32))
    both = block.attention_increment(0.0, x, context) + block.feed_forward_increment(0.0, x, context)
    np.testing.assert_allclose(block.increment(0.0, x, context), both, rtol=1e-6)
    assert not np.allclose(jaxode.Block.increment(block, 0.0, x, context), both, rtol=1e-3)


def test_the_block_refuses_rules_whose_increments_do_not_add_up():
    plugins.load(TRAINING[0])
    with pytest.raises(UserError, match=r'^model.norm_position = "post" with model.block = "parallel": must be "pre"'):
        jaxode.make_model(dataclasses.replace(SIZES, vocab_size=259, norm_position="post"))


def test_a_block_that_nobody_brings_is_refused():
    with pytest.raises(UserError, match=r'^model.block = "parallel": allowed are standard, and what a plug-in brings'):
        jaxode.make_model(dataclasses.replace(SIZES, vocab_size=259))


def test_the_lie_splitting_takes_the_standard_block_alone():
    with pytest.raises(UserError, match=r'^depth.solver = "lie" with model.block = "parallel": takes a block apart'):
        plan(SIZES, DepthConfig(solver="lie"))


def test_a_run_whose_block_is_not_loaded_says_which_file_has_it(trained, capsys):
    for open_it in (load_run, resolve, lambda path: RunFolder(path).config()):
        with pytest.raises(UserError) as caught:
            open_it(trained.run.path)
        assert str(caught.value) == (
            f'{trained.run.path}: was made with the plug-in {TRAINING[0]} (block "parallel"), which is not loaded; '
            f'give it with --plugins {TRAINING[0]}, in Python with jaxode.plugins.load("{TRAINING[0]}")'
        )
    assert plugins.loaded() == ()


def test_what_only_training_needs_is_told_once_and_needed_to_go_on(trained, capsys):
    plugins.load(TRAINING[0])
    load_run(trained.run.path)
    load_run(trained.run.path)
    said = [line for line in told(capsys) if "which is not loaded" in line]
    assert [re.search(r'\((\w+) "', line)[1] for line in said] == ["objective", "corpus"]
    config = settings(trained.run.path.parent, resume=True, plugins=TRAINING[:2])
    with pytest.raises(
        UserError, match=r'brackets.py \(corpus "brackets"\), which is not loaded; give it with --plugins'
    ):
        train(config)


def test_a_changed_file_is_told(copied, tmp_path, capsys):
    changed = tmp_path / "block.py"
    changed.write_text(Path(TRAINING[0]).read_text(encoding="utf-8") + "# another\n", encoding="utf-8")
    plugins.load(changed)
    load_run(copied)
    (line,) = [line for line in told(capsys) if "was made with another" in line]
    assert line.startswith(f"{copied}: was made with another {TRAINING[0]} (sha256 ")
    assert str(changed) in line


def test_a_record_that_cannot_be_read_is_refused(copied):
    (copied / "checksums.json").unlink()
    (copied / "plugins.json").write_text('[{"source": "a.py"}]', encoding="utf-8")
    with pytest.raises(UserError, match=r"plugins.json: cannot be read \('sha256'\); copy it again"):
        RunFolder(copied).config()


def test_a_config_in_a_run_folder_that_names_a_file_does_not_run_it(copied, tmp_path, monkeypatch):
    evil = tmp_path / "evil.py"
    evil.write_text("raise SystemExit('ran')", encoding="utf-8")
    plugins.load(TRAINING[0])
    file = copied / "config.toml"
    text = re.sub(r"^plugins = \[\]$", f'plugins = ["{evil}"]', file.read_text(encoding="utf-8"), flags=re.M)
    assert str(evil) in text
    (copied / "checksums.json").unlink()
    file.write_text(text, encoding="utf-8")
    assert load_run(copied).config.plugins == (str(evil),)
    assert "evil" not in " ".join(sys.modules)


def test_an_exported_model_keeps_the_record_without_places_on_disk(trained, tmp_path):
    plugins.load(TRAINING[0])
    saved = jaxode.load(trained.run.path).save(tmp_path / "exported")
    recorded = json.loads((saved / "plugins.json").read_text(encoding="utf-8"))
    assert {one["source"] for one in recorded} == {"parallel_block.py", "z_loss.py", "brackets.py"}
    assert jaxode.load(saved).config.model.block == "parallel"


def test_solver_and_sampling_method_in_one_command(trained):
    text, notes = infer(
        "ssprk3",
        "typical_sampling",
        checkpoint=trained.run.path,
        prompt="([",
        solver="ssprk3",
        steps=2,
        sampling="typical:0.9",
        max_new_tokens=4,
    )
    assert text
    # three evaluations a step
    assert "steps 2 (ssprk3): 6 block evaluations a token" in notes


def test_exit_rule_in_one_command(trained, tmp_path):
    """Nearly flat predictions over 259 entries: an entropy of 5.6."""
    file = tmp_path / "text.txt"
    file.write_text("([])[]()" * 8, encoding="utf-8")
    rows = {}
    for threshold in ("0.1", "8.0"):
        text, _ = infer(
            "entropy_exit", checkpoint=trained.run.path, task="score", file=str(file), exit_rule=f"entropy:{threshold}"
        )
        head, _, row = text.splitlines()
        rows[threshold] = dict(zip(head.split(), map(float, row.split()), strict=True))
    assert (rows["0.1"]["steps_per_token"], rows["0.1"]["stopped"]) == (4, 0)
    assert (rows["8.0"]["steps_per_token"], rows["8.0"]["stopped"]) == (1, 1)


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"sampling": "typicel:0.9", "prompt": "a"}, r'sampling = "typicel:0.9": allowed are greedy, .*, typical, and'),
        ({"sampling": "typical", "prompt": "a"}, r'sampling = "typical": typical takes a number, as "typical:0.9"'),
        ({"sampling": "typical:2", "prompt": "a"}, r"typical = 2: must lie in \(0, 1\]"),
        ({"sampling": "greedy:2", "prompt": "a"}, r'greedy takes no number; write "greedy" alone'),
        ({"exit_rule": "entropi:1", "task": "score", "file": "f"}, r'exit_rule = "entropi:1": allowed are step_error'),
        ({"exit_rule": "patience", "task": "score", "file": "f"}, r"must be one rule with its threshold"),
    ],
)
def test_names_and_numbers_are_refused_before_a_model_is_looked_for(fields, why):
    with pytest.raises(UserError, match=why):
        infer("typical_sampling", checkpoint="absent", **fields)


def test_a_boundary_ends_a_pass_and_what_is_below_its_bound_stays():
    plugins.load(EXAMPLES / "capped_state.py")
    loop = Pass(dataclasses.replace(SIZES, block="standard", loop=LoopConfig(boundary="capped")), **MADE)
    x = jnp.ones((1, 2, 16)) * jnp.asarray([1.0, 5.0])[None, :, None]
    ended = x + loop.increment(0.0, 1.0, x, None, lambda state: 3 * state)
    np.testing.assert_allclose(ended[0, :, 0], [3.0, 8.0], rtol=1e-6)


def test_a_boundary_may_have_parameters_and_is_recorded(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from flax import nnx\nfrom jaxode.plugins import register\n@register('boundary', 'scaled')\n"
        "class Scaled(nnx.Module):\n    def __init__(self, config, *, rngs, dtype):\n"
        "        self.scale = nnx.Param(2.0 + nnx.initializers.zeros(rngs.params(), (config.width,)))\n"
        "    def __call__(self, x):\n        return x * self.scale[...]\n",
        encoding="utf-8",
    )
    (loaded,) = plugins.load(file)
    config = dataclasses.replace(SIZES, block="standard", loop=LoopConfig(boundary="scaled"))
    x = jnp.ones((1, 2, 16))
    np.testing.assert_allclose(Pass(config, **MADE).increment(0.0, 1.0, x, None, lambda state: 3 * state), 5.0)
    assert made_by.plugins_of(Config(model=config)) == (loaded,)
    plugins.load(EXAMPLES / "capped_state.py")
    assert made_by.plugins_of(Config(model=config)) == (loaded,), "and no file of which no part is named"


def test_a_boundary_that_nobody_brings_is_refused():
    with pytest.raises(UserError, match=r'^model.loop.boundary = "cap": allowed are none, norm, and what a plug-in'):
        Pass(dataclasses.replace(SIZES, loop=LoopConfig(boundary="cap")), **MADE)


def test_the_solver_has_order_three():
    plugins.load(EXAMPLES / "ssprk3.py")
    ends = [
        float(integrate(lambda t, x, a: -x, jnp.ones(1), Schedule.even(2.0, n), "ssprk3").state[0]) for n in (8, 16)
    ]
    errors = [abs(end - np.exp(-2)) for end in ends]
    assert np.log2(errors[0] / errors[1]) == pytest.approx(3, abs=0.2)


def test_a_multistep_rule_is_a_solver_as_well(tmp_path):
    """A function from step sizes to weights; these are Adams-Bashforth 2 on even steps."""
    file = tmp_path / "rule.py"
    file.write_text(
        "import numpy as np\nfrom jaxode.plugins import register\n"
        '@register("solver", "even2")\ndef even2(sizes):\n    h = np.asarray(sizes)\n'
        "    first = np.arange(len(h)) == 0\n"
        "    return np.stack([np.where(first, h, 1.5 * h), np.where(first, 0, -0.5 * h)], axis=1)\n",
        encoding="utf-8",
    )
    plugins.load(file)
    ends = [integrate(lambda t, x, a: -x, jnp.ones(1), Schedule.even(2.0, 8), name).state for name in ("even2", "ab2")]
    np.testing.assert_allclose(*ends, rtol=1e-6)


def test_typical_sampling_keeps_what_is_nearest_to_the_expected_surprise():
    """Of probabilities 0.5, 0.3, 0.2 the entropy is 1.03, the surprises are 0.69, 1.20, 1.61."""
    plugins.load(EXAMPLES / "typical_sampling.py")
    logits = jnp.log(jnp.asarray([[0.5, 0.3, 0.2]]))
    kept = {p: np.isfinite(np.asarray(named_sampling(f"typical:{p}")(logits, None)))[0].tolist() for p in (0.2, 0.7, 1)}
    assert kept == {0.2: [False, True, False], 0.7: [True, True, False], 1: [True, True, True]}
    # behind another method, what that excludes stays out
    chained = named_sampling("top_k:2,typical:1.0")(logits, None)
    assert np.isfinite(np.asarray(chained))[0].tolist() == [True, True, False]


def test_the_corpus_is_dealt_out_and_has_balanced_brackets(trained):
    plugins.load(TRAINING[2])
    data = trained.config.data
    corpus = open_corpus(data, Path(data.cache))
    assert len(corpus.train) + len(corpus.validation) == 2000
    assert 50 < len(corpus.validation) < 150
    for text in (corpus.train[0], corpus.validation[0]):
        left = text
        while "()" in left or "[]" in left:
            left = left.replace("()", "").replace("[]", "")
        assert left == "" != text


def test_the_corpus_may_be_a_part_of_a_mixture_and_is_recorded_there():
    data = DataConfig(mixture=("brackets=1", "stdlib=2"), tokenizer="bytes")
    with pytest.raises(UserError, match=r'^data.mixture: "brackets" is no file, folder or glob'):
        corpora_of(data)
    (plugin,) = plugins.load(TRAINING[2])
    (_, alone), _ = corpora_of(data)
    assert (alone.corpus, alone.files) == ("brackets", "")
    assert made_by.plugins_of(Config(data=data)) == (plugin,)
    assert made_by.plugins_of(Config()) == ()


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (
            "return [str(random.random()) for _ in range(3)]",
            "gives other texts when it is read again; draw from a fixed seed",
        ),
        ("return ['alone']", "gives 1 texts; one at least to train and one to validate on"),
        ("return [b'bytes', b'more']", "gives bytes as text 0; must be str"),
    ],
)
def test_a_corpus_that_cannot_be_dealt_out_is_refused(tmp_path, body, why):
    file = tmp_path / "noise.py"
    file.write_text(
        "import random\nfrom jaxode.plugins import register\n\n"
        f'@register("corpus", "noise")\ndef noise(data):\n    {body}\n',
        encoding="utf-8",
    )
    plugins.load(file)
    with pytest.raises(UserError, match=f'^data.corpus = "noise": {why}'):
        open_corpus(DataConfig(corpus="noise"), tmp_path / "cache")


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        (
            {"objective": ObjectiveConfig(terms="z_los:1")},
            r'objective.terms = "z_los:1": allowed are z_loss, loss, .*z_loss',
        ),
        (
            {"model": dataclasses.replace(SIZES, kind="masked", head="none")},
            r'objective.terms = "z_loss:0.01" for a model that learns as encoder|model.head = "none"',
        ),
        (
            {"data": DataConfig(corpus="bracket", tokenizer="bytes")},
            r"a plug-in brings others .*did you mean 'brackets'",
        ),
        ({"plugins": ()}, r'model.block = "parallel": allowed are standard, and what a plug-in brings'),
    ],
)
def test_a_run_that_names_what_it_does_not_bring_is_refused(tmp_path, changes, why):
    with pytest.raises(UserError, match=why):
        train(settings(tmp_path, **changes))
    assert not (tmp_path / "run").exists()


def test_a_term_of_another_shape_is_refused():
    TERMS.add("mean", lambda out, batch: jnp.zeros(()))
    out = ModelOutput(jnp.zeros((2, 16, 3)), jnp.zeros((2, 16, 4)), 4, "euler")
    ids = np.zeros((2, 16), np.int32)
    batch = Batch(ids, ids, np.ones((2, 16), np.float32), ids)
    with pytest.raises(UserError, match=r'"mean" gives numbers of shape \[\]: must be one a position, \[2, 16\]'):
        term_mean("mean", out, batch, jnp.ones((2, 16)), jnp.ones(()))


def test_every_example_names_a_command_that_the_documentation_has(capsys):
    """The headers of the files and docs/extending.md say the same."""
    page = (EXAMPLES.parents[1] / "docs/extending.md").read_text(encoding="utf-8")
    for file in sorted(EXAMPLES.glob("*.py")):
        header = file.read_text(encoding="utf-8").split('"""')[1].replace("\\\n", "")
        commands = [" ".join(line.split()) for line in header.splitlines() if line.strip().startswith("python ")]
        assert commands, file
        for command in commands:
            assert command in " ".join(page.replace("\\\n", "").split()), command
