"""What a corpus name means: its documents, split into training and validation, as TFDS data sources. Imports no jax."""

from __future__ import annotations

import difflib
import hashlib
import inspect
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from tqdm import tqdm

from jaxode.config import DataConfig, UserError, require
from jaxode.config.task import TASKS_PREFIX
from jaxode.data.documents import PARQUET, Document, read_documents, read_text, suffix
from jaxode.data.files import matching, named_splits, once
from jaxode.data.generated import TextsOf, generated_texts
from jaxode.data.notices import notice
from jaxode.data.parquet import check_parquet
from jaxode.data.registered import first_line, is_registered, registered_names, registered_set, unreadable
from jaxode.data.splitting import EqualTexts, HeldOut, score
from jaxode.data.stdlib import stdlib_documents, stdlib_files, stdlib_folder
from jaxode.data.stores import FORMAT, SPLITS, make_folder, read, write_documents
from jaxode.data.tasks import find_task, task_documents, task_examples
from jaxode.plugins import HOW, Table

NAMED = ("stdlib", "files", "wikitext-2", "books", "tinyshakespeare")

Reader = Callable[[Path, str], Iterator[Document]]


class Texts(Sequence[str]):
    """The texts of one split, read from `folder` one by one; `sources` says that the examples name theirs."""

    def __init__(self, examples: Sequence[dict[str, Any]], folder: Path, key: str = "text", sources: bool = False):
        self._examples, self._folder, self._key, self._sources = examples, folder, key, sources

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, i: Any) -> Any:
        if isinstance(i, slice):
            return self._several(range(*i.indices(len(self))))
        if not -len(self) <= i < len(self):
            raise IndexError(i)
        return self._bytes(i % len(self), self._key).decode()

    def source(self, i: int) -> str:
        """Where text `i` comes from: its file and its number within it, from 0; else its number within the split."""
        return self._bytes(i, "source").decode() if self._sources else f"document {i + 1}"

    def _several(self, places: range) -> list[str]:
        read = getattr(self._examples, "__getitems__", None)
        if read is None or not places:
            return [self[i] for i in places]
        try:
            examples = read(places)
        except (RuntimeError, IndexError, TypeError):
            # whichever text it is, by itself it is named
            return [self[i] for i in places]
        return [example[self._key].decode() for example in examples]

    def _bytes(self, i: int, key: str) -> bytes:
        remedy = "remove the folder, so that it is prepared anew"
        try:
            value = self._examples[i][key]
        except RuntimeError as error:  # array_record's word for a damaged file
            raise UserError(f"{self._folder}: damaged ({first_line(error)}); {remedy}") from None
        # and for a record that a file no longer holds it gives nothing
        require(value is not None, f"{self._folder}: damaged (text {i + 1} is missing); {remedy}")
        return value


@dataclass(frozen=True)
class Corpus:
    """Documents by split; equal fingerprints mean equal documents in equal order."""

    name: str
    fingerprint: str
    train: Texts
    validation: Texts


Opener = Callable[[DataConfig, Path, bool], Corpus]
"""(settings, cache folder, whether to show progress) -> the corpus, read into the cache at the first call."""


@dataclass(frozen=True)
class _Files:
    """A corpus of local files before it is read: (path, name) of every file, by split; one entry where we hold out."""

    splits: dict[str, list[tuple[Path, str]]]
    read: Reader


def open_corpus(data: DataConfig, cache: Path, progress: bool = False) -> Corpus:
    """Open the corpus that `data` names, reading its files into the cache at the first call.

    Raises:
        UserError: unknown name, missing folder, no matching file, or a file that cannot be used.
    """
    if data.asks:
        return _open_task(data, cache)
    return CORPORA.get(data.corpus, _open_tfds)(data, cache, progress)


def _open_files(data: DataConfig, cache: Path, progress: bool) -> Corpus:
    """Local files, each of one document or of several."""
    files = _local_files(data)
    fingerprint = _fingerprint(data, files)

    def fill(folder: Path) -> None:
        write_documents(folder, _split_documents(data, files, progress))

    folder = make_folder(cache / "documents" / f"{data.corpus}-{fingerprint}", fill)
    train, validation = (Texts(read(folder, split), folder, sources=True) for split in SPLITS)
    return Corpus(data.corpus, fingerprint, train, validation)


def _fit(name: str, part: Any) -> Opener:
    """A plug-in's: a function from the settings to texts."""
    texts_of: TextsOf = part
    require(callable(part) and not isinstance(part, type), f"{part!r}: must be a function of (data) that gives texts")
    try:
        inspect.signature(part).bind(None)
    except TypeError as error:
        raise UserError(f"{part!r}: is called with (data), which it does not take ({error})") from None
    require(not is_registered(name), f'"{name}" is a TFDS text set; choose another name')

    def open_texts(data: DataConfig, cache: Path, progress: bool) -> Corpus:
        fingerprint, folder = generated_texts(texts_of, data, cache, progress)
        train, validation = (Texts(read(folder, split), folder, sources=True) for split in SPLITS)
        return Corpus(data.corpus, fingerprint, train, validation)

    return open_texts


