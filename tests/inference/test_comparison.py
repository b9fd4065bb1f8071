"""Rounds of several ways in turn, and what comes of them; no time is waited for."""

import dataclasses
import itertools
import types

import pytest
from tiny_runs import TOKENIZER

from jaxode.inference import Greedy, generate
from jaxode.inference.tasks import comparison
from jaxode.inference.tasks.comparison import FEWEST, MOST, SECONDS, Pace, measure


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still unless it is moved."""

    class Clock:
        now = 0.0

    monkeypatch.setattr(comparison, "time", types.SimpleNamespace(perf_counter=lambda: Clock.now))
    return Clock


@pytest.fixture(scope="module")
def done(causal):
    return generate(*causal, TOKENIZER, "abc", sampling=Greedy(), max_new_tokens=10)


def way(name, seconds, clock, done, calls):
    spent = itertools.chain(seconds, itertools.repeat(seconds[-1]))

    def run():
        calls.append(name)
        clock.now += next(spent)
        return (done, done)

    return run


def test_the_call_that_compiles_is_not_counted_and_the_others_take_turns(clock, done):
    calls = []
    ways = {name: way(name, seconds, clock, done, calls) for name, seconds in (("a", [9.0, 0.5]), ("b", [9.0, 0.25]))}
    found = measure(ways)
    rounds = min(MOST, int(SECONDS / 0.75))
    assert calls == ["a", "b"] * (1 + rounds)
    # two rows of ten tokens
    assert found["a"].rates == (40.0,) * rounds
    assert found["b"].rates == (80.0,) * rounds


@pytest.mark.parametrize(("seconds", "rounds"), [(100.0, FEWEST), (1e-3, MOST)])
def test_what_takes_long_is_measured_less_often(clock, done, seconds, rounds):
    found = measure({"a": way("a", [seconds], clock, done, [])})
    assert len(found["a"].rates) == len(found["a"].rounds) == rounds


def test_median_and_quartiles():
    pace = Pace((100.0, 300.0, 200.0, 500.0, 400.0), ())
    assert pace.columns == {"tokens_per_second": 300, "25%": 200, "75%": 400}
    slow = dataclasses.replace(pace, rates=(1.26, 1.26, 1.26))
    assert slow.columns == {"tokens_per_second": 1.3, "25%": 1.3, "75%": 1.3}


def test_no_text_of_a_measurement_ends_early(causal, done):
    """The greedy text's sixth token as the end of a text."""
    ending = comparison.copy.copy(TOKENIZER)
    ending.end_id = done.ids[5]
    rules = {"sampling": Greedy(), "max_new_tokens": 10}
    assert generate(*causal, ending, "abc", **rules).new_tokens < 10
    assert generate(*causal, comparison._endless(ending), "abc", **rules).ids == done.ids
