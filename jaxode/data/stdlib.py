"""The embedded corpus: the Python standard library's own source and its language reference, present wherever we run."""

from __future__ import annotations

import ast
import os
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from jaxode.config import UserError, require
from jaxode.data.documents import Document, read_documents

_LEFT_OUT = {
    "__pycache__",
    "__phello__",
    "_bundled",  # ensurepip's wheels
    "dist-packages",
    "encodings",  # tables of code points
    "idle_test",
    "lib-dynload",
    "pydoc_data",  # read as text, below
    "site-packages",
    "test",
    "tests",
    "turtledemo",
}
_TOPICS = "pydoc_data/topics.py"


def stdlib_folder() -> Path:
    """Where this interpreter keeps the sources of its standard library."""
    return Path(sysconfig.get_paths()["stdlib"])


def stdlib_files(folder: Path) -> list[Path]:
    """The files that `stdlib_documents` reads, sorted by their path relative to `folder`.

    Taken are all ``*.py`` files at the top level and in packages, except tests, ``encodings``, ``turtledemo``,
    installed packages, bundled wheels, build configuration (``config-*``, ``_sysconfigdata*``) and empty files.

    Raises:
        UserError: this Python comes without its sources.
    """
    files: list[Path] = []
    for here, inside, names in os.walk(folder):
        # pruned in place: walking the installed packages would take seconds
        inside[:] = [name for name in inside if name not in _LEFT_OUT and not name.startswith("config-")]
        paths = [Path(here, name) for name in names if name.endswith(".py") and not name.startswith("_sysconfigdata")]
        files += [path for path in paths if path.stat().st_size > 0]
    require(
        len(files) > 0,
        f"{folder}: this Python has no standard library sources; choose another data.corpus or data.files",
    )
    topics = [folder / _TOPICS] if (folder / _TOPICS).is_file() else []
    return sorted(files + topics, key=lambda path: path.relative_to(folder).as_posix())


def stdlib_documents(path: Path, source: str) -> Iterator[Document]:
    """One document a source file, and one a topic of the language reference (``pydoc_data/topics.py``)."""
    if source != _TOPICS:
        yield from read_documents(path, source)
        return
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        # literal_eval, since a corpus is data: nothing of it is ever run
        tables = [ast.literal_eval(node.value) for node in tree.body if isinstance(node, ast.Assign)]
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as a table of topics ({error}); choose another data.corpus") from None
    for table in tables:
        for topic, text in sorted(table.items()):
            yield Document(text, f"{source}#{topic}")
