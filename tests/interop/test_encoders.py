"""A bare ALBERT as what it is: vectors, sweeps, reports and calibrations by its states."""

import csv
import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers
from flax import nnx

import jaxode
from jaxode import DepthConfig, Encoder, TokenClassifier, UserError
from jaxode.calibration import Fit, calibrate, within_error
from jaxode.config import InferConfig
from jaxode.data import Batch, Tokenizer
from jaxode.evaluation import Method, compare_states
from jaxode.inference.tasks.line_tables import read_lines
from jaxode.inference.tasks.line_text import line_batches, packed_batches
from jaxode.interop import Pretrained, from_pretrained, save_pretrained
from jaxode.model.parameters import split

LINES = ["a bad film", "good", "so, so good a film", "dull", "what a film", "bad, bad", "good film", "a"] * 3


@pytest.fixture
def lines(tmp_path):
    path = tmp_path / "lines.txt"
    path.write_text("\n".join(LINES[:8]) + "\n\n" + "\n".join(LINES[8:]) + "\n")
    return path


@pytest.fixture(autouse=True)
def _cache(monkeypatch, tmp_path):
    monkeypatch.setenv("JAXODE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def batches(encoder):
    tokenizer, made = from_pretrained(encoder).own_tokenizer, []
    for start in range(0, 24, 6):
        ids = [tokenizer.encode(text, frame=True) for text in LINES[start : start + 6]]
        tokens = np.zeros((6, 24), np.int32)
        for row, own in zip(tokens, ids, strict=True):
            row[: len(own)] = own
        real = np.arange(24) < np.asarray([[len(own)] for own in ids])
        made.append(Batch(tokens, tokens, real.astype(np.float32), real.astype(np.int32)))
    return made


def errors(model, batches, depth):
    """Relative error, cosine and pooled error, written out."""
    x, y, p, q = [], [], [], []
    for batch in batches:
        segments, real = jnp.asarray(batch.segments), batch.segments > 0
        full, short = (model(jnp.asarray(batch.tokens), one, segments=segments) for one in (DepthConfig(), depth))
        x.append(np.asarray(full.state)[real])
        y.append(np.asarray(short.state)[real])
        if full.pooled is not None:
            p.append(full.pooled)
            q.append(short.pooled)

    def relative(x, y):
        return np.sqrt(np.sum((y - x) ** 2) / np.sum((x - x.mean(0)) ** 2))

    x, y = np.concatenate(x), np.concatenate(y)
    cosine = np.mean(np.sum(x * y, -1) / np.linalg.norm(x, axis=-1) / np.linalg.norm(y, axis=-1))
    return relative(x, y), cosine, relative(np.concatenate(p), np.concatenate(q)) if p else None


def test_no_task_named_gives_vectors(infer, encoder, lines, tmp_path):
    out = tmp_path / "out" / "vectors.npz"
    ran = infer("--checkpoint", encoder, "--task", "encode", "--file", lines, "--out", out, "--batch-size", 5)
    assert (ran.code, ran.out) == (0, ""), ran.err
    assert ": encoder, " in ran.err.splitlines()[0]
    found, loaded = np.load(out), jaxode.load(encoder)
    want = jaxode.encode_texts(loaded, LINES)
    # in batches of other sizes, so otherwise rounded
    np.testing.assert_allclose(found["vectors"], want.vectors, rtol=1e-4, atol=5e-4)
    assert found["lines"].tolist() == [*range(1, 9), *range(10, 26)]
    assert found["lengths"].tolist() == want.lengths.tolist()
    ids = loaded.own_tokenizer.encode(LINES[0], frame=True)
    state = loaded.model(jnp.asarray([ids], jnp.int32)).state[0]
    np.testing.assert_allclose(want.vectors[0], state.mean(0), rtol=1e-4, atol=1e-5)
    # an older file stays until the new one is whole
    assert [path.name for path in out.parent.iterdir()] == ["vectors.npz"]


@pytest.mark.broad
@pytest.mark.parametrize("pooler", [True, False])
def test_states_are_compared_over_real_tokens(run, batches, lively, pooler):
    model = lively(Encoder(run.config.model, pooler=pooler, rngs=nnx.Rngs(0)))
    short, same = DepthConfig(steps=2, solver="euler"), DepthConfig(steps=4, schedule="unit")
    methods = [Method("step rescaling", short), Method("the same", same)]
    found = compare_states(*split(model), batches, methods, profiles=True, rounds=1)
    full, row = found.rows
    assert (full.error, full.pooled_error, full.relative_time) == (0.0, 0.0 if pooler else None, 1.0)
    assert full.cosine == pytest.approx(1.0, abs=1e-5)
    want = errors(model, batches, short)
    assert (row.error, row.cosine) == pytest.approx(want[:2], rel=1e-4)
    assert row.pooled_error == (pytest.approx(want[2], rel=1e-3) if pooler else None)
    assert found.tokens == sum(int((batch.segments > 0).sum()) for batch in batches)
    # what padding holds does not matter
    other = [dataclasses.replace(batch, tokens=np.where(batch.segments > 0, batch.tokens, 7)) for batch in batches]
    again = compare_states(*split(model), other, methods, profiles=True, rounds=1)
    assert again.rows[1].error == pytest.approx(row.error, rel=1e-5)
    for one, two in zip(found.profiles, again.profiles, strict=True):
        np.testing.assert_allclose(one.state_norm, two.state_norm, rtol=1e-5)
        np.testing.assert_allclose(one.cosine, two.cosine, rtol=1e-3, atol=1e-5)


def test_sweep_from_the_command_line(infer, encoder, lines, tmp_path):
    about = ("--checkpoint", encoder, "--file", lines, "--out", tmp_path / "out", "--batch-size", 4)
    ran = infer(*about, "--task", "sweep", "--at", "4,2")
    assert ran.code == 0, ran.err
    rows = list(csv.DictReader((tmp_path / "out" / "sweep.csv").open()))
    assert [row["steps"] for row in rows] == ["4", "2"]
    assert float(rows[0]["error"]) == 0 < float(rows[1]["error"])


@pytest.mark.parametrize("make", [line_batches, packed_batches])
def test_what_its_tokenizer_does_not_know_is_told(encoder, lines, make, capfd):
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"?": 0, "a": 1, "good": 2, "film": 3}, unk_token="?"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    loaded = dataclasses.replace(from_pretrained(encoder), tokenizer=Tokenizer(words, "words", 1, None, 1))
    config = InferConfig(task="calibrate", steps=2, file=str(lines), updates=1, batch_size=4)
    make(loaded, read_lines(str(lines)), config)
    unknown = sum(word not in ("a", "good", "film") for line in LINES for word in line.split())
    assert unknown > 10
    line = f"{lines}: pieces of text that the tokenizer does not know, read as its unknown token: {unknown}"
    assert capfd.readouterr().err.splitlines() == [line]


