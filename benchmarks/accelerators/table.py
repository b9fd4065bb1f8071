"""docs/accelerators.md: the record as a table, a column a machine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from accelerators.record import Line, figures
from jaxode.evaluation.figures import replacing

BEGIN, END = "<!-- table: python benchmarks/accelerator.py --table -->", "<!-- end of the table -->"
EMPTY = "Nothing was measured yet."
BARS = {
    "D 2048, forward: share of the peak": ">= 0.60",
    "D 2048, update, recursive: share of the peak": ">= 0.50",
    "D 2048, update, remat: share of the peak": ">= 0.50",
    **{f"n = {n}: time over n/24 of full depth": "<= 1.05" for n in (12, 8, 6, 4)},
    "D 2048, 64 rows, n = 24 of 24: share of the bandwidth": ">= 0.60",
    "speculation, 80% of the drafts accepted: speed over plain": ">= 1.5",
    **{f"encoder, {rows} texts, n = 12: speed over PyTorch compiled": ">= 1.2" for rows in (8, 32, 256)},
    "D 1024, update, nested, N = 48: memory over N = 12": "<= 1.2",
    "D 1024, update, fsdp of size 1: time over a plain one": "<= 1.02",
}
"""What a large accelerator should reach."""


def draw(lines: Sequence[Line], parts: Sequence[str]) -> str:
    """The table in Markdown: figures in the order of the parts, the newest of each machine."""
    lines = [line for line in lines if line.scale != "tiny"]
    if not lines:
        return EMPTY
    machines = list(dict.fromkeys(line.device for line in lines))
    columns = {machine: [line for line in lines if line.device == machine] for machine in machines}
    rank = {part: place for place, part in enumerate(parts)}
    ordered = sorted(lines, key=lambda line: rank.get(line.part, len(rank)))
    names = list(dict.fromkeys(name for line in ordered for name in line.figures))
    values = {machine: figures(columns[machine]) for machine in machines}
    rows = [
        ["figure", "to reach", *machines],
        ["---", "---", *("---:" for _ in machines)],
        ["date", "", *(columns[machine][-1].date for machine in machines)],
        ["JAX", "", *(columns[machine][-1].jax for machine in machines)],
        ["products in", "", *(TYPES[columns[machine][-1].scale] for machine in machines)],
        *([name, BARS.get(name, ""), *(_number(values[machine].get(name)) for machine in machines)] for name in names),
    ]
    table = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    skipped = [
        f"- {machine}: {what} was left out ({why})"
        for machine in machines
        for what, why in {what: why for line in columns[machine] for what, why in line.skipped.items()}.items()
    ]
    return "\n".join([table, *(["", *skipped] if skipped else [])])


TYPES = {"full": "bfloat16", "cpu": "float32"}


def write(page: Path, lines: Sequence[Line], parts: Sequence[str]) -> None:
    """Put the table between the page's two marks."""
    before, rest = page.read_text(encoding="utf-8").split(BEGIN)
    _, after = rest.split(END)
    with replacing(page) as temporary:
        temporary.write_text(f"{before}{BEGIN}\n\n{draw(lines, parts)}\n\n{END}{after}", encoding="utf-8")


def _number(value: float | None) -> str:
    if value is None:
        return ""
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"
