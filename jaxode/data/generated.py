"""Texts that a plug-in's function gives, dealt out to the splits and kept in the cache. Imports no jax."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from jaxode.config import DataConfig, require
from jaxode.data.documents import Document
from jaxode.data.splitting import HeldOut
from jaxode.data.stores import FORMAT, make_folder, write_documents
from jaxode.plugins import loaded

TextsOf = Callable[[DataConfig], Iterable[str]]


def generated_texts(texts_of: TextsOf, data: DataConfig, cache: Path, progress: bool) -> tuple[str, Path]:
    """A fingerprint of the corpus, and the folder that holds its documents.

    The function runs twice: a first pass only decides the split, so that no text is held.

    Raises:
        UserError: less than two texts, a document that is none, or other texts the second time.
    """
    name = f'data.corpus = "{data.corpus}"'
    fingerprint = _fingerprint(data)

    def documents(doing: str) -> Iterator[Document]:
        bar = tqdm(texts_of(data), desc=doing, unit="text", disable=None if progress else True, leave=False)
        for number, text in enumerate(bar):
            require(isinstance(text, str), f"{name}: gives {type(text).__name__} as text {number}; must be str")
            yield Document(text, f"{data.corpus}#{number}")

    def dealt_out() -> Iterator[tuple[str, Document]]:
        first, second = hashlib.sha256(), hashlib.sha256()
        held_out = HeldOut.of(_sources(documents("looking through"), first), data.valid_fraction)
        require(
            held_out.documents > 1,
            f"{name}: gives {held_out.documents} texts; one at least to train and one to validate on",
        )
        for document in documents("reading"):
            _add(second, document)
            yield "validation" if document.source in held_out else "train", document
        require(
            first.digest() == second.digest(),
            f"{name}: gives other texts when it is read again; draw from a fixed seed",
        )

    folder = make_folder(
        cache / "documents" / f"{data.corpus}-{fingerprint}", lambda folder: write_documents(folder, dealt_out())
    )
    return fingerprint, folder


def _sources(documents: Iterable[Document], digest: Any) -> Iterator[str]:
    for document in documents:
        _add(digest, document)
        yield document.source


def _add(digest: Any, document: Document) -> None:
    digest.update(hashlib.sha256(document.text.encode()).digest())


def _fingerprint(data: DataConfig) -> str:
    """Of the code, the settings that it may read, and the files below `data.root`."""
    code = next(plugin.sha256 for plugin in loaded() if ("corpus", data.corpus) in plugin.parts)
    root = Path(data.root).expanduser() if data.root else None
    require(root is None or root.is_dir(), f"data.root = {data.root}: no such folder")
    below = sorted(path for path in root.rglob("*") if path.is_file()) if root else []
    listing = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in below]
    options = [FORMAT, code, data.separator, data.text_key, data.valid_fraction, listing]
    return hashlib.sha256(json.dumps(options).encode()).hexdigest()[:16]
