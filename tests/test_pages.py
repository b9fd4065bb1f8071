"""What the documents name exists: pages, headings, pictures with words, files, commands and their flags."""

import itertools
import re
import shlex
import tomllib
import typing
from dataclasses import is_dataclass
from functools import cache
from pathlib import Path

import pytest
from commands import ROOT, commands

from jaxode.config import Config, InferConfig, StudyCommand
from jaxode.config.fields import hints

DOCUMENTS = sorted(
    [
        *(ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")),
        *ROOT.glob("docs/**/*.md"),
        *ROOT.glob("jaxode/shipped/*/*.md"),
    ]
)
COMMANDS = {
    "train.py": Config,
    "jaxode.training": Config,
    "jaxode.data": Config,
    "infer.py": InferConfig,
    "jaxode.inference": InferConfig,
    "jaxode.evaluation.study": StudyCommand,
}
COMMON = ("config", "help", "version")
"""Flags of every command."""
NOT_OURS = ("jaxode.evaluation.harness", "build", "twine", "pip", "pytest", "mkdocs", "venv", "ruff", "cd", "git", ".")
"""Their flags are those of other projects."""
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")
named = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))


@named
def test_links_and_anchors_resolve(document):
    wrong = []
    for _, _, link in LINK.findall(_prose(document)):
        if re.match(r"(https?|mailto):", link):
            continue
        place, _, anchor = link.partition("#")
        target = (document.parent / place).resolve() if place else document
        if not target.exists() or (anchor and anchor not in _anchors(target)):
            wrong.append(link)
    assert not wrong


def test_the_front_page_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 130


@named
def test_pictures_have_words(document):
    assert all(len(words) > 3 for mark, words, _ in LINK.findall(_prose(document)) if mark)


@named
def test_commands_name_what_exists(document):
    wrong = [f"{command}: {why}" for command in _commands(document) for why in _unknown(command)]
    assert not wrong


@named
def test_flags_in_a_sentence_exist(document):
    known = {flag for kind in set(COMMANDS.values()) for flag in _flags(kind)} | _benchmark_flags()
    # the harness' own flags have underscores
    spans = [span for span in SPAN.findall(_prose(document)) if span.startswith("--") and "_" not in span.split()[0]]
    wrong = [span for span in spans if _flag(span.split()[0]) not in known | {*COMMON, "whole", "strict"}]
    assert not wrong


def _prose(document: Path) -> str:
    return FENCE.sub("", document.read_text(encoding="utf-8"))


@cache
def _anchors(document: Path) -> set[str]:
    """Of headings, as GitHub and the site make them."""
    if document.suffix != ".md":
        return set()
    headings = re.findall(r"^#+ (.+)$", _prose(document), re.MULTILINE)
    plain = (re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower() for heading in headings)
    return {re.sub(r"[^\w\- ]", "", heading).strip().replace(" ", "-") for heading in plain}


def _commands(document: Path) -> list[str]:
    """With what a sentence says of a script's flags, without the `python` before it."""
    spans = [span for span in SPAN.findall(_prose(document)) if re.match(r"\w*\.py ", span)]
    return [*map(str, commands(str(document.relative_to(ROOT)))), *spans]


def _unknown(command: str) -> list[str]:
    """What of a command is not there: its file, its flags, the values of those that are choices, the recipes."""
    words = [word for word in shlex.split(command, comments=True) if word not in (">", "|")]
    while words and (re.match(r"\w+=", words[0]) or re.search(r"(^|/)python3?$", words[0]) or words[0] == "-m"):
        words = words[1:]
    if not words or {words[0], Path(words[0]).name} & set(NOT_OURS):
        return _extras(words)
    program, rest = words[0], words[1:]
    wrong = [word for word in rest if re.match(r"(configs|jaxode|docs|benchmarks|tests)/", word) and _absent(word)]
    if program in COMMANDS:
        return wrong + _refused(COMMANDS[program], rest)
    module = ROOT / program.replace(".", "/") / "__main__.py"
    if program != "bash" and not any(
        path.is_file() for path in (ROOT / program, ROOT / "benchmarks" / program, module)
    ):
        return [*wrong, program]
    flags = (word.split("=")[0] for word in rest if word.startswith("--"))
    return wrong + [flag for flag in flags if _flag(flag) not in {*_benchmark_flags(), *COMMON}]


def _extras(words: list[str]) -> list[str]:
    known = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    named = re.findall(r"(?:^|\s)(?:\.|jaxode)\[([\w,]+)\]", " ".join(words))
    return [extra for extras in named for extra in extras.split(",") if extra not in known]


def _absent(word: str) -> bool:
    return not (ROOT / word).exists() and not re.search(r"[A-Z]{2,}|[*{]", word)


def _refused(kind: type, words: list[str]) -> list[str]:
    known, wrong = _flags(kind), []
    for word, value in itertools.pairwise([*words, ""]):
        if not word.startswith("--") or _flag(word) in COMMON:
            continue
        hint = known.get(_flag(word))
        choices = typing.get_args(hint) if typing.get_origin(hint) is typing.Literal else ()
        if hint is None or (choices and value not in choices and not value.isupper()):
            wrong.append(f"{word} {value}" if choices else word)
    return wrong


@cache
def _flags(kind: type, before: str = "") -> dict[str, object]:
    flags: dict[str, object] = {}
    for name, hint in hints(kind).items():
        kinds = (one for one in (hint, *typing.get_args(hint)) if isinstance(one, type) and is_dataclass(one))
        nested = next(kinds, None)
        flags |= _flags(nested, f"{before}{name}.") if nested else {_flag(before + name): hint}
    return flags


def _flag(word: str) -> str:
    return re.sub(r"(^|\.)no-", r"\1", word.removeprefix("--").split("=")[0].replace("_", "-"))


@cache
def _benchmark_flags() -> set[str]:
    text = "".join(path.read_text(encoding="utf-8") for path in ROOT.glob("benchmarks/**/*.py"))
    return {_flag(flag) for flag in re.findall(r"--[a-z][\w-]*", text)}