CORPORA = Table[Opener]("corpus", "data.corpus", dict.fromkeys(NAMED, _open_files), _fit, reserved=("mixture",))
"""By name; tasks/NAME and the sets that TFDS knows have names of their own."""


def _open_task(data: DataConfig, cache: Path) -> Corpus:
    """Questions drawn for training, and a share of them for validation."""
    task, told = find_task(data.corpus.removeprefix(TASKS_PREFIX), "data.corpus"), data.task
    difficulties = task.difficulties(told.difficulty, "data.task.difficulty")
    drawn = [asdict(question) for d in difficulties for question in task_examples(task, d, 2, 0, 0.5, held_out=False)]
    # some questions as well: a task that draws others than it did has other texts
    options = [FORMAT, task.name, drawn, difficulties, told.examples, told.seed, data.valid_fraction]
    fingerprint = _hash(json.dumps(options))

    def make(held_out: bool) -> Iterator[Document]:
        count = max(1, round(told.examples * data.valid_fraction)) if held_out else told.examples
        return task_documents(task, difficulties, count, told.seed, data.valid_fraction, held_out)

    def fill(folder: Path) -> None:
        write_documents(folder, ((split, text) for split in SPLITS for text in make(split == "validation")))

    folder = make_folder(cache / "documents" / f"{task.name}-{fingerprint}", fill)
    train, validation = (Texts(read(folder, split), folder, sources=True) for split in SPLITS)
    return Corpus(data.corpus, fingerprint, train, validation)


def _local_files(data: DataConfig) -> _Files:
    def read_plain(path: Path, source: str) -> Iterator[Document]:
        return read_documents(path, source, data.separator, data.text_key, data.lines)

    def read_books(path: Path, source: str) -> Iterator[Document]:
        return read_documents(path, source, separator="<|endofbook|>")

    if data.corpus == "stdlib":
        folder = stdlib_folder()
        paths = stdlib_files(folder)
        return _Files({"all": [(path, path.relative_to(folder).as_posix()) for path in paths]}, stdlib_documents)
    if data.corpus == "files":
        files = matching(data.files)
        for path, _ in files:
            if suffix(path) == PARQUET:
                check_parquet(path, data.text_key)
        return _Files(named_splits(data.files, files), read_plain)
    folder = _root(data) / data.corpus
    if data.corpus == "tinyshakespeare":
        return _Files({"all": _in_folder(folder, "input.txt")}, read_plain)
    if data.corpus == "wikitext-2":
        splits = {"train": _in_folder(folder, "train.txt"), "validation": _in_folder(folder, "valid.txt")}
        return _Files(splits, _read_articles)
    splits = {"train": _in_folder(folder, "train-*.txt"), "validation": _in_folder(folder, "valid.txt")}
    return _Files(splits, read_books)


def _root(data: DataConfig) -> Path:
    root = data.root or os.environ.get("JAXODE_DATA", "")
    require(
        bool(root),
        f'data.corpus = "{data.corpus}" needs data.root (or the variable JAXODE_DATA): the folder of {data.corpus}/',
    )
    folder = Path(root).expanduser()
    require(folder.is_dir(), f"data.root = {root}: no such folder; it must hold {data.corpus}/")
    return folder


def _in_folder(folder: Path, pattern: str) -> list[tuple[Path, str]]:
    require(folder.is_dir(), f"{folder}: no such folder; data.root must hold it")
    paths = sorted(folder.glob(pattern))
    require(len(paths) > 0, f"{folder / pattern}: no such file")
    kept = sorted(map(Path, once(str(folder / pattern), map(str, paths))))
    return [(path, path.name) for path in kept]


def _read_articles(path: Path, source: str) -> Iterator[Document]:
    """WikiText: an article begins at a heading ` = Title = ` between blank lines (not at ` = = Sub = = `)."""
    whole = read_text(path)
    require(bool(whole.strip()), f"{path}: the file holds no text; fetch it again")
    lines = whole.splitlines(keepends=True)
    # the blank lines matter: table legends such as ` = Wins ; L = ` look like titles
    starts = [
        i
        for i, line in enumerate(lines)
        if re.fullmatch(r" = (?!= ).*(?<! =) = ?\n?", line)
        and not "".join(lines[max(i - 1, 0) : i] + lines[i + 1 : i + 2]).strip()
    ]
    for number, (a, b) in enumerate(zip([0, *starts[1:]], [*starts[1:], len(lines)], strict=True)):
        yield Document("".join(lines[a:b]), f"{source}#{number}")


def _fingerprint(data: DataConfig, files: _Files) -> str:
    listing = [
        (split, name, str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns)
        for split, pairs in files.splits.items()
        for path, name in pairs
    ]
    options = (FORMAT, data.corpus, data.separator, data.text_key, data.valid_fraction, *(["lines"] * data.lines))
    return _hash(json.dumps([options, listing]))


def _hash(name: str) -> str:
    # the bytes, since a file's name need not be text
    return hashlib.sha256(os.fsencode(name)).hexdigest()[:16]


