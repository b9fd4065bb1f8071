"""A small corpus on disk and a cache of its own for each test."""

from pathlib import Path

import pytest

from jaxode.config import DataConfig
from jaxode.data import Tokenizer, train_bpe

WORDS = [
    "the",
    "quick",
    "brown",
    "fox",
    "jumps",
    "over",
    "the",
    "lazy",
    "dog",
    "while",
    "seven",
    "wizards",
    "mix",
    "potions",
]


def document(i: int) -> str:
    """Some 40 words that differ from document to document."""
    return f"Document {i}.\n" + " ".join(WORDS[(i * 7 + j * j) % len(WORDS)] for j in range(40)) + "\n"


@pytest.fixture
def corpus(tmp_path: Path) -> DataConfig:
    """Forty one-document files and a cache folder."""
    folder = tmp_path / "texts"
    folder.mkdir()
    for i in range(40):
        (folder / f"{i:02}.txt").write_text(document(i), encoding="utf-8")
    return DataConfig(files=str(folder / "*.txt"), cache=str(tmp_path / "cache"), vocab_size=320, valid_fraction=0.2)


@pytest.fixture(scope="session")
def bpe() -> Tokenizer:
    """A vocabulary of 300 entries."""
    return train_bpe((document(i) for i in range(20)), 300)
