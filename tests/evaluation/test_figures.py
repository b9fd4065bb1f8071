"""Tables and figures: values survive the file, files appear whole or not at all."""

import math
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxode.evaluation import figures
from jaxode.evaluation.figures import Panel, line_figure, panel_figure, read_csv, table, write_csv

ROWS = [{"steps": 12, "loss": 1.5, "solver": "euler"}, {"steps": 6, "loss": 1.6251, "note": 'α, "b"\r\nc'}]


def test_csv_returns_what_was_written(tmp_path):
    path = tmp_path / "new" / "sweep.csv"
    write_csv(path, ROWS)
    assert path.read_text(encoding="utf-8").splitlines()[0] == "steps,loss,solver,note"
    assert read_csv(path) == [
        {"steps": 12, "loss": 1.5, "solver": "euler", "note": None},
        {"steps": 6, "loss": 1.6251, "solver": None, "note": 'α, "b"\r\nc'},
    ]
    assert type(read_csv(path)[0]["steps"]) is int


@given(st.lists(st.fixed_dictionaries({"x": st.floats(allow_nan=False), "n": st.integers()}), min_size=1))
def test_csv_numbers_survive_to_the_last_bit(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("csv") / "a.csv"
    write_csv(path, rows)
    assert read_csv(path) == rows


def test_csv_without_rows_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"a\.csv: no rows to write"):
        write_csv(tmp_path / "a.csv", [])


def test_files_are_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "a.csv"
    write_csv(path, ROWS)
    before = path.read_bytes()

    class Unprintable:
        def __str__(self):
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_csv(path, [*ROWS, {"steps": Unprintable()}])
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.csv"], "no temporary file is left behind"


def test_files_are_as_readable_as_any_other(tmp_path):
    write_csv(tmp_path / "a.csv", ROWS)
    (tmp_path / "b").touch()
    assert (tmp_path / "a.csv").stat().st_mode == (tmp_path / "b").stat().st_mode


@pytest.fixture
def drawn(monkeypatch):
    """The figure that line_figure draws, kept for a look at its parts."""
    from matplotlib.figure import Figure

    kept = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: (kept.append(self), save(self, *a, **k))[1])
    return kept


SERIES = {"euler": ([3, 4, 6, 12], [1.9, 1.8, 1.7, 1.6]), "ab2": ([3, 4, 6, 12], [1.8, 1.7, 1.65, 1.6])}


@pytest.mark.parametrize("logx", [False, True])
@pytest.mark.parametrize("logy", [False, True])
def test_line_figure_is_a_png_of_the_promised_size(tmp_path, drawn, logx, logy):
    path = tmp_path / "new" / "sweep.png"
    line_figure(path, SERIES, "steps", "nats per token", "Loss against depth", logx=logx, logy=logy)
    data = path.read_bytes()
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    assert struct.unpack(">II", data[16:24]) == (960, 630)
    assert [p.name for p in path.parent.iterdir()] == ["sweep.png"]

    (axes,) = drawn[0].axes
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_title()) == ("steps", "nats per token", "Loss against depth")
    assert (axes.get_xscale(), axes.get_yscale()) == ("log" if logx else "linear", "log" if logy else "linear")
    assert [line.get_label() for line in axes.lines] == ["euler", "ab2"]
    assert len({line.get_marker() for line in axes.lines}) == 2
    np.testing.assert_array_equal(axes.lines[0].get_xydata(), np.transpose(SERIES["euler"]))
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["euler", "ab2"]
    ticks = [t.get_text() for t in axes.get_xticklabels() if 3 <= t.get_position()[0] <= 12]
    assert ticks == (["3", "4", "6", "12"] if logx else [str(i) for i in range(3, 13)])


def test_single_series_needs_no_legend_and_integers_get_integer_ticks(tmp_path, drawn):
    line_figure(tmp_path / "a.png", {"loss": ([1, 2], [0.5, math.nan])}, "x", "y", "t")
    (axes,) = drawn[0].axes
    assert axes.get_legend() is None
    assert all(float(tick).is_integer() for tick in axes.get_xticks())
    line_figure(tmp_path / "a.png", {"loss": ([0.5, 2.5], [1, 2])}, "x", "y", "t")
    assert not all(float(tick).is_integer() for tick in drawn[1].axes[0].get_xticks())


def test_line_figure_refuses_what_it_cannot_draw(tmp_path):
    with pytest.raises(ValueError, match="no series to draw"):
        line_figure(tmp_path / "a.png", {}, "x", "y", "t")
    with pytest.raises(ValueError, match="series 'a' has 2 x and 1 y"):
        line_figure(tmp_path / "a.png", {"a": ([1, 2], [1.0])}, "x", "y", "t")
    assert list(tmp_path.iterdir()) == []


def test_panels_share_one_legend_in_which_a_name_looks_the_same(tmp_path, drawn):
    path = tmp_path / "new" / "report.png"
    left = Panel(SERIES, "block evaluations", "rise", "left", logx=True, yscale="symlog")
    right = Panel({"ab2": ([1.5, 30.0], [0.1, 0.2]), "rk4": ([2.5], [0.3])}, "milliseconds", "rise", logx=True)
    panel_figure(path, [left, right], "Rise")
    data = path.read_bytes()
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    assert struct.unpack(">II", data[16:24]) == (1890, 780)
    figure = drawn[0]
    assert figure.get_suptitle() == "Rise"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["euler", "ab2", "rk4"]
    one, two = figure.axes
    assert (one.get_title(), one.get_xlabel(), two.get_xlabel()) == ("left", "block evaluations", "milliseconds")
    assert (one.get_yscale(), two.get_yscale()) == ("symlog", "linear")
    looks = [{line.get_label(): (line.get_color(), line.get_marker()) for line in axes.lines} for axes in (one, two)]
    assert looks[0]["ab2"] == looks[1]["ab2"]
    assert len({*looks[0].values(), *looks[1].values()} - {looks[0].get("_child2")}) == 3
    ticks = [tick.get_text() for tick in two.get_xticklabels() if 1.5 <= tick.get_position()[0] <= 30]
    assert ticks == ["2", "5", "10", "20"]


