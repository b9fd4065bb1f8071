"""Medians of rounds in which candidates take turns."""

import time

import pytest

from jaxode.evaluation import timing
from jaxode.evaluation.timing import median_times


def test_candidates_take_turns_after_one_call_each():
    called, ticks = [], []
    candidates = {name: lambda name=name: called.append(name) for name in ("a", "b")}
    assert list(median_times(candidates, 3, lambda: ticks.append(len(called)))) == ["a", "b"]
    assert called == ["a", "b"] * 4
    assert ticks == [3, 4, 5, 6, 7, 8]


def test_the_median_of_what_the_clock_says(monkeypatch):
    now = iter([0.0, 0.001, 1.0, 1.005, 2.0, 2.1])
    monkeypatch.setattr(time, "perf_counter", lambda: next(now))
    assert median_times({"a": lambda: None}, 3)["a"] == pytest.approx(5.0)


def test_every_result_is_waited_for(monkeypatch):
    waited = []
    monkeypatch.setattr(timing.jax, "block_until_ready", waited.append)
    median_times({"a": lambda: "result"}, 2)
    assert waited == ["result"] * 3


@pytest.mark.parametrize(("enough", "rounds"), [(0.02, 3), (0.031, 4), (1.0, 6)])
def test_no_round_begins_after_enough(monkeypatch, enough, rounds):
    """Each call takes 5 ms by this clock: two are 10 ms a round."""
    now, ticks, called = iter(range(100)), [], []
    monkeypatch.setattr(time, "perf_counter", lambda: 0.005 * next(now))
    candidates = {name: lambda name=name: called.append(name) for name in ("a", "b")}
    assert median_times(candidates, 6, lambda: ticks.append(1), enough=enough)["a"] == pytest.approx(5.0)
    assert len(called) == 2 * (1 + rounds)
    assert len(ticks) == 12
