"""Tiny ALBERTs as Hugging Face folders whose tokenizer is a BERT's over vocab.txt, or the pieces of spiece.model."""

import json
import struct
from pathlib import Path

from flax import nnx

from jaxode import Config, ModelConfig, SequenceClassifier, make_model, save_pretrained
from jaxode.interop import Pretrained
from jaxode.model.parameters import split

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad", "film", "dull", "cat")
FORM = ModelConfig(
    kind="masked",
    vocab_size=len(WORDS),
    width=16,
    heads=2,
    length=24,
    steps=4,
    embedding_width=8,
    token_types=2,
    norm_position="post",
    positions="learned",
    embedding_norm=True,
    feed_forward="gelu",
    head_activation="gelu",
)
# kinds of pieces
NORMAL, UNKNOWN, CONTROL, GIVEN = 1, 2, 3, 4


def write(folder, classes=0, **fields):
    """A masked model, or a classifier of so many outputs; `fields` stand in its config.json."""
    problem_type = fields.get("problem_type") or ("regression" if classes == 1 else "single_label_classification")
    model = make_model(FORM)
    if classes:
        model = SequenceClassifier(FORM, classes, problem_type=problem_type, rngs=nnx.Rngs(0))
    architecture, params = split(model)
    params = {name: 5 * value for name, value in params.items()}
    task = "classifier" if classes else "masked"
    save_pretrained(
        Pretrained(model, architecture, params, Config(model=FORM), None, task, fields, Path("nowhere")), folder
    )
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))
    return folder


def spiece(*words):
    """The bytes of a SentencePiece model: an ALBERT's special pieces, then (text, score, kind)."""
    special = [("<pad>", 0, CONTROL), ("<unk>", 0, UNKNOWN), *((name, 0, CONTROL) for name in WORDS[2:5])]
    pieces = b"".join(
        _field(
            1, _field(1, text.encode()) + _number(2 << 3 | 5) + struct.pack("<f", score) + _number(3 << 3) + _number(k)
        )
        for text, score, k in (*special, *words)
    )
    unigram, unknown = _number(3 << 3) + _number(1), _number(40 << 3) + _number(1)
    return pieces + _field(2, unigram + unknown) + _field(3, _field(1, b"nmt_nfkc"))


def rewrite(folder, **changes):
    """config.json with other fields; None leaves one out."""
    path = folder / "config.json"
    raw = {name: value for name, value in (json.loads(path.read_text()) | changes).items() if value is not None}
    path.write_text(json.dumps(raw))


def _number(n):
    out = b""
    while True:
        n, low = n >> 7, n & 127
        out += bytes([low | (128 if n else 0)])
        if not n:
            return out


def _field(tag, payload):
    return _number(tag << 3 | 2) + _number(len(payload)) + payload
