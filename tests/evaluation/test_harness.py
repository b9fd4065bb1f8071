"""The evaluation harness against bare loops over this project's own functions."""

import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

import jaxode
from jaxode import DepthConfig, UserError, generate, score_texts
from jaxode.inference import Greedy

pytest.importorskip("lm_eval")
from lm_eval.api.instance import Instance

from jaxode.evaluation import harness

pytestmark = pytest.mark.slow
TASKS = Path(__file__).parents[2] / "configs" / "harness"
PAIRS = [
    ("The road was long and", " the evening cold."),
    ("", "Nobody spoke."),
    ("It was the best of times, ", "it was the worst of times"),
    ("He said", " yes"),
    ("He said", " no"),
    ("He said", " yes"),
]


def requests(kind, *arguments):
    return [Instance(request_type=kind, doc={}, arguments=one, idx=0) for one in arguments]


def make(**arguments):
    return harness.HarnessModel.create_from_arg_obj({"checkpoint": "books-causal", **arguments}, {"batch_size": 4})


@pytest.fixture(scope="module")
def model():
    return make(steps=4)


@pytest.fixture(scope="module")
def loaded():
    return jaxode.load("books-causal")


def nats(loaded, text, steps=4):
    return score_texts(loaded, [text], depth=DepthConfig(steps=steps)).scores[0].nats if text else 0.0


def test_continuations_are_as_likely_as_texts_by_themselves(model, loaded):
    found = model.loglikelihood(requests("loglikelihood", *PAIRS), disable_tqdm=True)
    expected = [nats(loaded, a.rstrip()) - nats(loaded, a + b) for a, b in PAIRS]
    np.testing.assert_allclose([value for value, _ in found], expected, rtol=1e-5)
    assert model.depth.solver == "calibrated"


def test_steps_are_those_that_were_asked_for(loaded):
    pair = PAIRS[:1]
    (value, _), *_ = make(steps=3, solver="euler").loglikelihood(requests("loglikelihood", *pair), disable_tqdm=True)
    depth = DepthConfig(steps=3, solver="euler")
    scores = score_texts(loaded, [pair[0][0] + pair[0][1], pair[0][0]], depth=depth).scores
    assert value == pytest.approx(scores[1].nats - scores[0].nats, rel=1e-5)


def test_greedy_says_whether_decoding_would_find_it(model, loaded):
    prompt = "The road was long and"
    text = generate(loaded, prompt, depth=DepthConfig(steps=4), sampling=Greedy(), max_new_tokens=6).text
    ids = loaded.own_tokenizer.encode(prompt + text)
    assert ids[: len(loaded.own_tokenizer.encode(prompt))] == loaded.own_tokenizer.encode(prompt)
    pairs = requests("loglikelihood", (prompt, text), (prompt, text[:-1] + "!"))
    # the decoder reads no end token in front
    bare = make(steps=4, add_bos_token=False)
    assert [greedy for _, greedy in bare.loglikelihood(pairs, disable_tqdm=True)] == [True, False]


def test_long_contexts_lose_their_first_tokens(loaded):
    short = make(steps=4, max_length=16)
    context, target = "The road was long. " * 30, "Nobody spoke of it."
    (value, _), *_ = short.loglikelihood(requests("loglikelihood", (context, target)), disable_tqdm=True)
    tokenizer = loaded.own_tokenizer
    given, wanted = short._encode_pair(context, target)
    row = np.asarray([(given + wanted)[-17:]])
    assert len(wanted) < 16
    logits = loaded.model(jnp.asarray(row[:, :-1]), DepthConfig(steps=4)).logits[0]
    log_p = np.asarray(logits - np.logaddexp.reduce(np.asarray(logits), axis=-1, keepdims=True))
    expected = sum(log_p[-len(wanted) + i, token] for i, token in enumerate(wanted))
    assert value == pytest.approx(expected, rel=1e-4)
    assert tokenizer.end_id not in row
    with pytest.raises(UserError, match=r"continuation has \d+ tokens, and the model reads 16"):
        short.loglikelihood(requests("loglikelihood", (target, context)), disable_tqdm=True)


def test_rolling_predicts_every_token_once(model, loaded):
    text = "Nobody spoke of what they had seen."
    whole, long = model.loglikelihood_rolling(requests("loglikelihood_rolling", (text,), (text * 20,)), True)
    assert whole == pytest.approx(-nats(loaded, text), rel=1e-5)
    tokenizer, length = loaded.own_tokenizer, loaded.config.model.length
    ids = tokenizer.encode(text * 20)
    assert length < len(ids) < 2 * length
    rows = [[tokenizer.end_id, *ids[: length - 1]], ids[-length - 1 : -1]]
    logits = np.asarray(loaded.model(jnp.asarray(rows), DepthConfig(steps=4)).logits)
    log_p = logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)
    first = sum(log_p[0, i, token] for i, token in enumerate(ids[:length]))
    rest = len(ids) - length
    last = sum(log_p[1, length - rest + i, token] for i, token in enumerate(ids[length:]))
    assert long == pytest.approx(first + last, rel=1e-5)


