"""What a measurement leaves behind: a CSV file, a PNG figure, a table on the terminal.

Nothing here imports jax, so plotting grabs no device. Files appear whole or not at all.
"""

import csv
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from jaxode.config import UserError

Series = Mapping[str, tuple[Sequence[float | int], Sequence[float | int]]]  # name -> (x, y)
Ranges = Mapping[str, tuple[Sequence[float | int], Sequence[float | int]]]  # name -> (lowest, highest) y

PANELS_IN_A_ROW = 3
"""More of them cannot be read across a page, and stand two in a row."""
LEGEND_LINE = 0.21
"""Inches."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary neighbour of `path` that replaces it on success and is removed on failure."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # not tempfile: its files are readable by their owner only, and stay so after the rename
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def writing(folder: Path, what: str) -> Iterator[None]:
    """Where a folder cannot be written, by a full disk for instance, say so in one line.

    Raises:
        UserError: it cannot.
    """
    try:
        yield
    except OSError as error:
        raise UserError(f"{folder}: {what} cannot be written there: {error.strerror or error}") from None


def write_csv(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """Write one line a row under a header; columns stand in the order of their first appearance, None is empty.

    Raises:
        ValueError: no rows, so no header.
    """
    if not rows:
        raise ValueError(f"{path}: no rows to write, so the columns are unknown; measure something first")
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def read_csv(path: Path) -> list[dict[str, Any]]:
    """Read what `write_csv` wrote: numbers come back as int or float, True and False as bool, an empty cell as None."""
    with path.open(newline="", encoding="utf-8") as file:
        return [{name: _value(cell) for name, cell in row.items()} for row in csv.DictReader(file)]


def _value(cell: str) -> Any:
    words = {"": None, "True": True, "False": False}
    if cell in words:
        return words[cell]
    for kind in (int, float):
        try:
            return kind(cell)
        except ValueError:
            continue
    return cell


def line_figure(
    path: Path,
    series: Series,
    xlabel: str,
    ylabel: str,
    title: str,
    *,
    logx: bool = False,
    logy: bool = False,
) -> None:
    """Draw each named (x, y) as a line with markers, 960 by 630 pixels, and write it to `path` as PNG.

    Raises:
        ValueError: no series, or one whose x and y differ in length.
    """
    panel = Panel(series, xlabel, ylabel, title, logx=logx, yscale="log" if logy else "linear")
    _check(path, [panel])
    figure = _figure(6.4, 4.2)
    axes = figure.add_subplot()
    _draw(axes, panel, list(series))
    if len(series) > 1:
        axes.legend(frameon=False)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png")


@dataclass(frozen=True)
class Panel:
    """One pair of axes of a figure."""

    series: Series
    xlabel: str
    ylabel: str
    title: str = ""
    logx: bool = False
    yscale: Literal["linear", "log", "symlog"] = "linear"
    """symlog: logarithmic, and linear between -`linear_within` and `linear_within`, so that 0 has a place."""
    linear_within: float = 1e-3
    ranges: Ranges = field(default_factory=dict)
    """A bar through each point of a name's series: between which values its mean lies."""


def panel_figure(path: Path, panels: Sequence[Panel], title: str) -> None:
    """Draw panels, each 810 pixels wide and up to three of them in a row, beside one legend in which a name has one
    colour and marker.

    Raises:
        ValueError: no panel, one without series, or a series whose x, y and ranges differ in length.
    """
    if not panels:
        raise ValueError(f"{path}: no panel to draw")
    _check(path, panels)
    names = list(dict.fromkeys(name for panel in panels for name in panel.series))
    columns = len(panels) if len(panels) <= PANELS_IN_A_ROW else 2
    rows = math.ceil(len(panels) / columns)
    figure = _figure(5.4 * columns + 1.8, max(5.2 if rows == 1 else 3.8 * rows, LEGEND_LINE * (len(names) + 1)))
    figure.suptitle(title, x=0.01, horizontalalignment="left")  # the legend stands in the upper right
    drawn: dict[str, Any] = {}
    places = figure.subplots(rows, columns, squeeze=False).flat
    for panel, axes in zip(panels, places, strict=False):
        drawn |= _draw(axes, panel, names)
    for axes in places:  # those left over
        axes.remove()
    figure.legend([drawn[name] for name in names], names, loc="outside right upper", frameon=False)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png")


