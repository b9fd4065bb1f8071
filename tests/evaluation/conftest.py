"""A place to keep a study in, and one whose processes are played."""

import pytest
from small_study import HEAD, RECIPE, VARIANTS, Played, write

from jaxode.evaluation.study import outcome
from jaxode.evaluation.study.__main__ import main
from jaxode.evaluation.study.children import Children


@pytest.fixture
def place(tmp_path, monkeypatch):
    """The working directory: holds the recipe; `write` adds a study."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.toml").write_text(RECIPE)
    return tmp_path


@pytest.fixture
def played(monkeypatch):
    player = Played()
    # drawing takes longer than all else
    monkeypatch.setattr(outcome, "panel_figure", lambda path, panels, title: player.drawn.append(panels))
    monkeypatch.setattr(Children, "call", lambda *arguments: player(*arguments))
    return player


@pytest.fixture
def study(place, played):
    """Calls main on the small study, after changes of its text; returns exit code and the calls that were made."""

    def run(*flags, text=HEAD + VARIANTS):
        played.calls.clear()
        return main([str(write(place, text)), *flags]), list(played.calls)

    return run
