"""Parts of your own by name: a file declares them, and once it is loaded they stand beside the built-in ones.

    @register("sampling", "typical")          in my_sampling.py
    jaxode.plugins.load("my_sampling.py")     in a notebook; or --plugins my_sampling.py, plugins = ["my_sampling.py"]

Every kind has one `Table`, which holds the built-in parts and says what another one must satisfy. Code runs only from
what a user names here: a run records which files made it, and opening the run does not load them. Imports no jax.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.util
import re
import sys
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, Generic, TypeVar, no_type_check

from jaxode.config import UserError, require

__all__ = ["GROUP", "HOMES", "Plugin", "Table", "fingerprint", "load", "loaded", "register"]

T = TypeVar("T")

HOMES = {
    "block": "jaxode.model.block",
    "boundary": "jaxode.model.loop",
    "solver": "jaxode.depth.solvers",
    "exit_rule": "jaxode.inference.adaptive.exits",
    "objective": "jaxode.training.terms",
    "sampling": "jaxode.inference.generation.sampling",
    "corpus": "jaxode.data.corpora",
}
"""The kinds of parts, and the module that holds the table of each."""
GROUP = "jaxode.plugins"
"""Of the entry points by which an installed package brings parts."""
HOW = "--plugins FILE.py"


@dataclass(frozen=True)
class Plugin:
    """What was loaded."""

    source: str
    """The file or the entry point, as it was named."""
    sha256: str
    """Of its content."""
    parts: tuple[tuple[str, str], ...]
    """Kind and name of each part that it brings."""


@dataclass(frozen=True)
class _Declared:
    kind: str
    name: str
    part: Any
    line: int


_DECLARED: dict[str, list[_Declared]] = {}
"""By module, what it has declared and nobody has loaded yet."""
_LOADED: dict[Path, Plugin] = {}
_TABLES: dict[str, Table[Any]] = {}


class Table(Mapping[str, T], Generic[T]):
    """The parts of one kind by name: the built-in ones, then those of plug-ins."""

    def __init__(
        self,
        kind: str,
        field: str,
        entries: Mapping[str, T],
        fit: Callable[[str, Any], T],
        *,
        reserved: Collection[str] = (),
    ):
        """Open the table of a kind.

        Args:
            kind: of `HOMES`.
            field: the setting that names a part, for errors.
            entries: the built-in parts.
            fit: makes an entry of a name and what a plug-in declares by it, or raises a `UserError` that says what
                that lacks.
            reserved: names that mean something else in that setting.
        """
        self.kind, self.field, self._fit, self._reserved = kind, field, fit, tuple(reserved)
        self._built_in, self._added = dict(entries), dict[str, T]()
        _TABLES[kind] = self

    def __getitem__(self, name: str) -> T:
        return self._added[name] if name in self._added else self._built_in[name]

    def __iter__(self) -> Iterator[str]:
        yield from self._built_in
        yield from self._added

    def __len__(self) -> int:
        return len(self._built_in) + len(self._added)

    def find(self, name: Any, value: str | None = None) -> T:
        """The part of a name.

        Args:
            name: of the part.
            value: of the whole setting, where it is more than the name.

        Raises:
            UserError: there is none; it lists those there are.
        """
        if isinstance(name, str) and name in self:
            return self[name]
        near = difflib.get_close_matches(str(name), (*self, *self._reserved), n=1)
        meant = f"; did you mean {near[0]!r}?" if near else ""
        allowed = ", ".join((*self, *self._reserved)) or "none is built in"
        shown = name if value is None else value
        raise UserError(f'{self.field} = "{shown}": allowed are {allowed}, and what a plug-in brings ({HOW}){meant}')

    def fitted(self, name: str, part: Any) -> T:
        """What a plug-in declares by a name, as an entry.

        Raises:
            UserError: the name is taken, or the part lacks what its kind needs.
        """
        require(name not in self._built_in and name not in self._reserved, f'"{name}" is built in; choose another name')
        brought = next((plugin.source for plugin in _LOADED.values() if (self.kind, name) in plugin.parts), "")
        require(name not in self._added, f'"{name}" is what {brought} brings; choose another name')
        return self._fit(name, part)

    def add(self, name: str, entry: T) -> None:
        """Take an entry in."""
        self._added[name] = entry


@no_type_check  # a checked function would be called by its checker, not by the file
def register(kind: str, name: str) -> Callable[[T], T]:
    """Declare a part, as a decorator or as ``register("solver", "ralston")(diffrax.Ralston())``; `load` takes it in.

    Args:
        kind: block, boundary, solver, exit_rule, objective, sampling or corpus.
        name: by which Python, TOML and the command line know it.
    """
    caller = sys._getframe(1)
    module, line = caller.f_globals["__name__"], caller.f_lineno

    def declare(part: T) -> T:
        _DECLARED.setdefault(module, []).append(_Declared(kind, name, part, line))
        return part

    return declare


def load(*sources: Path | str) -> tuple[Plugin, ...]:
    """Run files of Python and take in the parts that they declare; what is loaded already stays as it is.

    Args:
        *sources: paths that end in .py, or names of entry points of the group jaxode.plugins in installed packages.

    Raises:
        UserError: naming the file and its line: it cannot be imported, declares nothing, or a part of another kind or
            name than there can be, or one that lacks what its kind needs; or it has changed since it was loaded.
    """
    return tuple(_load(str(source)) for source in sources)


def loaded() -> tuple[Plugin, ...]:
    """What is loaded."""
    return tuple(_LOADED.values())


def _load(source: str) -> Plugin:
    path, module_name = _located(source)
    digest = _digest(path)
    known = _LOADED.get(path)
    if known is not None:
        require(
            known.sha256 == digest,
            f"{source}: has changed since it was loaded, and what was compiled by its names would stay: begin a new "
            "process (in a notebook, restart its kernel)",
        )
        return known
    module = _imported(source, path, module_name, digest)
    try:
        parts = _taken_in(source, module)
    finally:
        if not module_name:  # a file is run anew the next time, a module is not
            _DECLARED.pop(module.__name__, None)
    plugin = _LOADED[path] = Plugin(source, digest, parts)
    return plugin


def fingerprint(source: str) -> str:
    """The sha256 of what a file or an entry point holds now, without running it.

    Raises:
        UserError: there is none.
    """
    return _digest(_located(source)[0])


def _located(source: str) -> tuple[Path, str]:
    """The file, and the module of an entry point; "" of a file alone."""
    if source.endswith(".py"):
        path = Path(source).expanduser()
        require(path.is_file(), f"plugins = {source}: no such file")
        return path.resolve(), ""
    entries = {entry.name: entry for entry in entry_points(group=GROUP)}
    installed = f"installed packages bring {', '.join(entries)}" if entries else "no installed package brings any"
    require(
        source in entries,
        f"plugins = {source}: is no file that ends in .py, and no entry point of the group {GROUP} ({installed})",
    )
    name = entries[source].module
    try:
        spec = importlib.util.find_spec(name)
    except Exception as error:  # looking for a module runs the package that it is in
        raise UserError(f"plugins = {source}: its module {name} cannot be imported: {_said(error)}") from error
    require(
        spec is not None and spec.origin is not None, f"plugins = {source}: its module {name} has no file; install it"
    )
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).resolve(), name


def _digest(path: Path) -> str:
    """Of a file, or of all files of a package."""
    files = sorted(path.parent.rglob("*.py")) if path.name == "__init__.py" else [path]
    digest = hashlib.sha256()
    try:
        for file in files:
            digest.update(file.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None
    return digest.hexdigest()


def _imported(source: str, path: Path, name: str, digest: str) -> ModuleType:
    try:
        if name:
            return importlib.import_module(name)
        # with its content in its name: rules and objects of equal names in two files stay apart
        name = f"jaxode_plugin_{re.sub(r'[^0-9a-zA-Z_]', '_', path.stem)}_{digest[:12]}"
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # dataclasses look their module up
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        sys.modules.pop(name, None)
        _DECLARED.pop(name, None)
        line = _line(error, path)
        raise UserError(f"{source}{f', line {line}' if line else ''}: cannot be imported: {_said(error)}") from error
    return module


def _said(error: BaseException) -> str:
    """In one line."""
    what = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
    return " ".join(what.split())


def _line(error: BaseException, path: Path) -> int:
    """The last line of the file that led to an error; 0 where none did."""
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return error.lineno or 0
    frames = traceback.extract_tb(error.__traceback__)
    return next((frame.lineno or 0 for frame in reversed(frames) if frame.filename == str(path)), 0)


def _taken_in(source: str, module: ModuleType) -> tuple[tuple[str, str], ...]:
    """All that a module and those inside it have declared, or nothing of it."""
    inside = [name for name in _DECLARED if name == module.__name__ or name.startswith(f"{module.__name__}.")]
    declared = [one for name in inside for one in _DECLARED[name]]
    require(
        bool(declared),
        f'{source}: registers nothing; put @register("KIND", "NAME") of jaxode.plugins before a part ('
        f"{', '.join(HOMES)})",
    )
    entries: dict[tuple[str, str], Any] = {}
    for one in declared:
        place = f'{source}, line {one.line}: register("{one.kind}", "{one.name}")'
        require(one.kind in HOMES, f"{place}: kinds are {', '.join(HOMES)}")
        require(
            isinstance(one.name, str) and re.fullmatch(r"[a-z][a-z0-9_-]*", one.name) is not None,
            f'{place}: a name is lower-case letters, digits, "_" and "-", and begins with a letter',
        )
        require((one.kind, one.name) not in entries, f"{place}: stands there twice; choose another name")
        importlib.import_module(HOMES[one.kind])
        try:
            entries[one.kind, one.name] = _TABLES[one.kind].fitted(one.name, one.part)
        except UserError as error:
            raise UserError(f"{place}: {error}") from None
    for (kind, name), entry in entries.items():
        _TABLES[kind].add(name, entry)
    return tuple(entries)
