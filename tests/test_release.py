"""The version: from one place, everywhere the same, and a changelog that goes by it."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.version import Version

import jaxode
from jaxode.__main__ import COMMANDS
from jaxode.__main__ import main as package
from jaxode.data.__main__ import main as data
from jaxode.evaluation.study.__main__ import main as study
from jaxode.inference.__main__ import main as inference
from jaxode.training.__main__ import main as training

ROOT = Path(__file__).parents[1]
HEADING = re.compile(r"^## \[(.+?)\](?: - (\d{4}-\d{2}-\d{2}))?$", re.M)


@pytest.mark.parametrize("command", [package, training, inference, data, study])
def test_every_command_says_its_version(command, capsys):
    with pytest.raises(SystemExit) as ended:
        command(["--version"])
    assert (ended.value.code, capsys.readouterr().out) == (0, f"jaxode {jaxode.__version__}\n")


def test_the_scripts_of_a_checkout_say_it_as_well():
    for script in ("train.py", "infer.py"):
        done = subprocess.run([sys.executable, script, "--version"], capture_output=True, text=True, cwd=ROOT)
        assert (done.returncode, done.stdout) == (0, f"jaxode {jaxode.__version__}\n"), done.stderr


def test_the_package_lists_its_commands(capsys):
    assert package([]) == 0
    shown = capsys.readouterr().out
    for name in COMMANDS:
        assert f"python -m {name} " in shown
        assert (ROOT / name.replace(".", "/")).with_suffix(".py").exists() or (
            ROOT / name.replace(".", "/") / "__main__.py"
        ).exists()


def test_the_version_stands_in_one_place():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert "version" in project["project"]["dynamic"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "jaxode.__version__"}
    cited = re.search(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(encoding="utf-8"), re.M)
    assert cited is not None
    assert cited[1] == jaxode.__version__


def test_the_changelog_has_a_dated_section_a_version_the_newest_first():
    first, *released = HEADING.findall((ROOT / "CHANGELOG.md").read_text(encoding="utf-8"))
    assert first == ("Unreleased", "")
    assert all(date for _, date in released)
    versions = [Version(version) for version, _ in released]
    assert versions == sorted(versions, reverse=True)
    # what is being prepared may be above the last release, never below
    assert all(version <= Version(jaxode.__version__) for version in versions)
