"""Looped families as a person runs them: a folder with its tokenizer, through infer.py and jaxode.load."""

import csv
import json
import re

import jax.numpy as jnp
import numpy as np
import pytest
from families import CASES
from looped_folder import CHAT, write_ouro
from references import ouro
from references.folder import write_folder

import jaxode
from jaxode import DepthConfig, UserError
from jaxode.inference import Greedy, Speculation, score_texts
from jaxode.interop import save_pretrained

TEXT = "the cat sat on the mat, and the dog did not.\n" * 40
GREEDY = ("--max-new-tokens", 4, "--temperature", 0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_ouro(tmp_path_factory.mktemp("ouro") / "ouro")


@pytest.fixture(scope="module")
def loaded(folder):
    return jaxode.load(folder)


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    return path


@pytest.fixture(autouse=True)
def _cache(monkeypatch, tmp_path):
    monkeypatch.setenv("JAXODE_CACHE", str(tmp_path / "cache"))


def reference(ids, new, loops=None):
    """Greedy tokens, every one a forward pass."""
    text = list(ids)
    for _ in range(new):
        logits = ouro.forward(CASES["ouro"].config, CASES["ouro"].tensors(), np.asarray([text]), loops=loops).logits
        text.append(int(np.argmax(logits[0, -1, :35])))
        if text[-1] == 1:
            break
    return text[len(ids) :]


def test_a_prompt_stands_behind_the_beginning_of_a_text(loaded):
    done = jaxode.generate(loaded, "the cat", sampling=Greedy(), max_new_tokens=4)
    tokenizer = loaded.own_tokenizer
    ids = [0, *tokenizer.encode("the cat")]
    assert done.prompt_tokens == len(ids)
    assert list(done.ids) == reference(ids, 4)
    # ids are what they are
    assert jaxode.generate(loaded, ids, sampling=Greedy(), max_new_tokens=4).ids == done.ids


def test_chat_from_python_and_from_the_command_line(infer, folder, loaded):
    ids = loaded.own_tokenizer.chat("the cat")
    assert loaded.own_tokenizer.decode(ids, skip_special=False) == "<s><|user|>the cat</s><|assistant|>"
    rules = {"sampling": Greedy(), "max_new_tokens": 4}
    done = jaxode.generate(loaded, "the cat", chat=True, **rules)
    assert list(done.ids) == reference(ids, 4)
    assert jaxode.generate_batch(loaded, ["a", "the cat"], chat=True, **rules)[1].ids == done.ids
    ran = infer("--checkpoint", folder, "--prompt", "the cat", *GREEDY, "--chat")
    assert (ran.code, ran.out) == (0, done.text + "\n")
    assert "chat: the prompt stands within the chat template of the model's tokenizer" in ran.err.splitlines()
    plain = infer("--checkpoint", folder, "--prompt", "the cat", *GREEDY)
    assert plain.code == 0
    assert "has a chat template, and the prompt is read without it: --chat applies it" in plain.err


def test_chat_without_a_template_is_refused(infer, tmp_path):
    bare = write_ouro(tmp_path / "bare", chat=False)
    ran = infer("--checkpoint", bare, "--prompt", "the cat", *GREEDY, "--chat")
    assert ran.code == 2
    assert ran.err.splitlines()[-1].endswith(
        "tokenizer bare has no chat template: give the prompt as it is, without chat"
    )
    assert "Traceback" not in ran.err
    with pytest.raises(UserError, match=r"^chat = True: the prompt is no text"):
        jaxode.generate(jaxode.load(bare), [5, 6], chat=True)
    assert (
        "chat = true with task = score: only generate, bench read it"
        in infer("--task", "score", "--file", bare, "--chat").err
    )


def test_the_template_goes_where_the_model_goes(loaded, folder, tmp_path):
    save_pretrained(loaded, tmp_path / "written")
    again = jaxode.load(tmp_path / "written")
    assert again.own_tokenizer.chat_template == loaded.own_tokenizer.chat_template
    assert again.own_tokenizer.chat_template.template == CHAT


@pytest.mark.deep
def test_drafts_in_fewer_loops_give_the_same_tokens(loaded):
    rules = {"sampling": Greedy(), "max_new_tokens": 12}
    drafted = jaxode.generate(loaded, "the cat", speculation=Speculation((DepthConfig(steps=1),), (3,)), **rules)
    assert drafted.ids == jaxode.generate(loaded, "the cat", **rules).ids
    assert drafted.acceptance is not None


@pytest.mark.broad
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_steps_are_loops(infer, folder, loaded, steps):
    ids = [0, *loaded.own_tokenizer.encode("the cat")]
    want = loaded.own_tokenizer.decode(reference(ids, 4, loops=steps))
    ran = infer("--checkpoint", folder, "--prompt", "the cat", *GREEDY, "--steps", steps)
    assert (ran.code, ran.out) == (0, want + "\n")
    about = [line for line in ran.err.splitlines() if f"{steps} steps of size 1" in line]
    assert len(about) == 1
    assert ("more than the N = 3 of training" in about[0]) == (steps > 3)


@pytest.mark.deep
def test_loops_that_count_as_the_full_depth(infer, folder, loaded):
    ids = [0, *loaded.own_tokenizer.encode("the cat")]
    common = ("--checkpoint", folder, "--prompt", "the cat", *GREEDY)
    for loops, said in ((5, "5 steps of size 1, more than the N = 3 of training"), (3, None), (2, "2 steps of size 1")):
        ran = infer(*common, "--loops", loops)
        assert (ran.code, ran.out) == (0, loaded.own_tokenizer.decode(reference(ids, 4, loops=loops)) + "\n")
        about = [line for line in ran.err.splitlines() if "of training" in line]
        assert len(about) == (said is not None)
        assert not about or about[0].startswith(said)
        assert jaxode.load(folder, loops=loops).config.model.steps == loops
    assert jaxode.load(folder, dtype="bfloat16").params["head.own.kernel"].dtype == jnp.bfloat16
    ran = infer(*common, "--dtype", "bfloat16", "--loops", 1)
    assert ran.code == 0


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("--loops", 0), "loops = 0: must be at least 1"),
        (
            ("--start", "zeros"),
            'start = zeros, start_seed = 0: this model begins at no noise (model.loop.start = "ente',
        ),
        (("--start-seed", 3), "start = model, start_seed = 3: this model begins at no noise"),
        (("--cache", "every"), 'cache = "every": allowed are auto, loop, last, first and modulo:k'),
    ],
)
def test_refusals_in_one_line(infer, folder, arguments, why):
    ran = infer("--checkpoint", folder, "--prompt", "the cat", *arguments)
    assert ran.code == 2
    assert why in ran.err.splitlines()[-1]
    assert "Traceback" not in ran.err


