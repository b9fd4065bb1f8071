"""Labels as files have them."""

import pytest

from jaxode.config import UserError
from jaxode.data.targets import read_targets

ONE, SEVERAL, NUMBERS = "single_label_classification", "multi_label_classification", "regression"


def read(value, kind, labels):
    return read_targets([value], kind, labels, ["a.tsv: line 2"])[0]


@pytest.mark.parametrize(
    ("value", "kind", "labels", "expected"),
    [
        ("good", ONE, ("bad", "good"), (1,)),
        (" good ", ONE, ("bad", "good"), (1,)),
        ("1", ONE, ("bad", "good"), (1,)),
        (1, ONE, ("bad", "good"), (1,)),
        (1.0, ONE, ("bad", "good"), (1,)),
        (True, ONE, ("False", "True"), (1,)),
        # names that are numbers are names
        ("1", ONE, ("1", "0"), (0,)),
        ("so, so", ONE, ("so, so", "good"), (0,)),
        ([2, 0], SEVERAL, ("a", "b", "c"), (0, 2)),
        ("c;a;c", SEVERAL, ("a", "b", "c"), (0, 2)),
        ("", SEVERAL, ("a", "b"), ()),
        # as `--task classify` writes a label that holds what parts them
        ('"so; so";good', SEVERAL, ("good", "so; so"), (0, 1)),
        ("so\nso; good", SEVERAL, ("good", "so\nso"), (0, 1)),
        ("a" * 200_000, SEVERAL, ("a" * 200_000,), (0,)),
        ("3.5", NUMBERS, ("score",), (3.5,)),
        (4, NUMBERS, ("score",), (4.0,)),
        ([1, 2.5], NUMBERS, ("x", "y"), (1.0, 2.5)),
    ],
)
def test_labels_by_name_and_number(value, kind, labels, expected):
    assert read(value, kind, labels) == expected


@pytest.mark.parametrize(
    ("value", "kind", "labels", "message"),
    [
        (
            "worse",
            ONE,
            ("bad", "good"),
            'line 2: label "worse" is none of the model\'s: bad, good, or a number from 0 to 1',
        ),
        ("2", ONE, ("bad", "good"), 'label "2" is none'),
        ("2", ONE, ("0", "1"), "none of the model's: 0, 1$"),
        # a place among labels would be another one's name
        ("1", ONE, ("1.0", "2.0"), r'label "1" is none of the model\'s: 1\.0, 2\.0$'),
        ("1", ONE, ("+1", "-1"), r'label "1" is none of the model\'s: \+1, -1$'),
        ("", ONE, ("bad", "good"), "label '' is none"),
        ("a;d", SEVERAL, ("a", "b"), 'label "d"'),
        (None, ONE, ("bad", "good"), "label None is none; a label is a text or a whole number"),
        (["good"], ONE, ("bad", "good"), "is none; a label is a text"),
        ("²", ONE, ("bad", "good"), 'label "²" is none'),
        ("3,5", NUMBERS, ("score",), "'3,5' is no number"),
        ("many", NUMBERS, ("score",), "line 2: 'many' is no number"),
        ("nan", NUMBERS, ("score",), "'nan' is no number"),
        ("1_000", NUMBERS, ("score",), "line 2: '1_000' is no number"),
        (True, NUMBERS, ("score",), "True is no number"),
        (None, NUMBERS, ("x", "y"), "None is no number"),
        ("1e39", NUMBERS, ("score",), "'1e39' is no number"),
        (10**400, NUMBERS, ("score",), "line 2: 10+ is no number"),
        ("", NUMBERS, ("x", "y"), "line 2 has 0 numbers to predict, the model gives 2"),
        ("1;2", NUMBERS, ("score",), "line 2 has 2 numbers to predict, the model gives 1"),
    ],
)
def test_other_labels_are_refused_with_the_line(value, kind, labels, message):
    with pytest.raises(UserError, match=message):
        read(value, kind, labels)
