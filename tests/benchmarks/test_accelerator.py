"""The command that measures an accelerator: its record survives kills, its table is drawn from nothing else."""

import dataclasses
import os
import signal
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import pytest
from accelerators import command
from accelerators.decoding import bytes_read, texts
from accelerators.record import Line, Machine, append, figures, read
from accelerators.scale import TINY
from accelerators.speculating import CHECKS, Round, rounds
from accelerators.table import BEGIN, EMPTY, END, draw, write

from jaxode.config import DepthConfig
from jaxode.model import make_model

ROOT = Path(__file__).resolve().parents[2]
MACHINE = Machine("a chip", "0.10.2", "full", "sha256:1")


def line(part="chip", machine=MACHINE, skipped=None, **values):
    return Line.now(machine, part, 1.0, values, skipped or {})


def test_a_line_that_was_cut_off_is_no_line_and_swallows_none(tmp_path):
    record = tmp_path / "record.jsonl"
    append(record, line(a=1.0))
    append(record, line(b=2.0))
    record.write_bytes(record.read_bytes()[:-20])
    append(record, line(c=3.0))
    assert [found.figures for found in read(record)] == [{"a": 1.0}, {"c": 3.0}]


def test_the_newest_figure_counts_and_only_of_this_machine_and_code():
    assert figures([line(a=1.0), line(a=2.0, b=3.0)]) == {"a": 2.0, "b": 3.0}
    assert line().of(MACHINE)
    for name in ("device", "jax", "scale", "source"):
        assert not line(machine=dataclasses.replace(MACHINE, **{name: "other"})).of(MACHINE)


def parts_of(calls, fails=()):
    def part(name):
        def run(scale, known):
            calls.append((name, dict(known)))
            if name in fails:
                raise MemoryError("too much")
            return {name: 1.0}, {}

        return run

    return {name: part(name) for name in ("first", "second", "third")}


def test_a_second_run_measures_what_the_record_lacks(tmp_path, monkeypatch, capsys):
    calls, record = [], tmp_path / "record.jsonl"
    monkeypatch.setattr(command, "parts", lambda scale: parts_of(calls, fails=("second",)))
    command.measure(TINY, record, minutes=1)
    # each knows what came before, and a part that fails takes none along
    assert calls == [("first", {}), ("second", {"first": 1.0}), ("third", {"first": 1.0})]
    assert "left out: second (MemoryError: too much)" in capsys.readouterr().out
    monkeypatch.setattr(command, "parts", lambda scale: parts_of(calls))
    calls.clear()
    command.measure(TINY, record, minutes=1)
    assert calls == [("second", {"first": 1.0, "third": 1.0})]
    calls.clear()
    command.measure(TINY, record, minutes=1)
    assert not calls
    assert set(figures(read(record))) == {"first", "second", "third"}


def test_what_is_not_reached_in_time_is_said(tmp_path, monkeypatch, capsys):
    calls = []
    monkeypatch.setattr(command, "parts", lambda scale: parts_of(calls))
    command.measure(TINY, tmp_path / "record.jsonl", minutes=-1)
    assert not calls
    assert capsys.readouterr().out.count("not reached in -1 minutes; the same command goes on here") == 3


def test_a_column_a_machine_and_empty_cells_for_what_it_lacks():
    other = dataclasses.replace(MACHINE, device="another")
    lines = [line("encoder", a=1234.5), line(b=0.98765), line(machine=other, b=1.0, skipped={"PyTorch": "none here"})]
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in draw(lines, ["chip", "encoder"]).splitlines()]
    assert rows[0] == ["figure", "to reach", "a chip", "another"]
    # in the order of the parts
    assert rows[5:7] == [["b", "", "0.988", "1"], ["a", "", "1,234", ""]]
    assert draw(lines, ["chip", "encoder"]).endswith("- another: PyTorch was left out (none here)")


def test_a_test_of_the_command_is_no_measurement():
    assert draw([line(machine=dataclasses.replace(MACHINE, scale="tiny"), a=1.0)], []) == EMPTY


def test_only_the_table_of_the_page_is_written(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    write(page, [], [])
    assert page.read_text() == f"before\n{BEGIN}\n\n{EMPTY}\n\n{END}\nafter\n"


def test_the_page_shows_the_record():
    table = draw(read(command.RECORD), list(command.parts(command.FULL)))
    assert f"{BEGIN}\n\n{table}\n\n{END}" in command.PAGE.read_text(encoding="utf-8")


def test_bytes_of_a_token_are_those_of_the_weights_that_it_reads():
    model = TINY.causal(32)
    sizes = {name: value.size for name, value in named_parameters(model)}
    block = sum(size for name, size in sizes.items() if name.endswith("kernel"))
    head = sizes["embedding.tokens.embedding"]
    cache = 2 * 3 * 10 * 32
    assert bytes_read(model, DepthConfig(steps=2), rows=3, tokens=10, itemsize=2) == 2 * (2 * (block + cache) + head)


def named_parameters(model):
    from jaxode.model.parameters import split

    return split(make_model(model))[1].items()


def test_rows_are_continued_and_stand_where_they_stood():
    decoded = texts(TINY, TINY.causal(32), 2, DepthConfig())
    places = set()
    for _ in range(3):
        decoded()
        places.add((int(decoded.past.end[0]), int(decoded.rows.count[0])))
        assert bool(jnp.all(decoded.rows.active))
    assert places == {(TINY.context, 0)}


@pytest.mark.broad
@pytest.mark.parametrize("tokens", CHECKS[1:])
def test_all_rounds_of_a_call_are_made_whatever_is_accepted(tokens):
    made = Round(texts(TINY, TINY.causal(32), 1, DepthConfig()), DepthConfig(steps=1), tokens - 1)()
    assert int(made) == rounds(tokens - 1)


@pytest.mark.deep
@pytest.mark.slow
def test_a_run_that_was_killed_goes_on_to_one_full_table(tmp_path):
    record = tmp_path / "record.jsonl"
    call = [sys.executable, "benchmarks/accelerator.py", "--tiny", "--minutes", "60", "--out", str(record)]
    # no path of the package, and where nothing is installed but what is measured
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    first = subprocess.Popen(call, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    assert first.stdout is not None
    for text in first.stdout:
        # the second part has begun by now
        if text.startswith("chip"):
            first.send_signal(signal.SIGKILL)
            break
    first.wait()
    first.stdout.close()
    measured = {found.part for found in read(record)}
    assert 1 <= len(measured) < len(command.parts(TINY))
    second = subprocess.run(call, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    lines = read(record)
    assert [found.part for found in lines] == list(command.parts(TINY))
    assert all(found.figures for found in lines), second.stdout
    assert all(value > 0 for value in figures(lines).values())
    # one machine, one code: one table
    assert len({(found.device, found.jax, found.source) for found in lines}) == 1