@pytest.mark.deep
def test_calibration_and_report_from_the_command_line(infer, encoder, lines, tmp_path, rescaled_alone):
    about = ("--checkpoint", encoder, "--file", lines, "--out", tmp_path / "out", "--batch-size", 4)
    # beside no one else's weights
    ran = infer(
        "--checkpoint",
        encoder,
        "--file",
        lines,
        "--batch-size",
        4,
        "--task",
        "calibrate",
        "--steps",
        2,
        "--updates",
        20,
    )
    assert ran.code == 0, ran.err
    assert "relative error of the states to those of the full depth" in ran.err
    ran = infer(*about, "--task", "report")
    assert ran.code == 0, ran.err
    rows = {
        row["method"]: row for row in csv.DictReader((tmp_path / "out" / "report.csv").open()) if row["steps"] == "2"
    }
    assert float(rows["calibrated"]["error"]) < float(rows["step rescaling"]["error"])
    out = tmp_path / "vectors.npz"
    ran = infer("--checkpoint", encoder, "--task", "encode", "--file", lines, "--out", out, "--steps", 2)
    assert "steps 2 (calibrated): 2 block evaluations" in ran.err
    bound = ("--checkpoint", encoder, "--task", "encode", "--file", lines, "--out", out, "--bound-file", lines)
    assert "cannot be promised" in infer(*bound, "--max-error", 0.001).err


@pytest.mark.parametrize("bound", ["--max-loss-increase", "--max-label-flips"])
def test_only_an_error_of_states_bounds_an_encoder(infer, encoder, lines, tmp_path, bound):
    flags = ("--task", "encode", "--file", lines, "--out", tmp_path / "v.npz", bound, 0.1)
    ran, name = infer("--checkpoint", encoder, *flags), bound[2:].replace("-", "_")
    assert f"error: {name} = 0.1: {encoder} is measured by its states; bound their error with max_error, or" in ran.err
    assert (ran.code, len(ran.err.splitlines())) == (2, 1)


@pytest.mark.deep
def test_a_calibrated_encoder_keeps_a_bound_on_its_error(encoder, batches):
    loaded = jaxode.load(encoder)
    done = calibrate(loaded, batches, 2, Fit(rank=4, updates=20, candidates=2))
    loaded = loaded.calibrated(done)
    held = errors(loaded.model, batches[-2:], done.depth)[0]
    assert done.error == pytest.approx(held, rel=0.1)
    assert held < errors(loaded.model, batches[-2:], DepthConfig(steps=2, solver="euler"))[0]
    found = within_error(loaded, batches * 8, [done.depth], min(0.99, 2 * held))
    assert "relative error" in found.reason
    with pytest.raises(UserError, match=r"max_error = 0.0001 cannot be promised .*relative error"):
        within_error(loaded, batches, [done.depth], 1e-4)


