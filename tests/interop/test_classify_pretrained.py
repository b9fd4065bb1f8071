"""Texts labelled and scored by a Hugging Face ALBERT, framed by its tokenizer, as PyTorch labels them."""

import csv
import io
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxode import UserError, classify_texts, from_pretrained, score_texts
from jaxode.interop import class_names

TEXTS = ["one block", "a", "again and again", "time!"]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(TEXTS) + "\n")
    return path


def test_labels_have_the_names_of_the_config(classifier):
    assert class_names(classifier) == from_pretrained(classifier).labels == ("bad", "so, so", "good")
    assert from_pretrained(classifier, task="encoder").labels == ()
    path = classifier / "config.json"
    raw = json.loads(path.read_text())
    path.write_text(json.dumps(raw | {"id2label": {"0": "a", "2": "b", "1": "c"}}))
    assert class_names(classifier) == ("a", "c", "b")
    path.write_text(json.dumps(raw | {"id2label": {"1": "a", "2": "b", "3": "c"}}))
    with pytest.raises(UserError, match="id2label names 1, 2, 3: must name the labels 0 to 2"):
        class_names(classifier)
    path.write_text(json.dumps({k: v for k, v in raw.items() if k != "id2label"} | {"num_labels": 3}))
    assert class_names(classifier) == ("LABEL_0", "LABEL_1", "LABEL_2")


@pytest.mark.deep
def test_classify_writes_labels_and_probabilities(classifier, infer, file):
    ran = infer("--checkpoint", classifier, "--task", "classify", "--file", file, "--batch-size", 2)
    assert ran.code == 0, ran.err
    header, *rows = csv.reader(io.StringIO(ran.out))
    assert header == ["line", "label", "p(bad)", "p(so, so)", "p(good)"]
    found = from_pretrained(classifier)
    for number, (text, row) in enumerate(zip(TEXTS, rows, strict=True), start=1):
        tokens = jnp.asarray([found.tokenizer.encode(text, frame=True)])
        logits = found.model(tokens).logits[0]
        assert row[0] == str(number)
        assert row[1] == found.labels[int(logits.argmax())]
        assert [float(cell) for cell in row[2:]] == pytest.approx(np.asarray(jax.nn.softmax(logits)).tolist(), abs=1e-5)
    assert "texts/s: 4 texts, 4 rows" in ran.err
    assert ran.err.splitlines()[-1].startswith("steps 4 (euler): 4 block evaluations")
    half = infer("--checkpoint", classifier, "--task", "classify", "--file", file, "--steps", 2)
    assert half.err.splitlines()[-1].startswith("steps 2 (euler): 2 block evaluations")
    assert half.out != ran.out


@pytest.mark.parametrize(
    ("name", "content", "flags", "message"),
    [
        ("bare.tsv", "0\tgood film\n", (), "bare.tsv: it has the columns 1, 2 ("),
        ("pairs.txt", "one\n\none\ttwo\n", (), "pairs.txt: line 3 holds a tab: give one text a line"),
        ("a.tsv", "text\tlabel\na\tbad\nb\tworse\n", ("--label", "label"), 'line 3: label "worse"'),
        ("a.tsv", "text\tlabel\na\tbad\n", ("--label", "class"), "none that is called class"),
        ("a.tsv", "text\tlabel\na\tbad\n", ("--task", "encode", "--out", "x.npz"), "which only classify"),
    ],
)
def test_what_is_no_table_of_texts_is_refused(classifier, infer, tmp_path, name, content, flags, message):
    (tmp_path / name).write_text(content)
    ran = infer("--checkpoint", classifier, "--task", "classify", "--file", tmp_path / name, *flags)
    assert (ran.code, ran.out) == (2, "")
    assert "error: " in ran.err
    assert message in ran.err


def test_tables_are_labelled_as_their_texts(classifier, infer, file, tmp_path):
    plain = infer("--checkpoint", classifier, "--task", "classify", "--file", file)
    names = [row[1] for row in csv.reader(io.StringIO(plain.out))][1:]
    table = tmp_path / "texts.csv"
    with table.open("w", newline="") as out:
        csv.writer(out).writerows([("label", "Satz"), *((names[0], text) for text in TEXTS)])
    flags = ("--checkpoint", classifier, "--task", "classify", "--file", table, "--text", "Satz", "--label", "label")
    ran = infer(*flags)
    assert ran.code == 0, ran.err
    rows, expected = (list(csv.reader(io.StringIO(text))) for text in (ran.out, plain.out))
    assert [row[1:] for row in rows] == [row[1:] for row in expected]
    assert [row[0] for row in rows[1:]] == ["2", "3", "4", "5"]
    assert f"accuracy: {names.count(names[0]) / len(names):.4f}" in ran.err
    half = infer(*flags, "--steps", 2)
    assert half.out != ran.out
    assert "accuracy: " in half.err