def test_answers_end_at_stop_strings_and_pieces_change_nothing(model, loaded, monkeypatch):
    prompts = ["The road was long and", "He said"]
    settings = {"until": [".", ","], "max_gen_toks": 24}
    asked = requests("generate_until", *((prompt, settings) for prompt in prompts))
    found = model.generate_until(asked)
    expected = []
    for prompt in prompts:
        ids = model.tok_encode(prompt)
        text = generate(loaded, ids, depth=DepthConfig(steps=4), sampling=Greedy(), max_new_tokens=24).text
        expected.append(text.split(".")[0].split(",")[0])
    assert found == expected
    sampled = requests(
        "generate_until", *((prompt, settings | {"do_sample": True, "temperature": 1.0}) for prompt in prompts)
    )
    once = model.generate_until(sampled)
    # at temperature 1, where none is named
    plain = requests("generate_until", *((prompt, settings | {"do_sample": True}) for prompt in prompts))
    assert model.generate_until(plain) == once
    monkeypatch.setattr(harness.model, "PIECE", 5)
    assert model.generate_until(asked) == found
    assert model.generate_until(sampled) == once != found


def test_answers_are_kept_as_the_harness_keeps_them(model):
    kept = []
    model.cache_hook.add_partial = lambda *call: kept.append(call)
    try:
        found = model.loglikelihood(requests("loglikelihood", *PAIRS[:2]), disable_tqdm=True)
    finally:
        del model.cache_hook.add_partial
    assert kept == [("loglikelihood", pair, answer) for pair, answer in zip(PAIRS[:2], found, strict=True)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"step": 4}, "model_args step = 4: there is no such argument; allowed are checkpoint, steps"),
        ({"checkpoint": ""}, "checkpoint is missing"),
        ({"checkpoint": "books-masked"}, "is a masked model"),
        ({"checkpoint": "no-such-model"}, "no-such-model"),
        ({"steps": 0}, "steps = 0"),
        ({"solver": "eular"}, "eular"),
        ({"device": "cuda:1"}, "device = 'cuda:1': does not apply here"),
        ({"max_length": 100000}, "reads 128 tokens at most"),
        ({"max_gen_toks": 0}, "max_gen_toks = 0"),
        ({"checkpoint": 2024}, "model_args checkpoint = 2024: must be a text"),
        ({"plugins": 3}, "model_args plugins = 3: must be a text"),
        ({"cache": "all"}, 'cache = "all": allowed are auto'),
    ],
)
def test_what_cannot_be_meant_is_refused(arguments, message):
    with pytest.raises(UserError, match=message.replace("(", r"\(")):
        make(**arguments)


def test_settings_of_a_generation_that_do_not_exist_are_refused(model):
    for settings, message in (
        ({"num_beams": 4}, "num_beams"),
        ({"max_gen_toks": 128}, "leave room"),
        ({"max_gen_toks": "ten"}, "generation_kwargs .*ten"),
        ({"do_sample": True, "top_k": "x"}, "generation_kwargs top_k = 'x': must be a number"),
        ({"until": [5]}, r"generation_kwargs until = \[5\]: must be texts"),
    ):
        with pytest.raises(UserError, match=message):
            model.generate_until(requests("generate_until", ("He said", settings)))


def run(tasks):
    return ["--model_args", "checkpoint=books-causal,steps=6", "--tasks", tasks, "--include_path", str(TASKS)]


@pytest.fixture
def data(tmp_path, monkeypatch):
    """Ten documents of two tasks."""
    words = ["stone", "road", "night", "river", "house", "garden", "letter", "window", "table", "morning"]
    passages = [{"text": f"They walked along the {word} until at last they saw the {word}"} for word in words]
    pairs = [{"good": f"The {word} is here.", "bad": f"Here is {word} the the."} for word in words]
    for name, rows in (("lambada/lambada_test.jsonl", passages), ("blimp/blimp_pairs_200.jsonl", pairs)):
        path = tmp_path / name
        path.parent.mkdir()
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setenv("JAXODE_DATA", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path


def test_the_command_runs_tasks_from_local_files(data, tmp_path, capsys):
    out = tmp_path / "out"
    harness.main([*run("local_lambada,local_blimp"), "--output_path", str(out)])
    assert "local_lambada" in capsys.readouterr().out
    results = json.loads(next(out.rglob("results*.json")).read_text())["results"]
    assert results["local_blimp"]["acc,none"] >= 0.9
    assert results["local_blimp"]["acc_stderr,none"] >= 0
    assert results["local_lambada"]["perplexity,none"] > 1


def test_a_task_without_its_data_is_one_line(data):
    (data / "lambada" / "lambada_test.jsonl").unlink()
    with pytest.raises(SystemExit, match=r"^error: .*lambada_test.jsonl: cannot be read .*JAXODE_DATA"):
        harness.main(
            [
                "--model_args",
                "checkpoint=books-causal,steps=6",
                "--tasks",
                "local_lambada",
                "--include_path",
                str(TASKS),
            ]
        )
