"""The commands that a page tells its reader to run, in their order."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGES = tuple(
    str(path.relative_to(ROOT))
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/**/*.md")))
)
_PARTS = re.compile(
    r"^```bash\n(?P<block>.*?)^```$"
    r"|^```.*?^```$"
    r"|^    (?P<line>(?:\w+=\S+ )?python (?:[^\n]*\\\n)*[^\n]*)$"
    r"|`(?P<span>(?:\w+=\S+ )?python [^`\n]+)`",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Command:
    """One command of a page."""

    text: str
    """As it stands there, on one line and without its comment."""
    program: str
    """A script's path, the module after `-m`, or the name of another program."""
    words: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=dict)
    """What stands before the program."""
    into: str = ""
    """The file that its output goes to."""

    def __str__(self) -> str:
        return self.text


def commands(page: str) -> list[Command]:
    """Those in its blocks of bash, its indented lines and its sentences."""
    text = (ROOT / page).read_text(encoding="utf-8")
    shell = [part for match in _PARTS.finditer(text) for part in match.groups() if part]
    lines = "\n".join(shell).replace("\\\n", " ").split("\n")
    return [_read(words) for line in lines for words in _parted(shlex.split(line, comments=True))]


def _parted(words: list[str]) -> list[list[str]]:
    parts: list[list[str]] = [[]]
    for word in words:
        if word == "&&":
            parts.append([])
        else:
            parts[-1].append(word)
    return [part for part in parts if part]


def _read(words: list[str]) -> Command:
    text, environment, into = shlex.join(words), {}, ""
    while re.match(r"\w+=", words[0]):
        name, _, environment[name] = words[0].partition("=")
        words = words[1:]
    if ">" in words:
        at = words.index(">")
        into, words = words[at + 1], words[:at] + words[at + 2 :]
    if Path(words[0]).name == "python":
        words = words[2:] if words[1] == "-m" else words[1:]
    program = words[0] if words[0].endswith(".py") else Path(words[0]).name or words[0]
    return Command(text, program, tuple(words[1:]), environment, into)
