"""Entities of labelled words, by hand where a hand can count."""

import pytest

from jaxode.evaluation.entities import mark_entities, word_agreement, word_metric_names

TAGS = ("B-LOC", "B-PER", "I-LOC", "I-PER", "O")


def of(expected, found, tags=TAGS):
    numbers = ([[tags.index(tag) for tag in line.split()] for line in lines] for lines in (expected, found))
    return word_agreement(*numbers, tags)


def test_a_span_is_right_as_a_whole():
    metrics = of(["B-PER I-PER O B-LOC", "O B-LOC"], ["B-PER I-PER O B-PER", "B-LOC I-LOC"])
    # three entities, three found, and one in common
    assert metrics["entity F1"] == pytest.approx(1 / 3)
    assert metrics["accuracy"] == pytest.approx(3 / 6)
    # two found of which one is there
    metrics = of(["B-PER I-PER O", "O O"], ["B-PER I-PER O", "O B-LOC"])
    assert (metrics["entity precision"], metrics["entity recall"]) == (0.5, 1.0)
    assert next(iter(metrics)) == "entity F1"


@pytest.mark.parametrize(
    ("line", "same"),
    [
        ("O I-PER I-PER", "O B-PER I-PER"),  # an I behind O begins
        ("B-PER I-LOC O", "B-PER B-LOC O"),  # and one of another kind
        ("B-PER O I-PER", "B-PER O B-PER"),
        ("I-PER I-PER B-PER", "B-PER I-PER B-PER"),  # as IOB1 is written
    ],
)
def test_what_iob2_does_not_allow_is_read_as_conll_reads_it(line, same):
    assert of([same], [line])["entity F1"] == 1.0


def test_an_entity_ends_with_its_sentence():
    assert of(["O B-PER", "I-PER O"], ["O B-PER", "B-PER O"])["entity F1"] == 1.0


def test_nothing_there_and_nothing_found_is_0():
    assert of(["O O"], ["O O"])["entity F1"] == 0.0


def test_single_words_and_ends_may_be_marked():
    tags = ("B-X", "E-X", "I-X", "O", "S-X")
    assert of(["B-X I-X E-X S-X O"], ["B-X I-X E-X O O"], tags)["entity F1"] == pytest.approx(2 / 3)


def test_labels_that_mark_entities():
    assert mark_entities(TAGS)
    assert mark_entities(("B", "I", "O"))
    assert not mark_entities(("NN", "VB", "O"))
    assert not mark_entities(("B-PER", "Inside"))
    assert not mark_entities(("E", "O"))
    assert "entity F1" in word_metric_names(TAGS)
    assert word_metric_names(("NN", "VB"))[0] == "accuracy"