def test_an_encoder_goes_back_to_its_own_files(encoder, tmp_path):
    loaded = jaxode.load(encoder)
    again = jaxode.load(save_pretrained(loaded, tmp_path / "again"))
    np.testing.assert_array_equal(
        jaxode.encode_texts(again, LINES[:4]).vectors, jaxode.encode_texts(loaded, LINES[:4]).vectors
    )


@pytest.mark.deep
def test_bench_counts_texts_at_every_depth(infer, encoder, lines):
    fit = ("--checkpoint", encoder, "--file", lines, "--batch-size", 4, "--task", "calibrate", "--steps", 2)
    assert infer(*fit).code == 0
    ran = infer("--checkpoint", encoder, "--task", "bench", "--batch-size", 3)
    assert ran.code == 0, ran.err
    rows = [row.split() for row in ran.out.splitlines()[2:]]
    assert [row[:4] for row in rows] == [["full", "euler", "3", "24"], ["2", "calibrated", "3", "24"]]
    assert 'prompt = "a"' in infer("--checkpoint", encoder, "--task", "bench", "--prompt", "a").err
    drawn = infer("--checkpoint", encoder, "--task", "bench", "--temperature", 0).err
    assert f"temperature = 0.0 with task = bench: {encoder} continues no text; leave it out" in drawn


@pytest.fixture(params=["token_classifier", "question_answering"])
def labelled(request, run, exported, lively, tmp_path):
    spans = request.param == "question_answering"
    model = lively(TokenClassifier(run.config.model, 2 if spans else 3, spans=spans, rngs=nnx.Rngs(0)))
    tokenizer, source = from_pretrained(exported).tokenizer, {"id2label": {"0": "O", "1": "PER", "2": "LOC"}}
    parts = (run.config, tokenizer, request.param, {} if spans else source, exported)
    return save_pretrained(Pretrained(model, *split(model), *parts), tmp_path / "labelled")


@pytest.mark.broad
def test_heads_that_read_every_token(infer, labelled, lines, tmp_path):
    loaded = jaxode.load(labelled)
    spans = loaded.task == "question_answering"
    assert loaded.labels == (() if spans else ("O", "PER", "LOC"))
    ids = jnp.asarray([loaded.own_tokenizer.encode(LINES[0], frame=True)], jnp.int32)
    out, head = loaded.model(ids), "span" if spans else "classifier"
    kernel, bias = loaded.params[f"head.{head}.kernel"], loaded.params[f"head.{head}.bias"]
    np.testing.assert_allclose(out.logits, out.state @ kernel + bias, rtol=1e-4, atol=1e-5)
    again = jaxode.load(save_pretrained(loaded, tmp_path / "again"))
    np.testing.assert_array_equal(again.model(ids).logits, out.logits)
    assert (again.task, again.labels) == (loaded.task, loaded.labels)
    about = ("--checkpoint", labelled, "--file", lines)
    ran = infer(*about, "--task", "calibrate", "--steps", 2)
    assert ran.code == 0, ran.err
    ran = infer(*about, "--task", "encode", "--out", tmp_path / "v.npz", "--steps", 2)
    assert "steps 2 (calibrated): 2 block evaluations" in ran.err
    task = "encode" if spans else "classify"
    assert f"use task {task}" in infer("--checkpoint", labelled, "--prompt", "a").err


def test_exits_by_predictions_of_tokens_but_not_of_spans(labelled):
    loaded = jaxode.load(labelled)
    ids = jnp.asarray([loaded.own_tokenizer.encode(LINES[0], frame=True)], jnp.int32)
    assert jaxode.exit_early(loaded, ids, jaxode.StateChange(0.0)).steps.tolist() == [[4] * ids.shape[1]]
    rule = jaxode.Confidence(0.0)
    if loaded.task == "question_answering":
        with pytest.raises(UserError, match="where an answer begins and ends is no choice"):
            jaxode.exit_early(loaded, ids, rule)
    else:
        assert jaxode.exit_early(loaded, ids, rule).steps.tolist() == [[1] * ids.shape[1]]


@pytest.mark.parametrize(("classes", "spans"), [(1, False), (3, True)])
def test_as_many_outputs_as_there_can_be(run, classes, spans):
    with pytest.raises(UserError, match=f"classes = {classes}, spans = {spans}"):
        TokenClassifier(run.config.model, classes, spans=spans, rngs=nnx.Rngs(0))
