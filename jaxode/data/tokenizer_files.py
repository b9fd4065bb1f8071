"""The files of a Hugging Face tokenizer, and a folder of them in the form that transformers reads. Imports no jax."""

from __future__ import annotations

import codecs
import importlib.util
import json
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tokenizers as hf
from tokenizers import models, normalizers

from jaxode.config.parsing import parse_json

SPIECE, VOCABULARY, UNIGRAM = "spiece.model", "vocab.txt", "tokenizer.json"
CHAT_TEMPLATE = "chat_template.jinja"
"""Beside tokenizer_config.json, which held it before."""
TOKENIZER_CONFIG, MODEL_CONFIG = "tokenizer_config.json", "config.json"
TOKENIZER_FILES = (
    UNIGRAM,
    TOKENIZER_CONFIG,
    "special_tokens_map.json",
    "added_tokens.json",
    SPIECE,
    VOCABULARY,
    "vocab.json",
    "merges.txt",
)
"""What a tokenizer may come from; the folder of a model holds some of them."""
_ALBERT = ("AlbertTokenizer", "AlbertTokenizerFast")
_NO_VOCABULARY = "Couldn't instantiate the backend tokenizer"
_SMALL = (".json", ".txt", ".model", ".jinja")


@contextmanager
def readable(folder: Path) -> Iterator[Path]:
    """The folder itself, or a copy of what it holds besides weights with what transformers cannot read put right.

    A byte order mark at the beginning of a file is left out, spiece.model of an ALBERT without tokenizer.json is
    written as one, a folder whose name is no UTF-8 is read under another, and of the config.json of a model that
    transformers lacks only the tokenizer's class is left: it would take the rest for fields of its own.
    """
    marked = any(_begins_with_mark(path) for path in folder.iterdir())
    pieces = _is_albert(folder) and (folder / SPIECE).is_file() and not (folder / UNIGRAM).exists()
    foreign = _is_foreign(folder)
    if not (marked or pieces or foreign or _is_odd(folder)):
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="jaxode-tokenizer-") as aside:
        copy = Path(aside)
        for path in folder.iterdir():
            if path.suffix in _SMALL and path.is_file() and not _is_odd(path.name):
                (copy / path.name).write_bytes(without_mark(path.read_bytes()))
        if pieces:
            unigram(folder / SPIECE).save(str(copy / UNIGRAM))
        if foreign:
            named = tokenizer_class(folder) or ("PreTrainedTokenizerFast" if (folder / UNIGRAM).exists() else None)
            (copy / MODEL_CONFIG).write_text(json.dumps({"tokenizer_class": named}), encoding="utf-8")
        yield copy


def without_mark(content: bytes) -> bytes:
    """A file's content without a byte order mark at its beginning, as editors under Windows write it."""
    return content.removeprefix(codecs.BOM_UTF8)


def tokenizer_class(folder: Path) -> str | None:
    """The class that tokenizer_config.json or else config.json names; None where neither does."""
    for name in (TOKENIZER_CONFIG, MODEL_CONFIG):
        named = _fields(folder / name).get("tokenizer_class")
        if isinstance(named, str) and named:
            return named
    return None


def unigram(path: Path) -> hf.Tokenizer:
    """The pieces of a SentencePiece model (Kudo and Richardson 2018) and its table of characters, as a Unigram one.

    As in the tokenizer.json of published ALBERTs: a number before a comma is a piece of its own, and pieces that the
    model's trainer was given are pieces like others. As added tokens, which is what transformers makes of them, they
    would part a text before it is cut: "(world)" would be read as "( world)".
    """
    from transformers.convert_slow_tokenizer import check_number_comma, import_protobuf

    messages: Any = import_protobuf()
    model = messages.ModelProto()
    model.ParseFromString(path.read_bytes())
    pieces = [
        (piece.piece, piece.score if check_number_comma(piece.piece) else piece.score - 100) for piece in model.pieces
    ]
    tokenizer = hf.Tokenizer(models.Unigram(pieces, unk_id=model.trainer_spec.unk_id))
    if model.normalizer_spec.precompiled_charsmap:
        table = normalizers.Precompiled(model.normalizer_spec.precompiled_charsmap)
        tokenizer.normalizer = table  # pyright: ignore[reportAttributeAccessIssue]
    return tokenizer


@contextmanager
def quiet() -> Iterator[None]:
    """Without the paragraphs that transformers writes to standard error, and its warnings about fields of old files."""
    from transformers import logging

    before = logging.get_verbosity()
    logging.set_verbosity(100)  # above all levels
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(before)


def reason(error: BaseException) -> str:
    """Why a tokenizer could not be read, in one line."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
    # without the package transformers takes a SentencePiece model for one of tiktoken, and asks for that
    speaks = any(package in line.lower() for package in ("sentencepiece", "tiktoken", "protobuf"))
    if speaks and importlib.util.find_spec("sentencepiece") is None:
        return 'its SentencePiece model needs a package: pip install "jaxode[sentencepiece]"'
    return "none of its files holds a vocabulary that its class reads" if line.startswith(_NO_VOCABULARY) else line


def _is_albert(folder: Path) -> bool:
    named = tokenizer_class(folder)
    return named in _ALBERT if named else _fields(folder / MODEL_CONFIG).get("model_type") == "albert"


def _is_foreign(folder: Path) -> bool:
    from transformers import CONFIG_MAPPING

    kind = _fields(folder / MODEL_CONFIG).get("model_type")
    return isinstance(kind, str) and kind not in CONFIG_MAPPING


def _fields(path: Path) -> dict[str, Any]:
    """Of a JSON object; none where there is no such file, or a damaged one: whoever needs it says so."""
    try:
        found = parse_json(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _begins_with_mark(path: Path) -> bool:
    if path.suffix not in _SMALL or not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(3) == codecs.BOM_UTF8


def _is_odd(name: Path | str) -> bool:
    """Whether a name holds bytes that are no UTF-8, which the Rust side cannot open."""
    try:
        str(name).encode()
    except UnicodeEncodeError:
        return True
    return False
