"""Notebooks of docs/notebooks run from the first cell to the last, say what is true, and keep what they showed."""

import json
import os
import re
import tempfile
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import pytest

from jaxode import plugins

NOTEBOOKS = sorted((Path(__file__).parent.parent / "docs/notebooks").glob("*.ipynb"))
LARGEST = 150_000
"""Bytes of a file."""
named = pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)


@pytest.fixture
def elsewhere(monkeypatch, tmp_path):
    """An empty folder, with one for what is temporary; a plug-in is gone after the test; figures are not shown."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JAXODE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.setattr(plugins, "_LOADED", {})
    monkeypatch.setattr(plugins, "_DECLARED", {})
    monkeypatch.setitem(mpl.rcParams, "backend", "agg")
    yield tmp_path
    plt.close("all")
    for table in plugins._TABLES.values():
        table._added.clear()


def cells(notebook):
    return [cell for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]


@pytest.mark.slow
@pytest.mark.broad
@pytest.mark.parametrize(
    "notebook",
    [pytest.param(path, marks=[pytest.mark.deep] * (path.stem == "fine-tune")) for path in NOTEBOOKS],
    ids=lambda path: path.stem,
)
def test_every_cell_runs(notebook, elsewhere):
    names: dict = {}
    for cell in cells(notebook):
        exec(compile("".join(cell["source"]), str(notebook), "exec"), names)
    CLAIMS[notebook.stem](names)
    assert os.listdir(elsewhere) == ["temporary"]


@named
def test_what_was_shown_is_kept(notebook):
    assert notebook.stat().st_size < LARGEST
    assert notebook.stem in CLAIMS
    numbers = [cell["execution_count"] for cell in cells(notebook)]
    assert numbers == list(range(1, len(numbers) + 1))
    outputs = [output for cell in cells(notebook) for output in cell["outputs"]]
    assert not [output for output in outputs if output["output_type"] == "error"]
    assert any(output["output_type"] == "stream" for output in outputs)
    drawn = sum("plt.show()" in "".join(cell["source"]) for cell in cells(notebook))
    assert sum("image/png" in output.get("data", {}) for output in outputs) == drawn
    assert "/tmp" not in json.dumps(outputs)


@named
def test_links_resolve(notebook):
    every = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    text = "\n".join("".join(cell["source"]) for cell in every if cell["cell_type"] == "markdown")
    links = [link for link in re.findall(r"\]\(([^)\s#]+)", text) if not link.startswith("http")]
    assert not [link for link in links if not (notebook.parent / link).exists()]


def tour(names):
    curves = names["curves"]
    euler, calibrated, elastic = (
        curves[name] for name in ("fixed depth, Euler", "fixed depth, calibrated", "elastic, Euler")
    )
    assert euler[-1] - euler[0] > 1.0
    assert calibrated[-1] - calibrated[0] < 0.5
    assert abs(elastic[-1] - elastic[0]) < 0.1
    assert float(names["decay"].state[0]) == pytest.approx(0.1353, abs=1e-3)


def calibrate(names):
    losses = names["losses"]
    full = losses["12 steps"]
    assert losses["4 plain steps"] - full > 0.5
    assert abs(losses["4, calibrated here"] - full) < 0.1
    assert abs(losses["4, calibrated on novels"] - full) < 0.1


def trajectory(names):
    trace, gap, states = names["trace"], names["gap"], names["states"]
    assert abs(trace.cosine[0]) < 0.2
    assert min(trace.cosine[3:]) > 0.9
    assert names["nats"][8] < names["nats"][2] - 1.0
    assert gap(names["four"][-1], states[-1]) > 0.5
    assert gap(names["calibrated"], states[-1]) < 0.2


def vector_field(names):
    orders = dict(zip(names["solvers"], (1, 2, 2, 3, 4), strict=True))
    assert names["slopes"] == pytest.approx(orders, abs=0.3)
    assert names["model"].config.block == "side_by_side"


def loops(names):
    exact = names["exact"]
    assert exact[2][1] > 0.9
    assert exact[12][2] < 0.5
    assert exact[12][5] > 0.8


def fine_tune(names):
    accuracy, counted = names["accuracy"], names["counted"]
    most_frequent = max(names["Counter"](label for _, label in names["kept"]).values()) / len(names["kept"])
    assert min(accuracy.values()) > most_frequent + 0.2
    assert max(accuracy.values()) - min(accuracy.values()) < 0.08
    assert counted > max(accuracy.values())


CLAIMS = {
    "tour": tour,
    "calibrate": calibrate,
    "trajectory": trajectory,
    "vector-field": vector_field,
    "loops": loops,
    "fine-tune": fine_tune,
}
"""What the text of each says, of the names that its cells leave."""