def test_what_jaxode_wrote_has_no_loops_of_another_file():
    with pytest.raises(UserError, match=r"loops = 3 is for a Hugging Face looped language model; of what jaxode wrote"):
        jaxode.load("books-causal", loops=3)
    with pytest.raises(UserError, match=r'dtype = "bfloat16" is for a Hugging Face model'):
        jaxode.load("books-causal", dtype="bfloat16")


def test_a_config_that_contradicts_its_tensors_is_refused(tmp_path, infer):
    folder = write_ouro(tmp_path / "ouro")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"hidden_size": 24}))
    ran = infer("--checkpoint", folder, "--prompt", "the cat")
    assert ran.code == 2
    assert "Traceback" not in ran.err
    last = ran.err.splitlines()[-1]
    assert "has shape" in last
    assert re.search(r"hidden_size|config\.json", last)


def test_texts_are_scored_behind_the_beginning_of_a_text(loaded):
    """The first token follows <s>, and nothing stands at the end."""
    texts = ["the cat", "a dog did"]
    for text, score in zip(texts, score_texts(loaded, texts).scores, strict=True):
        ids = loaded.own_tokenizer.encode(text)
        assert score.tokens == len(ids)
        logits = ouro.forward(CASES["ouro"].config, CASES["ouro"].tensors(), np.asarray([[0, *ids[:-1]]])).logits[0]
        nats = -np.log([ouro.softmax(row)[token] for row, token in zip(logits, ids, strict=True)])
        assert score.nats == pytest.approx(nats.sum(), abs=1e-3)


@pytest.mark.deep
def test_a_sweep_in_loops_and_beyond_those_of_training(infer, folder, text, tmp_path):
    common = ("--checkpoint", folder, "--task", "sweep", "--file", text, "--batches", 2)
    ran = infer(*common, "--at", "5,3,1", "--out", tmp_path / "sweep")
    assert ran.code == 0, ran.err
    rows = list(csv.DictReader((tmp_path / "sweep" / "sweep.csv").open()))
    assert [(row["steps"], row["block_evaluations"]) for row in rows] == [("5", "15"), ("3", "9"), ("1", "3")]
    assert {row["schedule"] for row in rows if row["steps"] != "3"} == {"unit"}
    assert all(np.isfinite(float(row["nats_per_token"])) for row in rows)


@pytest.mark.deep
def test_a_calibration_for_other_loops_stands_apart(infer, folder, text):
    fit = ("--checkpoint", folder, "--task", "calibrate", "--steps", 2, "--file", text, "--batches", 4)
    ran = infer(*fit)
    assert ran.code == 0, ran.err
    longer = jaxode.load(folder, loops=5)
    assert (set(jaxode.load(folder).calibrations), set(longer.calibrations)) == ({2}, set())
    assert longer.model.resolve(DepthConfig(steps=2)).solver == "euler"
    assert jaxode.load(folder).model.resolve(DepthConfig(steps=2)).solver == "calibrated"
    # asked for by name, steps of size 1 are what they are
    unit = DepthConfig(steps=2, schedule="unit")
    assert jaxode.load(folder).model.resolve(unit).solver == "euler"


def test_a_model_that_diverges_names_the_schedule_that_ran(infer, tmp_path):
    case = CASES["ouro"]
    tensors = case.tensors() | {"lm_head.weight": 3e38 * np.sign(case.tensors()["lm_head.weight"])}
    folder = write_ouro(tmp_path / "ouro")
    write_folder(folder, case.config, tensors)
    ran = infer("--checkpoint", folder, "--prompt", "the cat", "--steps", 2)
    assert ran.code == 2
    assert 'depth.solver = "euler", depth.steps = 2, depth.schedule = "unit"' in ran.err.splitlines()[-1]


@pytest.mark.deep
def test_bench_says_how_much_the_cache_takes(infer, folder):
    ran = infer("--checkpoint", folder, "--task", "bench", "--max-new-tokens", 4, "--cache", "last")
    assert ran.code == 0, ran.err
    # 2 x slots x key heads x head width x bytes
    last = 2 * 3 * 2 * 6 * 4
    assert f"cache: {last} bytes a token (last, float32); loop {3 * last}, first {last}, modulo:2 {2 * last}" in ran.err


@pytest.mark.deep
def test_bench_without_a_depth_to_draft_in(infer, folder):
    ran = infer("--checkpoint", folder, "--task", "bench", "--max-new-tokens", 4, "--steps", 1)
    assert ran.code == 0, ran.err
    rows = ran.out.splitlines()
    assert [row.split()[:3] for row in rows[2:]] == [["1", "euler", "none"]]
