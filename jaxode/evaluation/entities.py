"""Entities in labelled words: whole spans that are right or wrong, as CoNLL counts them, by seqeval."""

from __future__ import annotations

import re
from collections.abc import Sequence

from jaxode.evaluation.agreement import agreement

TAG = re.compile(r"O|[BIES](-\S+)?")
"""O outside of entities; B, I (E, S) in one, with its kind behind a hyphen where there are several."""

Sentences = Sequence[Sequence[int | float]]
"""Of every sentence the number of each word's label."""


def mark_entities(labels: Sequence[str]) -> bool:
    """Whether labels of words say where entities begin and end (B-PER, I-PER, O)."""
    return all(TAG.fullmatch(label) for label in labels) and any(label[0] in "BI" for label in labels)


def word_agreement(expected: Sentences, found: Sentences, labels: Sequence[str]) -> dict[str, float]:
    """Names of metrics and their values: of entities where the labels mark them, then of words, as `agreement`.

    F1, precision and recall of entities are over all kinds (micro average). An entity is right if its first word, its
    last word and its kind are. A sequence that IOB2 does not allow is read as the script of CoNLL-2000 reads it: an I
    behind O or behind another kind begins an entity. Where nothing was there or was found a figure is 0.

    Args:
        expected: what the file says.
        found: what the model says, of the same words.
        labels: their names.

    Source:
        Tjong Kim Sang and De Meulder 2003, section 4; seqeval, its default mode.
    """
    want, have = ([(label,) for sentence in sentences for label in sentence] for sentences in (expected, found))
    entities = _entities(expected, found, labels) if mark_entities(labels) else {}
    return entities | agreement(want, have, "single_label_classification", labels)


def word_metric_names(labels: Sequence[str]) -> tuple[str, ...]:
    """What `word_agreement` says of words with such labels, in its order."""
    some = [[0, len(labels) - 1]]
    return tuple(word_agreement(some, some, labels))


def _entities(expected: Sentences, found: Sentences, labels: Sequence[str]) -> dict[str, float]:
    from seqeval import metrics

    tags = [[[labels[int(label)] for label in sentence] for sentence in sentences] for sentences in (expected, found)]
    scores = {
        "entity F1": metrics.f1_score,
        "entity precision": metrics.precision_score,
        "entity recall": metrics.recall_score,
    }
    return {name: float(score(*tags, average="micro", zero_division=0)) for name, score in scores.items()}  # pyright: ignore