def _check(path: Path, panels: Sequence[Panel]) -> None:
    for panel in panels:
        if not panel.series:
            raise ValueError(f"{path}: no series to draw; give at least one name with its (x, y)")
        for name, (x, y) in panel.series.items():
            if len(x) != len(y):
                raise ValueError(f"{path}: series {name!r} has {len(x)} x and {len(y)} y; give as many of each")
            for bounds in panel.ranges.get(name, ()):
                if len(bounds) != len(x):
                    raise ValueError(f"{path}: series {name!r} has {len(x)} x and {len(bounds)} bounds of its ranges")


def _figure(width: float, height: float) -> Any:
    # Figure, not pyplot: no global state, no window system
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _draw(axes: Any, panel: Panel, names: Sequence[str]) -> dict[str, Any]:
    """Draw on matplotlib axes; returns the line of each name. The place of a name in `names` decides how it looks."""
    from matplotlib.ticker import FixedLocator, MaxNLocator, NullFormatter, NullLocator, StrMethodFormatter

    lines = {}
    for name, (x, y) in panel.series.items():
        number = names.index(name)
        (lines[name],) = axes.plot(
            x,
            y,
            color=f"C{number % 10}",
            marker=_markers(number + 1)[-1],
            # after ten colours
            linestyle="-" if number < 10 else "--",
            markersize=5,
            linewidth=1.5,
            label=name,
        )
        if name in panel.ranges:
            low, high = panel.ranges[name]
            # a mean of equal values may lie a last digit beside them
            below = [max(mean - least, 0.0) for mean, least in zip(y, low, strict=True)]
            above = [max(most - mean, 0.0) for mean, most in zip(y, high, strict=True)]
            axes.errorbar(x, y, (below, above), fmt="none", ecolor=f"C{number % 10}", elinewidth=1.0, capsize=3)
    axes.set(xlabel=panel.xlabel, ylabel=panel.ylabel, title=panel.title)
    if panel.logx:
        axes.set_xscale("log")
    if panel.yscale == "symlog":
        axes.set_yscale("symlog", linthresh=panel.linear_within, linscale=0.5)
        axes.axhline(0.0, color="0.4", linewidth=0.8)
        # left alone, matplotlib shows as many powers of ten below 0 as above
        drawn = [*(y for _, y in panel.series.values()), *(y for bounds in panel.ranges.values() for y in bounds)]
        values = [value for y in drawn for value in y] or [0.0]
        margin = panel.linear_within / 4
        axes.set_ylim(min(2 * min(values), -margin), max(2 * max(values), margin))
    else:
        axes.set_yscale(panel.yscale)

    positions = sorted({value for x, _ in panel.series.values() for value in x})
    if all(isinstance(value, int) for value in positions):
        if not panel.logx:
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        elif len(positions) <= 10:  # the steps that were measured say more than powers of ten
            axes.xaxis.set_major_locator(FixedLocator(positions))
            axes.xaxis.set_minor_locator(NullLocator())
            axes.xaxis.set_major_formatter(StrMethodFormatter("{x:.0f}"))
    elif panel.logx and positions and positions[-1] < 100 * max(positions[0], 1e-9):
        # too few powers of ten to label
        axes.xaxis.set_major_locator(FixedLocator(_round_numbers(positions[0], positions[-1])))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(True, which="major", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    return lines


def _round_numbers(low: float, high: float) -> list[float]:
    """1, 2, 5, 10, 20, .. from just below `low` to just above `high`."""
    exponents = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
    numbers = [factor * 10.0**exponent for exponent in exponents for factor in (1, 2, 5)]
    return [number for number in numbers if low / 2.6 < number < high * 2.6]


def _markers(count: int) -> list[str]:
    return ["os^Dv<>pP*X"[i % 11] for i in range(count)]  # lines stay apart in grey and for the colour-blind


def table(rows: Sequence[Mapping[str, object]], columns: Sequence[str]) -> str:
    """Lay out `columns` of `rows` as plain text: numbers to the right with 4 decimals, text to the left, None empty."""
    cells = [[_cell(row.get(name)) for name in columns] for row in rows]
    numeric = [all(isinstance(row.get(name), int | float | None) for row in rows) for name in columns]
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]

    def line(texts: Sequence[str]) -> str:
        aligned = (t.rjust(w) if right else t.ljust(w) for t, w, right in zip(texts, widths, numeric, strict=True))
        return "  ".join(aligned).rstrip()

    return "\n".join([line(columns), line(["-" * w for w in widths]), *map(line, cells)])


def _cell(value: object) -> str:
    if value is None:
        return ""
    if not isinstance(value, float):
        return str(value)
    # small and large numbers keep their digits: 3.0000e-07, not 0.0000
    return f"{value:.4f}" if value == 0 or 1e-3 <= abs(value) < 1e6 else f"{value:.4g}"
