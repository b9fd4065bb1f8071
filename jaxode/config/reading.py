"""Knobs read as defaults < TOML file < dotted flags, and written back as plain values."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import io
import sys
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from jaxode.config.checks import UserError, require, shown
from jaxode.config.fields import check_text, fit, hints
from jaxode.config.parsing import parse_toml
from jaxode.config.places import expand

T = TypeVar("T")


def parse(kind: type[T], argv: Sequence[str] | None = None, *, base: Path | None = None) -> T:
    """Read a config: defaults, then the TOML file after ``--config``, then dotted flags such as ``--model.width 64``.

    `base` is the TOML file to read where ``--config`` names none (that of a run to resume); plug-ins that it names are
    passed over, since code runs only from what is named here.

    Raises:
        UserError: an unknown TOML key, a wrong type or a refused value.
        SystemExit: an unknown flag (code 2), --help or --version (0).
    """
    arguments = _arguments(argv)
    path, arguments = _take_config_flag(arguments)
    if path is not None:
        default = from_toml(kind, path)
    elif base is not None:
        default = dataclasses.replace(typing.cast(Any, from_toml(kind, base)), plugins=())
    else:
        default = kind()
    about = f"{kind.__doc__}\n\n--config FILE.toml is read first; flags win over it."
    return _command_line(kind, arguments, default=default, description=about)


def parse_fields(kind: type[T], argv: Sequence[str] | None, names: Sequence[str]) -> dict[str, Any]:
    """What ``--config`` and the flags say of fields that stand in no table, whatever they say of the others.

    Where ``--help`` is asked for, or a flag stands without its value, the flags say nothing: `parse` answers that.

    Raises:
        UserError: a TOML file that cannot be read, or a value of the wrong type.
    """
    import tyro

    path, arguments = _take_config_flag(_arguments(argv))
    stored = {} if path is None else _tables(path)
    defaults = {field.name: field.default for field in dataclasses.fields(typing.cast(Any, kind))}
    values = {name: fit(hints(kind)[name], stored.get(name, defaults[name]), name) for name in names}
    few = dataclasses.make_dataclass("few", [(name, hints(kind)[name], values[name]) for name in names])
    try:
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            said, _ = tyro.cli(few, args=arguments, return_unknown_args=True)
    except SystemExit:
        return values
    return {name: fit(hints(kind)[name], getattr(said, name), name) for name in names}


def parse_command(kind: type[T], argv: Sequence[str] | None = None) -> T:
    """Read flags alone, without a config file; fields that have no default are positional.

    Raises:
        UserError: a refused value.
        SystemExit: an unknown flag or a missing argument (code 2), --help or --version (0).
    """
    return _command_line(kind, _arguments(argv), description=kind.__doc__)


def _arguments(argv: Sequence[str] | None) -> list[str]:
    arguments = list(sys.argv[1:] if argv is None else argv)
    if "--version" in arguments:
        # the package stands above every room: this one is inside it, so it is there
        sys.stdout.write(f"jaxode {sys.modules['jaxode'].__version__}\n")
        raise SystemExit(0)
    return arguments


def _command_line(kind: type[T], arguments: list[str], **options: Any) -> T:
    import tyro

    # `python -m` puts the path of a file where a script has its name
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    module = spec.name.removesuffix(".__main__") if spec is not None else ""
    program = f"python -m {module}" if module.startswith("jaxode") else None
    message = io.StringIO()
    try:
        with contextlib.redirect_stderr(message):
            return tyro.cli(kind, args=arguments, prog=program, config=(tyro.conf.PositionalRequiredArgs,), **options)
    except SystemExit as stop:
        # tyro would frame a refused value in a box of its own; the error is the one line that a TOML file gives
        cause: BaseException | None = stop
        while cause is not None and not isinstance(cause, UserError):
            cause = cause.__context__
        if cause is not None:
            raise UserError(str(cause)) from None
        sys.stderr.write(message.getvalue())
        raise


def _take_config_flag(arguments: list[str]) -> tuple[Path | None, list[str]]:
    for i, argument in enumerate(arguments):
        if argument == "--config":
            require(i + 1 < len(arguments), "--config needs the path of a TOML file")
            return _config_path(arguments[i + 1]), arguments[:i] + arguments[i + 2 :]
        if argument.startswith("--config="):
            return _config_path(argument.removeprefix("--config=")), arguments[:i] + arguments[i + 1 :]
    return None, arguments


def _config_path(path: str) -> Path:
    return Path(expand("--config", path))


def from_toml(kind: type[T], path: Path) -> T:
    """Read `kind` from a TOML file; absent keys keep their defaults."""
    return from_dict(kind, _tables(path), source=str(path))


def _tables(path: Path) -> dict[str, Any]:
    try:
        # editors of Windows begin a file with a mark, which is no text
        return parse_toml(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such config file") from None
    except (OSError, ValueError) as error:  # also what is no UTF-8, and numbers of thousands of digits
        raise UserError(f"{path}: cannot be read as TOML: {error}") from None


def from_dict(kind: type[T], raw: Any, source: str, prefix: str = "") -> T:
    """Build the dataclass `kind` from nested mappings, naming `source` and the nearest right key on an error."""
    require(isinstance(raw, Mapping), f"{source}: must be a table of {', '.join(hints(kind))}")
    known = hints(kind)
    values: dict[str, Any] = {}
    for key, value in raw.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
            hint = f"did you mean {prefix}{near[0]}?" if near else f"allowed are {', '.join(sorted(known))}"
            raise UserError(f"{source}: unknown key {prefix}{key}; {hint}")
        values[key] = _read(known[key], value, source, f"{prefix}{key}")
    for field in dataclasses.fields(typing.cast(Any, kind)):
        optional = field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
        require(optional or field.name in values, f"{source}: {prefix}{field.name} is missing")
    try:
        return kind(**values)
    except UserError as error:
        raise UserError(f"{source}: {error}") from None


def _read(hint: Any, value: Any, source: str, name: str) -> Any:
    """Make dataclasses of tables; all else must fit as it does where the dataclass is made in Python."""
    kinds = [kind for kind in (hint, *typing.get_args(hint)) if isinstance(kind, type)]
    nested = next((kind for kind in kinds if dataclasses.is_dataclass(kind)), None)
    if nested is None:
        return fit(hint, value, f"{source}: {name}")
    if typing.get_origin(hint) is tuple:
        require(isinstance(value, list | tuple), f"{source}: {name} = {shown(value)}: must be a list")
        return tuple(_read(nested, item, source, f"{name}[{i}]") for i, item in enumerate(value))
    require(isinstance(value, Mapping), f"{source}: {name} = {shown(value)}: must be a table")
    return from_dict(nested, value, source, prefix=f"{name}.")


def override(config: T, settings: Mapping[str, Any], source: str) -> T:
    """The config with dotted settings such as ``{"train.updates": 2000}`` in the place of its own.

    Raises:
        UserError: an unknown key, a wrong type or a refused value; it names `source`.
    """
    raw = to_dict(config)
    for dotted, value in settings.items():
        *tables, key = dotted.split(".")
        place = raw
        for table in tables:
            place = place.setdefault(table, {})
            require(isinstance(place, dict), f"{source}: unknown key {dotted}; {table} is a value and holds no keys")
        place[key] = value
    return from_dict(type(config), raw, source)


def to_toml(config: Any) -> str:
    """The config as the text of a TOML file.

    Raises:
        UserError: a path whose bytes are no text, which TOML cannot hold.
    """
    import tomli_w

    def check(place: str, values: Mapping[str, Any]) -> None:
        for key, value in values.items():
            if isinstance(value, dict):
                check(f"{place}{key}.", value)
            elif isinstance(value, str):
                check_text(f"{place}{key}", value)

    raw = to_dict(config)
    check("", raw)
    return tomli_w.dumps(raw)


def to_dict(config: Any) -> dict[str, Any]:
    """Nested plain values, without those that are None (TOML has no null)."""

    def plain(value: Any) -> Any:
        return {k: plain(v) for k, v in value.items() if v is not None} if isinstance(value, dict) else value

    return plain(dataclasses.asdict(config))


def dotted(config: Any) -> dict[str, Any]:
    """The same in one table: train.seed stands for seed in the table train."""

    def flat(raw: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
        for name, value in raw.items():
            if isinstance(value, Mapping):
                yield from flat(value, f"{prefix}{name}.")
            else:
                yield f"{prefix}{name}", value

    return dict(flat(to_dict(config), ""))