def _split_documents(data: DataConfig, files: _Files, progress: bool) -> Iterator[tuple[str, Document]]:
    """Every document with its split, in order; no text is held."""
    if "all" not in files.splits:
        for split in SPLITS:
            yield from ((split, document) for document in _read_all(files, split, f"reading {split}", progress))
        return

    def documents(doing: str) -> Iterator[Document]:
        return _read_all(files, "all", doing, progress)

    # a first pass only decides the split, and meets every bad file
    equal = EqualTexts()
    held_out = HeldOut.of(_sources(documents("looking through"), equal, data.valid_fraction), data.valid_fraction)
    if held_out.documents == 1:
        yield from _parts(next(documents("reading")), data.valid_fraction)
        return
    if not held_out.by_hash:
        equal = EqualTexts()
        for document in documents("looking through"):
            equal.add(document.text, document.source in held_out)
    if data.corpus == "files" and (note := equal.note()):
        notice(note)
    for document in documents("reading"):
        yield "validation" if document.source in held_out else "train", document


def _sources(documents: Iterable[Document], equal: EqualTexts, fraction: float) -> Iterator[str]:
    for document in documents:
        equal.add(document.text, score(document.source) < fraction)
        yield document.source


def _read_all(files: _Files, split: str, doing: str, progress: bool) -> Iterator[Document]:
    """The documents of all files; a bar counts bytes of the files."""
    sizes = [path.stat().st_size for path, _ in files.splits[split]]
    finished, characters = 0, 0
    with tqdm(
        total=sum(sizes), desc=doing, unit="B", unit_scale=True, disable=None if progress else True, leave=False
    ) as bar:
        for (path, name), size in zip(files.splits[split], sizes, strict=True):
            # how far a reader is in its file is told by its texts, at the rate of the files before
            rate = finished / characters if characters else 1.0
            inside = 0
            for document in files.read(path, name):
                yield document
                inside += len(document.text)
                bar.update(finished + min(size, round(inside * rate)) - bar.n)
            finished, characters = finished + size, characters + inside
            bar.update(finished - bar.n)


def _parts(document: Document, fraction: float) -> Iterator[tuple[str, Document]]:
    """The first lines of an only document for training, the last ones for validation."""
    lines = document.text.splitlines(keepends=True)
    # one long line is cut between characters
    pieces = lines if len(lines) > 1 else document.text
    require(len(pieces) > 1, f"{document.source}: the corpus is one character; nothing is left to validate on")
    cut = min(max(round(len(pieces) * (1 - fraction)), 1), len(pieces) - 1)
    for split, part in (("train", pieces[:cut]), ("validation", pieces[cut:])):
        yield split, Document("".join(part), f"{document.source}:{split}")


def _open_tfds(data: DataConfig, cache: Path, progress: bool) -> Corpus:
    """A registered TFDS text set; without a validation split, its test split or a share of train is validated on."""
    registered = registered_names()
    if not is_registered(data.corpus):
        near = difflib.get_close_matches(data.corpus, (*CORPORA, *registered), n=1, cutoff=0.5)
        raise UserError(
            f'data.corpus = "{data.corpus}": unknown; named corpora are {", ".join(CORPORA)}, tasks/NAME '
            f"is made by the program, a plug-in brings others ({HOW}), any other name is a "
            f"TFDS text set (lm1b, wiki40b/en, ...){f'; did you mean {near[0]!r}?' if near else ''}"
        )
    builder = registered_set(data.corpus, cache, "data.corpus", "use data.files", progress)
    features = builder.info.features
    features = dict(features.items()) if isinstance(features, tfds.features.FeaturesDict) else {}
    require(
        isinstance(features.get(data.text_key), tfds.features.Text),
        f'data.corpus = "{data.corpus}" has no text feature "{data.text_key}" (features: '
        f"{', '.join(features) or 'none'}); set data.text_key",
    )
    train, validation = _tfds_splits(builder, data)
    sizes = {name: info.num_examples for name, info in builder.info.splits.items()}
    key = _hash(json.dumps([FORMAT, builder.info.full_name, sizes, train, validation, data.text_key]))
    folder = Path(str(builder.data_path))
    try:
        texts = [Texts(builder.as_data_source(split), folder, data.text_key) for split in (train, validation)]  # pyright: ignore
    except Exception as error:
        raise unreadable(data.corpus, "data.corpus", folder, error) from None
    return Corpus(data.corpus, key, *texts)


def _tfds_splits(builder: tfds.core.DatasetBuilder, data: DataConfig) -> tuple[str, str]:
    splits = builder.info.splits
    require("train" in splits, f'data.corpus = "{data.corpus}" has no train split (splits: {", ".join(splits)})')
    for name in ("validation", "test"):
        if name in splits and splits[name].num_examples:
            return "train", name
    total = splits["train"].num_examples
    require(total > 1, f'data.corpus = "{data.corpus}" has {total} example; nothing is left to validate on')
    cut = min(max(round(total * (1 - data.valid_fraction)), 1), total - 1)
    return f"train[:{cut}]", f"train[{cut}:]"
