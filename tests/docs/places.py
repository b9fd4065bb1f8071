"""What stands in a scratch folder under the names that pages use for a reader's own files and models."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from commands import ROOT
from families import CASES
from flax import nnx
from looped_folder import write_tokenizer
from running import call
from scaled import BRIEF, TINY

from jaxode import Config, Encoder, ModelConfig, SequenceClassifier, save_pretrained
from jaxode.interop import Pretrained
from jaxode.model.parameters import split

WORDS = ("the", "old", "man", "sat", "by", "a", "window", "and", "looked", "out", "over", "sea", "good", "bad")
TEXTS = [" ".join(WORDS[(i * j + j) % len(WORDS)] for j in range(3 + i % 9)) for i in range(240)]
LABELS = ("bad", "good")
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "$")
ALBERT = {
    "kind": "masked",
    "width": 16,
    "heads": 2,
    "length": 128,
    "steps": 12,
    "embedding_width": 8,
    "token_types": 2,
    "norm_position": "post",
    "positions": "learned",
    "embedding_norm": True,
    "feed_forward": "gelu",
    "head_activation": "gelu",
}

Maker = Callable[[Path], object]


def folder_of_texts(path: Path) -> None:
    """Pages of this project, which are enough text for a vocabulary."""
    path.mkdir(parents=True)
    for page in sorted(ROOT.glob("docs/*.md")):
        shutil.copy(page, path)


def lines(path: Path) -> None:
    path.write_text("\n".join(TEXTS) + "\n")


def table(*columns: str, comma: str = "\t") -> Maker:
    """A header, then texts and a label in turn."""

    def make(path: Path) -> None:
        rows = [[*[text] * (len(columns) - 1), LABELS[i % 2]] for i, text in enumerate(TEXTS[:48])]
        path.write_text("\n".join(comma.join(row) for row in (columns, *rows)) + "\n")

    return make


def tagged(path: Path) -> None:
    kinds = {"man": "B-PER", "sea": "B-LOC"}
    sentences = ("\n".join(f"{word} {kinds.get(word, 'O')}" for word in text.split()) for text in TEXTS[:48])
    path.write_text("\n\n".join(sentences) + "\n")


def parquet(path: Path) -> None:
    path.mkdir(parents=True)
    pq.write_table(pa.table({"text": TEXTS}), path / "a.parquet")


def zipped(path: Path) -> None:
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps({"body": text}) + "\n" for text in TEXTS)


def books(path: Path) -> None:
    path.mkdir(parents=True)
    text = "".join(page.read_text(encoding="utf-8") for page in sorted(ROOT.glob("docs/*.md")))
    for name in ("train-0.txt", "valid.txt"):
        (path / name).write_text("\n<|endofbook|>\n".join((text[: len(text) // 2], text[len(text) // 2 :])))


def wikitext(path: Path) -> None:
    path.mkdir(parents=True)
    for name in ("train.txt", "valid.txt", "test.txt"):
        articles = (f" = Article {i} = \n\n {' '.join(TEXTS[i : i + 40])} \n" for i in range(0, 200, 10))
        (path / name).write_text("\n".join(articles))


def albert(classes: int = 0) -> Maker:
    """Tiny, N = 12, its words spelled; a classifier of so many labels, or bare."""

    def make(path: Path) -> None:
        vocabulary = [*SPECIAL, *"abcdefghijklmnopqrstuvwxyz", *(f"##{x}" for x in "abcdefghijklmnopqrstuvwxyz")]
        form = ModelConfig(vocab_size=len(vocabulary), **ALBERT)
        model = SequenceClassifier(form, classes, rngs=nnx.Rngs(0)) if classes else Encoder(form, rngs=nnx.Rngs(0))
        named = {"id2label": dict(enumerate(LABELS))} if classes else {}
        task = "classifier" if classes else "encoder"
        made = Pretrained(model, *split(model), Config(model=form), None, task, named, Path("nowhere"))
        save_pretrained(made, path)
        (path / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
        (path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))

    return make


def plbert(path: Path) -> None:
    albert()(path)
    for name in ("phonemes-more.txt", "phonemes-train.txt", "phonemes-valid.txt"):
        lines(path / name)


def trained(kind: str = "causal", killed: bool = False) -> Maker:
    """A run of two updates; killed after the first of them."""

    def make(path: Path) -> None:
        flags = (
            f"--data.files docs/questions --model.kind {kind} {TINY} {BRIEF} --train.checkpoint-every 1 --out {path}"
        )
        assert call("train.py", flags.split()) == 0
        if killed:
            shutil.rmtree(path / "checkpoints" / "2")

    return make


def looped(family: str) -> Maker:
    return lambda path: write_tokenizer(CASES[family].write(path))


def recipe(path: Path) -> None:
    shutil.copy(ROOT / "configs" / "stdlib.toml", path)


PLACES: dict[str, Maker] = {
    "notes": folder_of_texts,
    "code": folder_of_texts,
    "wiki": parquet,
    "fineweb-edu/sample": parquet,
    "corpus.jsonl.gz": zipped,
    "DATA/books": books,
    "DATA/wikitext-2": wikitext,
    "DATA/plbert": plbert,
    "TEXT": lines,
    "TEXTS": lines,
    "TRAIN": lines,
    "VALID": lines,
    "texts.txt": lines,
    "sentences.txt": lines,
    "ABOUT.md": lines,
    "texts.tsv": table("text", "id"),
    "train.tsv": table("text", "label"),
    "dev.tsv": table("text", "label"),
    "test.tsv": table("text", "label"),
    "dev.csv": table("Satz", "Art", comma=","),
    "rte.tsv": table("sentence1", "sentence2", "label"),
    "train.conll": tagged,
    "CONFIG": recipe,
    "runs/NAME": trained(),
    "MODEL": trained(),
    "RUN": trained(),
    "ALBERT": albert(),
    "ENCODER": albert(),
    "FOLDER": looped("ouro"),
    "ByteDance/Ouro-1.4B": looped("ouro"),
    "tomg-group-umd/huginn-0125": looped("huginn"),
    "sapientinc/HRM-Text-1B": looped("hrm_text"),
}
"""By name; a page finds those that it names. A folder goes before a shipped model or a hub's model of its name."""

PLACES_OF = {
    "docs/evaluation.md": {"ALBERT": albert(2)},
    "docs/decoding.md": {"ALBERT": albert(2)},
    "docs/fine-tuning.md": {"books-masked": trained("masked")},
    "docs/reliability.md": {"RUN": trained(killed=True)},
    "docs/solvers.md": {"runs/books-causal-small-12": trained()},
    "docs/training.md": {"runs/NAME": trained(killed=True)},
}
"""What a name means on one page alone."""
