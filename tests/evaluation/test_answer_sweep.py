"""A task's exact matches: a line a difficulty and solver, and a word on questions that were trained on."""

import pytest

from jaxode.evaluation import answer_sweep
from jaxode.evaluation.answer_sweep import save_answer_sweep


def row(difficulty, solver, steps, exact, held_out=True):
    return {
        "solver": solver,
        "steps": steps,
        "block_evaluations": steps,
        "difficulty": difficulty,
        "exact": exact,
        "majority": 0.5,
        "chance": 0.5,
        "distinct": 4,
        "held_out": held_out,
    }


@pytest.fixture
def drawn(monkeypatch):
    panels = []
    monkeypatch.setattr(answer_sweep, "panel_figure", lambda path, shown, title: panels.extend(shown))
    return panels


def test_every_solver_has_a_line(tmp_path, drawn):
    rows = [row(1, "euler", 4, 1.0), row(1, "euler", 2, 0.5), row(1, "calibrated", 2, 0.75)]
    written = save_answer_sweep(tmp_path, rows, "tasks/parity")
    assert drawn[0].series == {
        "difficulty 1, calibrated": ([2], [0.75]),
        "difficulty 1, euler": ([2, 4], [0.5, 1.0]),
    }
    assert "trained on" not in written


def test_one_solver_needs_no_name_and_questions_that_were_trained_on_are_told(tmp_path, drawn):
    written = save_answer_sweep(tmp_path, [row(1, "euler", 4, 1.0, held_out=False), row(2, "euler", 4, 0.5)], "x")
    assert set(drawn[0].series) == {"difficulty 1", "difficulty 2"}
    assert written.splitlines()[-1] == "of difficulty 1 there are so few questions that those asked were trained on"