def test_many_panels_stand_in_rows_and_all_names_of_a_long_legend_are_in_the_picture(tmp_path, drawn):
    panel = Panel({f"a variant with a long name, {i}": ([1, 2], [i, i]) for i in range(60)}, "x", "y")
    panel_figure(tmp_path / "a.png", [panel] * 5, "Five panels")
    (figure,) = drawn
    corners = [axes.get_position() for axes in figure.axes]
    assert len({round(one.y0, 3) for one in corners}) == 3
    assert len({round(one.x0, 3) for one in corners}) == 2
    assert len(corners) == 5
    assert figure.legends[0].get_window_extent().y0 >= 0
    panel_figure(
        tmp_path / "b.png", [Panel({"a name": ([1], [1])}, "x", "y")], "A title as long as one panel is wide is"
    )
    legend, title = drawn[1].legends[0].get_window_extent(), drawn[1]._suptitle.get_window_extent()
    assert title.x1 < legend.x0


def test_a_symmetric_logarithm_shows_zero_and_no_more_below_than_there_is(tmp_path, drawn):
    for least in (0.0, -0.05):
        panel_figure(tmp_path / "a.png", [Panel({"a": ([1, 2], [least, 3.0])}, "x", "y", yscale="symlog")], "t")
    (above, below) = (figure.axes[0].get_ylim() for figure in drawn)
    assert above == (-0.00025, 6.0)
    assert below == (-0.1, 6.0)


def test_panels_that_cannot_be_drawn_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no panel to draw"):
        panel_figure(tmp_path / "a.png", [], "t")
    with pytest.raises(ValueError, match="series 'a' has 2 x and 1 y"):
        panel_figure(tmp_path / "a.png", [Panel({"a": ([1, 2], [1.0])}, "x", "y")], "t")
    with pytest.raises(ValueError, match="series 'a' has 2 x and 1 bounds of its ranges"):
        panel_figure(
            tmp_path / "a.png", [Panel({"a": ([1, 2], [1, 2])}, "x", "y", ranges={"a": ([1.0, 2.0], [3.0])})], "t"
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("yscale", ["linear", "symlog"])
def test_ranges_are_bars_through_the_points(tmp_path, drawn, yscale):
    # 0.3 as a mean may lie a last digit beside the three values
    ranges = {"a": ([-1.0, np.nextafter(0.3, 1)], [5.0, 0.4])}
    series = {"a": ([1, 2], [2.0, 0.3]), "b": ([1], [1.0])}
    panel_figure(tmp_path / "a.png", [Panel(series, "x", "y", yscale=yscale, ranges=ranges)], "t")
    from matplotlib.colors import to_rgb

    (axes,) = drawn[0].axes
    (bars,) = axes.collections
    ends = [sorted(segment[:, 1]) for segment in bars.get_segments()]
    np.testing.assert_allclose(ends, [[-1.0, 5.0], [0.3, 0.4]])
    np.testing.assert_array_equal(bars.get_edgecolor()[0][:3], to_rgb(axes.lines[0].get_color()))
    low, high = axes.get_ylim()
    assert (low < -1, high > 5) == (True, True)


def test_a_series_of_nothing_leaves_its_name_in_the_legend(tmp_path, drawn):
    """As the cosines of a solve of one step."""
    panel_figure(tmp_path / "a.png", [Panel({"a": ([1.0], [1.0]), "b": ([], [])}, "x", "y")], "t")
    assert [text.get_text() for text in drawn[0].legends[0].get_texts()] == ["a", "b"]


def test_more_series_than_colours_are_dashed(tmp_path, drawn):
    line_figure(tmp_path / "a.png", {str(i): ([1], [i]) for i in range(13)}, "x", "y", "t")
    lines = drawn[0].axes[0].lines
    assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == 13


def test_more_series_than_markers(tmp_path, drawn):
    line_figure(tmp_path / "a.png", {str(i): ([1], [i]) for i in range(13)}, "x", "y", "t")
    assert len(drawn[0].axes[0].lines) == 13


def test_table_aligns():
    rows = [*ROWS, {"steps": 100, "loss": 3e-7, "solver": "heun", "note": ""}]
    assert table(rows, ["solver", "steps", "loss"]).splitlines() == [
        "solver  steps    loss",
        "------  -----  ------",
        "euler      12  1.5000",
        "            6  1.6251",
        "heun      100   3e-07",
    ]


def test_table_leaves_no_blanks_at_the_end_of_a_line():
    assert table([{"solver": "rk4"}, {"solver": None}], ["solver"]) == "solver\n------\nrk4\n"


def test_table_without_rows_is_its_header():
    assert table([], ["steps"]).splitlines() == ["steps", "-----"]


def test_numbers_in_a_table():
    numbers = [0.0, -2.5, 1e6, 123456.789, math.nan, math.inf, 0.001]
    assert [figures._cell(x) for x in numbers] == [
        "0.0000", "-2.5000", "1e+06", "123456.7890", "nan", "inf", "0.0010",
    ]  # fmt: skip
