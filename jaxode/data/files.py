"""Which files `data.files` names: a file, a folder or a glob, each file once, however many names lead to it."""

from __future__ import annotations

import glob
import heapq
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from jaxode.config import UserError, require
from jaxode.data.documents import suffix, text_format
from jaxode.data.notices import notice

TEXT_SUFFIXES = (".txt", ".md", ".py", ".jsonl", ".ndjson", ".parquet")
"""What a folder is searched for; all but the last may end in .gz or .xz."""

_SPLITS = {
    "train": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
}
_SPLITS |= {"test": "test"}
_SPLIT = re.compile(rf"({'|'.join(_SPLITS)})(?![a-z])", re.IGNORECASE)


def split_of(name: str) -> str | None:
    """The split that a file's name or one of its folders begins with, as in train-00000-of-00012.parquet or
    dev/a.txt; None where none does.
    """
    matches = map(_SPLIT.match, reversed(name.split("/")))
    return next((_SPLITS[match[1].lower()] for match in matches if match), None)


def named_splits(pattern: str, pairs: Sequence[tuple[Path, str]]) -> dict[str, list[tuple[Path, str]]]:
    """The files (path, name) by split, train and validation, where their names tell both; else all of them as "all".

    Without files of validation those of test are validated on. One line says which files are left out.
    """
    named: dict[str | None, list[tuple[Path, str]]] = {}
    for pair in pairs:
        named.setdefault(split_of(pair[1]), []).append(pair)
    held_out = "validation" if "validation" in named else "test"
    if "train" not in named or held_out not in named:
        return {"all": list(pairs)}
    rest = [name for split, files in named.items() if split not in ("train", held_out) for _, name in files]
    some = (
        f"; left out are {len(rest)} others ({', '.join(sorted(rest)[:3])}{', ..' * (len(rest) > 3)})" if rest else ""
    )
    notice(
        f'data.files = "{pattern}": by their names {len(named["train"])} files are to train on, {len(named[held_out])} '
        f"({held_out}) to validate on{some}"
    )
    return {"train": named["train"], "validation": named[held_out]}


def matching(pattern: str) -> list[tuple[Path, str]]:
    """Path and name of every file that `pattern` names, sorted by name.

    A name is relative to the folder that all have in common, so that moving a corpus does not change its split.

    Raises:
        UserError: no file, or one that is no text.
    """
    place = os.path.expanduser(pattern)
    links: set[str] = set()
    if os.path.isfile(place):
        names = [place]
    elif os.path.isdir(place):
        names = _texts_below(place, pattern, links)
    else:
        names = _files(place, links)
        require(len(names) > 0, f'data.files = "{pattern}": no file matches; {_hint(pattern)}')
    paths = [Path(name) for name in once(f'data.files = "{pattern}"', names, links)]
    for path in paths:
        text_format(path)  # refuses tables now, and not after minutes of reading
    base = Path(os.path.commonpath([path.parent for path in paths]))
    return sorted(((path, path.relative_to(base).as_posix()) for path in paths), key=lambda pair: pair[1])


def exists(pattern: str) -> bool:
    """Whether a pattern names a file or a folder."""
    place = os.path.expanduser(pattern)
    return os.path.exists(place) or bool(_files(place, set()))


def once(what: str, names: Iterable[str], links: Iterable[str] = ()) -> list[str]:
    """Every file under the shortest of its names; one line says which other names, and `links`, are left out."""
    kept: dict[str, str] = {}
    left_out = set(links)
    for name in sorted(set(names), key=_by_length):
        if kept.setdefault(os.path.realpath(name), name) != name:
            left_out.add(name)
    if left_out:
        some = sorted(left_out, key=_by_length)[:3]
        more = ", .." if len(left_out) > len(some) else ""
        notice(
            f"{what}: {len(left_out)} more names of files and folders that are read already, left out "
            f"({', '.join(some)}{more})"
        )
    return list(kept.values())


def _by_length(name: str) -> tuple[int, str]:
    return len(name), name


def _texts_below(folder: str, pattern: str, links: set[str]) -> list[str]:
    names = _files(os.path.join(glob.escape(folder), "**"), links)
    # .json is often no text, but what describes it
    texts = [
        name
        for name in names
        if suffix(Path(name)) in TEXT_SUFFIXES
        or (suffix(Path(name)) == ".json" and split_of(os.path.relpath(name, folder)))
    ]
    kinds = f"{' '.join(TEXT_SUFFIXES)}, train*.json, also .gz .xz"
    require(len(texts) > 0, f'data.files = "{pattern}": the folder holds no text file ({kinds}); give a glob of files')
    if len(texts) < len(names):
        notice(
            f'data.files = "{pattern}": {len(texts)} text files of the folder ({kinds}); {len(names) - len(texts)} '
            "other files are left out: a glob names them"
        )
    return texts


def _files(pattern: str, links: set[str]) -> list[str]:
    anchor = Path(pattern).anchor
    return [name for name in _expand(anchor, Path(pattern).parts[bool(anchor) :], links) if os.path.isfile(name)]


def _expand(folder: str, parts: Sequence[str], links: set[str]) -> Iterator[str]:
    """What the glob `parts` names below `folder`. `glob` would follow a link that leads back up forty times."""
    if "**" not in parts:
        yield from glob.glob(os.path.join(glob.escape(folder), *parts))
        return
    place = parts.index("**")
    for start in _expand(folder, parts[:place], links) if place else [folder]:
        for below in _folders(start, links):
            yield from _expand(below, parts[place + 1 :] or ["*"], links)


def _folders(start: str, links: set[str]) -> Iterator[str]:
    """`start` and every folder below it but hidden ones, once, under its shortest name; `links` gets other names."""
    visited: set[str] = set()
    queue = [(len(start), start)]
    while queue:
        _, folder = heapq.heappop(queue)
        real = os.path.realpath(folder)
        if real in visited:
            links.add(folder)
            continue
        visited.add(real)
        yield folder
        try:
            names = os.listdir(folder or ".")
        except NotADirectoryError:
            continue
        except OSError as error:
            raise UserError(f"{folder}: cannot be read: {error.strerror}; name the folders beside it") from None
        below = [os.path.join(folder, name) for name in names if not name.startswith(".")]
        for path in filter(os.path.isdir, below):
            heapq.heappush(queue, (len(path), path))


def _hint(pattern: str) -> str:
    literal = pattern.replace("[", "[[]")
    if literal != pattern and _files(os.path.expanduser(literal), set()):
        return f'brackets in a glob stand for one character out of several: write "{literal}"'
    return "** in a glob crosses folders"