def test_pairs_share_a_row(classifier, infer, tmp_path):
    path = classifier / "tokenizer.json"
    raw = json.loads(path.read_text())
    end = {"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}
    second = {"Sequence": {"id": "B", "type_id": 0}}
    raw["post_processor"]["pair"] = [*raw["post_processor"]["single"], second, end]
    path.write_text(json.dumps(raw))
    found = from_pretrained(classifier)
    table = tmp_path / "pairs.tsv"
    pairs = [("ab", "cde"), ("f", "g")]
    table.write_text("\n".join("\t".join(row) for row in [("sentence1", "sentence2"), *pairs]))
    ran = infer("--checkpoint", classifier, "--task", "classify", "--file", table)
    assert ran.code == 0, ran.err
    end_id, encode = found.tokenizer.end_id, found.tokenizer.encode
    for (first, other), row in zip(
        [("ab", "cde"), ("f", "g")], list(csv.reader(io.StringIO(ran.out)))[1:], strict=True
    ):
        tokens = jnp.asarray([[end_id, *encode(first), end_id, *encode(other), end_id]])
        probabilities = jax.nn.softmax(found.model(tokens).logits[0])
        assert [float(cell) for cell in row[2:]] == pytest.approx(np.asarray(probabilities).tolist(), abs=1e-5)


def test_a_file_of_another_editor_has_the_same_labels(classifier, infer, file):
    plain = infer("--checkpoint", classifier, "--task", "classify", "--file", file)
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes().replace(b"\n", b"\r\n"))
    assert infer("--checkpoint", classifier, "--task", "classify", "--file", file).out == plain.out != ""


def test_a_frame_is_context_and_not_predicted(exported, infer, file):
    found = from_pretrained(exported)
    ran = infer("--checkpoint", exported, "--task", "score", "--lines", "--file", file)
    assert ran.code == 0, ran.err
    _, *rows = csv.reader(io.StringIO(ran.out))
    assert [int(row[1]) for row in rows] == [len(text) for text in TEXTS]
    ids = found.tokenizer.encode(TEXTS[3], frame=True)
    nats = 0.0
    for place in range(1, len(ids) - 1):
        row = [*ids[:place], found.tokenizer.mask_id, *ids[place + 1 :]]
        nats -= float(jax.nn.log_softmax(found.model(jnp.asarray([row])).logits[0, place])[ids[place]])
    assert float(rows[3][2]) == pytest.approx(nats, rel=1e-5)
    bare = score_texts(found.architecture, found.params, found.tokenizer, TEXTS, frame=False)
    assert bare.scores[3].nats != pytest.approx(nats, rel=1e-3)


def test_a_model_for_another_task_is_refused(classifier, exported, infer, file):
    ran = infer("--checkpoint", exported, "--task", "classify", "--file", file)
    assert (ran.code, ran.out) == (2, "")
    assert f"{exported} has no classifier head" in ran.err
    ran = infer("--checkpoint", classifier, "--task", "score", "--lines", "--file", file)
    assert (ran.code, ran.out) == (2, "")
    assert "has no head over the vocabulary; it is a classifier: use task classify" in ran.err


def test_labels_are_those_of_pytorch(classifier):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AlbertForSequenceClassification.from_pretrained(classifier).eval()
    found = from_pretrained(classifier)
    rows = [found.tokenizer.encode(text, frame=True) for text in TEXTS]
    tokens = torch.full((len(rows), max(map(len, rows))), found.tokenizer.pad_id)
    mask = torch.zeros_like(tokens)
    for i, row in enumerate(rows):
        tokens[i, : len(row)], mask[i, : len(row)] = torch.tensor(row), 1
    with torch.no_grad():
        want = theirs(input_ids=tokens, attention_mask=mask).logits.softmax(-1).numpy()
    # of different certainty, so that a text in another's place would show
    assert np.ptp(want, axis=0).max() > 1e-3
    for batch_size in (1, 3, 32):
        done = classify_texts(
            found.architecture, found.params, found.tokenizer, TEXTS, frame=True, batch_size=batch_size
        )
        np.testing.assert_allclose([one.probabilities for one in done.classes], want, rtol=0, atol=1e-5)
        assert [one.label for one in done.classes] == want.argmax(-1).tolist()
