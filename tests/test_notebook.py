"""docs/notebook.ipynb runs from its first cell to its last and says what is true."""

import json
from pathlib import Path

import matplotlib as mpl
import pytest

NOTEBOOK = Path(__file__).parent.parent / "docs" / "notebook.ipynb"


@pytest.mark.slow
def test_every_cell_runs(monkeypatch):
    monkeypatch.setitem(mpl.rcParams, "backend", "agg")
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    names: dict = {}
    for cell in cells:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), str(NOTEBOOK), "exec"), names)
    curves = names["curves"]
    euler, calibrated, elastic = (
        curves[name] for name in ("fixed depth, Euler", "fixed depth, calibrated", "elastic, Euler")
    )
    assert euler[-1] - euler[0] > 1.0
    assert calibrated[-1] - calibrated[0] < 0.5
    assert abs(elastic[-1] - elastic[0]) < 0.1
    assert float(names["decay"].state[0]) == pytest.approx(0.1353, abs=1e-3)
