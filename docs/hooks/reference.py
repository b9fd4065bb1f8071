"""Pages of the reference: the API of each room from its docstrings, settings from their dataclasses, commands."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import textwrap
import typing
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

import jaxode
import jaxode.__main__
from jaxode.config import Config, InferConfig, StudyCommand, StudyConfig, UserError, override
from jaxode.config.fields import Most, hints

ROOT = Path(__file__).resolve().parents[2]
ROOMS = (
    "inference",
    "calibration",
    "depth",
    "model",
    "training",
    "evaluation",
    "data",
    "checkpoint",
    "interop",
    "plugins",
    "config",
)
READING = ("UserError", "from_toml", "from_dict", "override", "parse", "to_dict", "to_toml")
"""What of the configuration is no table of settings; those have a page of their own."""


INTEGRATE = """::: jaxode.depth.integrate.integrate
    options:
      show_root_heading: true
      show_root_toc_entry: true
      show_root_full_path: false"""
"""A function that is called like its module, which the tool takes it for."""


def on_files(files: Files, config: Any) -> Files:
    """Write the pages of the reference."""
    pages = {f"reference/jaxode.{room}.md": f"# jaxode.{room}\n\n::: jaxode.{room}\n" for room in ROOMS}
    pages["reference/jaxode.config.md"] += f"    options:\n      members: [{', '.join(READING)}]\n"
    pages["reference/jaxode.depth.md"] = f"# jaxode.depth\n\n{INTEGRATE}\n\n::: jaxode.depth\n"
    pages["reference/jaxode.md"] = _names()
    pages["reference/configuration.md"] = _configuration()
    pages["reference/commands.md"] = _commands()
    for path, text in pages.items():
        files.append(File.generated(config, path, content=text))
    return files


def _names() -> str:
    """What `import jaxode` gives, by room."""
    parts = ["# jaxode", "What `jaxode.NAME` gives, and the room that holds more of its kind."]
    for home, names in jaxode._HOMES.items():
        # kept for who knows it from other libraries
        links = [f"[`{name}`][{home}.{jaxode._ALIASES.get(name, name)}]" for name in names]
        links = [link.replace("[jaxode.depth.integrate]", "[jaxode.depth.integrate.integrate]") for link in links]
        if home == "jaxode.config":
            links = [f"[`{name}`][{home}.{name}]" if name in READING else f"`{name}`" for name in names]
            links[-1] += " (their fields: [settings](configuration.md))"
        parts.append(f"- [{home}]({home}.md): {', '.join(links)}")
    return "\n\n".join(parts) + "\n"


def _configuration() -> str:
    """Every setting of a training run, table by table, and those of a study."""
    parts = [
        "# Settings of a run",
        "Settings of `train.py` are read as defaults < TOML file (`--config FILE.toml`) < flags. `width` of the table "
        "`model` is `model.width` in Python's `override`, `[model]` and `width = 256` in TOML, and `--model.width 256` "
        "on the command line. A wrong value is refused before anything is compiled. In the column of limits, words "
        "after a colon are what the refusal says.",
        *_tables(Config, ""),
        "# Settings of a study",
        "A study's TOML file (`python -m jaxode.evaluation.study FILE.toml`).",
        *_tables(StudyConfig, ""),
    ]
    return "\n\n".join(parts) + "\n"


def _commands() -> str:
    """Every command and its flags."""
    parts = [
        "# Commands",
        "In a checkout `train.py` and `infer.py`; where the package is installed alone `python -m jaxode.training` and "
        "`python -m jaxode.inference` are the same commands. `--help` lists the flags of each.",
        "| command | what it does |\n|---|---|\n"
        + "\n".join(f"| `python -m {name}` | {about} |" for name, about in jaxode.__main__.COMMANDS.items()),
        "The flags of `jaxode.training` and `jaxode.data` are the [settings of a run](configuration.md); those of the "
        "harness are [EleutherAI's](../evaluation.md#the-evaluation-harness). Those of the others stand here.",
        "## infer.py",
        _rows(InferConfig, "", "--"),
        "## python -m jaxode.evaluation.study",
        _rows(StudyCommand, "", "--"),
        "## Benchmarks",
        "Each answers one question and prints a table; `--help` says more.",
        "| command | question |\n|---|---|\n" + "\n".join(_benchmarks()),
    ]
    return "\n\n".join(parts) + "\n"


def _benchmarks() -> list[str]:
    rows = []
    for path in sorted((ROOT / "benchmarks").glob("*.py")):
        text = path.read_text(encoding="utf-8")
        about = ast.get_docstring(ast.parse(text)) or ""
        if "__main__" in text:
            rows.append(f"| `python benchmarks/{path.name}` | {_cell(about.split(chr(10) + chr(10))[0])} |")
    return rows


def _tables(kind: type, prefix: str) -> list[str]:
    """A section for a dataclass, then for those among its fields."""
    parts = []
    if prefix:
        parts += [f"## {prefix}", _cell(inspect.getdoc(kind) or "")]
    if any(_nested(hint) is None for hint in hints(kind).values()):
        parts.append(_rows(kind, prefix, ""))
    for name, hint in hints(kind).items():
        nested = _nested(hint)
        if nested is not None:
            parts += _tables(nested, f"{prefix}.{name}".strip("."))
    return parts


def _rows(kind: type, prefix: str, before: str) -> str:
    lines = ["| setting | default | allowed | what it is |", "|---|---|---|---|"]
    docs = _docs(kind)
    for field in dataclasses.fields(kind):
        hint = hints(kind)[field.name]
        if _nested(hint) is not None:
            continue
        name = f"{before}{field.name.replace('_', '-')}" if before else field.name
        default = _default(field)
        shown = f"`{_cell(default)}`" if default else ""
        lines.append(
            f"| `{name}` | {shown} | {_allowed(kind, prefix, field, hint)} | {_cell(docs.get(field.name, ''))} |"
        )
    return "\n".join(['<div class="settings" markdown>', "", *lines, "", "</div>"])


def _nested(hint: Any) -> type | None:
    kinds = (hint, *typing.get_args(hint))
    return next((kind for kind in kinds if isinstance(kind, type) and dataclasses.is_dataclass(kind)), None)


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default is not dataclasses.MISSING:
        return repr(field.default)
    return repr(field.default_factory()) if field.default_factory is not dataclasses.MISSING else ""


def _docs(kind: type) -> dict[str, str]:
    """The string below each field, as the source has it."""
    body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
    assert isinstance(body, ast.ClassDef)
    docs = {}
    for field, text in zip(body.body, body.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
            assert isinstance(field.target, ast.Name)
            docs[field.target.id] = str(text.value.value)
    return docs


def _allowed(kind: type, prefix: str, field: dataclasses.Field[Any], hint: Any) -> str:
    """The choices of a field; of a number its type, and what its own refusals say of values far outside."""
    plain = typing.get_args(hint)[0] if typing.get_origin(hint) is typing.Annotated else hint
    kinds = typing.get_args(plain) if typing.get_origin(plain) in (typing.Union, type(int | None)) else (plain,)
    kinds = tuple(typing.get_args(one)[0] if typing.get_origin(one) is typing.Annotated else one for one in kinds)
    names = []
    for one in kinds:
        if typing.get_origin(one) is typing.Literal:
            names.append(", ".join(f"`{choice}`" for choice in typing.get_args(one)))
        elif typing.get_origin(one) is tuple:
            names.append("list")
        elif one is type(None):
            names.append("nothing")
        else:
            names.append(
                {"int": "integer", "float": "number", "str": "text", "bool": "`true`, `false`"}.get(
                    getattr(one, "__name__", ""), "table"
                )
            )
    limits = _limits(kind, prefix, field.name) if kinds[0] in (int, float) else []
    return _cell(" or ".join(names) + (": " + "; ".join(limits) if limits else ""))


def _limits(kind: type, prefix: str, name: str) -> list[str]:
    """What a number is refused for, in the words of the refusal."""
    base: Any = Config() if prefix else None
    limits = []
    for value in (-(10**6), 2 * 10**9):
        try:
            if base is not None and not prefix.startswith(("study", "variant")):
                override(base, {f"{prefix}.{name}": value}, "")
            else:
                kind(**{name: value})
        except UserError as error:
            rule = re.search(rf"\b{name} = {value}(?:\.0)?: (?:must )?(?:be |lie )?(.*)$", str(error))
            if rule:
                limits.append(rule[1])
        except TypeError:
            pass
    most = next((one for one in typing.get_args(hints(kind)[name]) if isinstance(one, Most)), None)
    if most is not None and not any("at most" in limit for limit in limits):
        limits.append(f"at most {most.value:,}")
    return list(dict.fromkeys(limits))


def _cell(text: str) -> str:
    """In one line, with nothing that ends a cell."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
