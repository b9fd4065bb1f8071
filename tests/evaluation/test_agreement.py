"""Metrics of predictions, by hand where a hand can count."""

import math

import pytest

from jaxode.evaluation.agreement import agreement

ONE, SEVERAL, NUMBERS = "single_label_classification", "multi_label_classification", "regression"


def test_of_two_labels():
    found = agreement([(1,), (1,), (0,), (0,)], [(1,), (0,), (0,), (0,)], ONE, ("bad", "good"))
    assert found["accuracy"] == 0.75
    assert found["F1 of good"] == pytest.approx(2 / 3)
    assert found["Matthews correlation"] == pytest.approx(1 / math.sqrt(3))


def test_of_more_labels_f1_is_a_mean():
    found = agreement([(0,), (1,), (2,)], [(0,), (1,), (1,)], ONE, ("a", "b", "c"))
    assert found["F1, mean over labels"] == pytest.approx((1 + 2 / 3 + 0) / 3)


def test_of_several_labels():
    found = agreement([(0, 1), ()], [(0,), ()], SEVERAL, ("a", "b"))
    assert found == {
        "accuracy": 0.5,
        "F1": pytest.approx(2 / 3),
        "F1, mean over labels": pytest.approx(0.5),
    }


def test_of_one_yes_or_no():
    found = agreement([(0,), ()] + [()] * 8, [()] * 10, SEVERAL, ("toxic",))
    assert found == {"accuracy": 0.9, "F1": 0.0}


def test_of_numbers():
    found = agreement([(1.0,), (2.0,), (3.0,)], [(2.0,), (4.0,), (6.0,)], NUMBERS, ("score",))
    assert found["Pearson correlation"] == pytest.approx(1)
    assert found["Spearman correlation"] == pytest.approx(1)
    assert found["root mean square error"] == pytest.approx(math.sqrt(14 / 3))
    pairs = agreement([(0.0, 0.0), (1.0, 2.0)], [(0.0, 3.0), (1.0, 2.0)], NUMBERS, ("a", "b"))
    assert pairs["root mean square error"] == pytest.approx(1.5)  # of all four; a mean of two roots would be 1.06
    still = agreement([(1.0,), (2.0,)], [(0.0,), (0.0,)], NUMBERS, ("score",))
    assert math.isnan(still["Pearson correlation"])
