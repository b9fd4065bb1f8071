"""Schedules rise from 0, fill their interval, and come apart only between groups."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxode.config import UserError
from jaxode.depth import Schedule, make_schedule

spans = st.floats(0.5, 64.0)
counts = st.integers(1, 32)
step_sizes = st.lists(st.floats(0.05, 8.0), min_size=1, max_size=16).map(tuple)


def rises_from_zero_to(end, schedule):
    times = schedule.times
    return times[0] == 0.0 and math.isclose(times[-1], end) and all(a < b for a, b in itertools.pairwise(times))


# --- construction ---------------------------------------------------------------------------------------------------


@given(spans, counts)
def test_even_divides_the_interval_equally(span, steps):
    schedule = Schedule.even(span, steps)
    assert schedule.steps == len(schedule.sizes) == steps
    assert rises_from_zero_to(span, schedule)
    np.testing.assert_allclose(schedule.sizes, span / steps, rtol=1e-9)


def test_even_at_the_trained_depth_takes_unit_steps():
    assert Schedule.even(12, 12).times == tuple(range(13))


@given(st.integers(1, 32), st.data())
def test_unit_stops_after_n_steps_of_size_one(span, data):
    steps = data.draw(st.integers(1, span))
    assert Schedule.unit(span, steps).times == tuple(range(steps + 1))


def test_unit_goes_on_beyond_the_trained_interval():
    assert Schedule.unit(4, 7).times == make_schedule("unit", 4, 7).times == tuple(range(8))


@given(spans, st.integers(2, 12), st.floats(0.4, 2.5))
def test_geometric_sizes_grow_by_the_ratio(span, steps, ratio):
    schedule = Schedule.geometric(span, steps, ratio)
    assert rises_from_zero_to(span, schedule)
    np.testing.assert_allclose(np.divide(schedule.sizes[1:], schedule.sizes[:-1]), ratio, rtol=1e-5)


@given(step_sizes)
def test_from_sizes_keeps_the_sizes(sizes):
    schedule = Schedule.from_sizes(sizes)
    assert rises_from_zero_to(sum(sizes), schedule)
    np.testing.assert_allclose(schedule.sizes, sizes, rtol=1e-9)


@given(step_sizes, spans)
def test_from_sizes_rescales_to_the_span(sizes, span):
    schedule = Schedule.from_sizes(sizes, span)
    assert rises_from_zero_to(span, schedule)
    np.testing.assert_allclose(schedule.sizes, np.array(sizes) * span / sum(sizes), rtol=1e-6)


def test_a_schedule_is_a_static_argument():
    assert Schedule((0, 1, 3)) == Schedule((0.0, 1.0, 3.0))
    assert hash(Schedule((0, 1, 3))) == hash(Schedule((0.0, 1.0, 3.0)))


@pytest.mark.parametrize(
    ("name", "steps", "times"),
    [
        ("even", 4, (0, 3, 6, 9, 12)),
        ("unit", 4, (0, 1, 2, 3, 4)),
        ("geometric:2", 2, (0, 4, 12)),
        ("geometric:0.5", 2, (0, 8, 12)),
        ("1,2,4,5", 4, (0, 1, 3, 7, 12)),
        ("0.5, 11.5", 2, (0, 0.5, 12)),
    ],
)
def test_make_schedule_reads_names(name, steps, times):
    np.testing.assert_allclose(make_schedule(name, 12.0, steps).times, times, rtol=1e-9)


# --- groups ---------------------------------------------------------------------------------------------------------


def rejoin(pieces):
    times = [0.0]
    for piece in pieces:
        start = times[-1]
        times += [start + t for t in piece.times[1:]]
    return times


@given(spans, st.integers(1, 6), st.integers(1, 6))
def test_split_pieces_rejoin(span, parts, each):
    whole = Schedule.even(span, parts * each)
    pieces = whole.split(parts)
    assert [piece.steps for piece in pieces] == [each] * parts
    assert all(math.isclose(piece.times[-1], span / parts, rel_tol=1e-6) for piece in pieces)
    np.testing.assert_allclose(rejoin(pieces), whole.times, rtol=1e-6, atol=1e-9)


@given(st.lists(step_sizes, min_size=2, max_size=4), spans)
def test_split_finds_the_uneven_steps_of_every_group(groups, span):
    pieces = [Schedule.from_sizes(sizes, span / len(groups)) for sizes in groups]
    found = Schedule(tuple(rejoin(pieces))).split(len(groups))
    assert [piece.steps for piece in found] == [len(sizes) for sizes in groups]
    for piece, want in zip(found, pieces, strict=True):
        np.testing.assert_allclose(piece.times, want.times, atol=1e-5)


# --- refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Schedule((0.0,)), r"schedule \(0.0,\): needs at least a start and an end"),
        (lambda: Schedule((0.0, 2.0, 2.0)), "2 does not rise above 2"),
        (lambda: Schedule((0.0, 2.0, 1.0)), "1 does not rise above 2"),
        (lambda: Schedule((0.0, 1.0, 1.0 + 1e-9)), "does not rise above"),
        (lambda: Schedule((0.0, float("nan"))), "every time must be finite"),
        (lambda: Schedule((0.0, float("inf"))), "every time must be finite"),
        (lambda: Schedule.even(12, 0), "depth.steps = 0: must be at least 1"),
        (lambda: Schedule.unit(12, 0), "depth.steps = 0: must be at least 1"),
        (lambda: Schedule.geometric(12, 0, 2.0), "depth.steps = 0: must be at least 1"),
        (lambda: Schedule.from_sizes((1.0, -1.0), 12.0), "0 does not rise above 1"),
        (lambda: Schedule.from_sizes((1.0, float("nan")), 12.0), "every time must be finite"),
        (lambda: Schedule.from_sizes((), 12.0), "needs at least a start and an end"),
        (lambda: Schedule.even(12, 3).split(2), "steps across the boundary between two of 2 groups"),
        (lambda: Schedule.even(12, 2).split(3), "a multiple of 3 even steps does"),
        (lambda: make_schedule("even", 12, 0), "depth.steps = 0: must be at least 1"),
        (lambda: make_schedule("evenly", 12, 4), 'depth.schedule = "evenly": allowed are even, unit, geometric:RATIO'),
        (lambda: make_schedule("", 12, 4), 'depth.schedule = "": allowed are even'),
        (lambda: make_schedule("geometric:fast", 12, 4), 'depth.schedule = "geometric:fast": allowed are'),
        (lambda: make_schedule("geometric:-1", 12, 4), "the ratio must be positive"),
        (lambda: make_schedule("geometric:nan", 12, 4), "the ratio must be positive"),
        (lambda: make_schedule("geometric:1e300", 12, 4), "times must rise"),
        (lambda: make_schedule("1,2,4,5", 12, 3), 'depth.schedule = "1,2,4,5" has 4 steps but depth.steps = 3'),
        (lambda: make_schedule("1,2,4,4", 12, 4), "sums to 11: must reach the end of the interval, 12"),
        (lambda: make_schedule("1,nan", 12, 2), "sums to nan: must reach the end of the interval"),
        (lambda: make_schedule("4,-1,9", 12, 3), "3 does not rise above 4"),
    ],
)
def test_refusals_name_the_value_and_what_is_allowed(build, message):
    with pytest.raises(UserError, match=message):
        build()


def test_ten_thousand_steps_are_checked_one_by_one():
    # a message for each step would hold all of the times
    assert Schedule.even(10_000, 10_000).sizes == (1.0,) * 10_000
