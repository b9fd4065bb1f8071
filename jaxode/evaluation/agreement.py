"""How predictions agree with what a file says, by scikit-learn's metrics."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

Values = Sequence[Sequence[float | int]]
"""Of every text the numbers of labels that hold, or those that a regression gives."""


def agreement(expected: Values, found: Values, problem_type: str, labels: Sequence[str]) -> dict[str, float]:
    """Names of metrics and their values.

    Of one label a text: accuracy, F1 (of label 1 where there are two, else the mean over labels) and Matthews'
    correlation. Of several: the share of texts with exactly the right ones, F1 over all decisions and the mean over
    labels. Of numbers: Pearson's and Spearman's correlation (means over several), and the root mean square error (over
    all of several). A correlation of what does not vary is not a number.

    Args:
        expected: what the file says.
        found: what the model says.
        problem_type: of the model, as transformers calls it.
        labels: their names.
    """
    from sklearn import metrics

    if problem_type == "regression":
        return _numbers(np.asarray(expected, np.float64), np.asarray(found, np.float64))
    if problem_type == "multi_label_classification":
        want, have = _indicators(expected, len(labels)), _indicators(found, len(labels))
        if len(labels) == 1:
            want, have = want[:, 0], have[:, 0]
            return {"accuracy": float(metrics.accuracy_score(want, have)), "F1": _f1(want, have, "binary")}
        return {
            "accuracy": float(metrics.accuracy_score(want, have)),
            "F1": _f1(want, have, "micro"),
            "F1, mean over labels": _f1(want, have, "macro"),
        }
    want, have = (np.asarray([int(row[0]) for row in rows]) for rows in (expected, found))
    both = len(labels) == 2
    return {
        "accuracy": float(metrics.accuracy_score(want, have)),
        f"F1 of {labels[1]}" if both else "F1, mean over labels": _f1(want, have, "binary" if both else "macro"),
        "Matthews correlation": float(metrics.matthews_corrcoef(want, have)),
    }


def metric_names(problem_type: str, labels: Sequence[str]) -> tuple[str, ...]:
    """What `agreement` tells of such a classifier, in its order."""
    if problem_type == "regression":
        some: Values = [[0.0] * len(labels), [1.0] * len(labels)]
    else:
        some = [[0], [len(labels) - 1]]
    return tuple(agreement(some, some, problem_type, labels))


def plain_name(name: str) -> str:
    """Of a metric, for keys and for the command line: "F1, mean over labels" is f1_mean_over_labels."""
    return re.sub(r"\W+", "_", name).lower()


def _f1(expected: np.ndarray, found: np.ndarray, average: str) -> float:
    """0 where nothing was found and nothing was there."""
    from sklearn import metrics

    return float(metrics.f1_score(expected, found, average=average, zero_division=0))  # pyright: ignore


def _numbers(expected: Float[np.ndarray, "texts K"], found: Float[np.ndarray, "texts K"]) -> dict[str, float]:
    from scipy import stats
    from sklearn import metrics

    def mean(correlation: object) -> float:
        pairs = zip(expected.T, found.T, strict=True)
        values = [
            correlation(want, have).statistic if np.ptp(want) and np.ptp(have) else np.nan  # pyright: ignore
            for want, have in pairs
        ]
        return float(np.mean(values))

    return {
        "Pearson correlation": mean(stats.pearsonr),
        "Spearman correlation": mean(stats.spearmanr),
        "root mean square error": float(np.sqrt(metrics.mean_squared_error(expected, found))),
    }


def _indicators(rows: Values, count: int) -> np.ndarray:
    table = np.zeros((len(rows), count), np.int64)
    for line, row in zip(table, rows, strict=True):
        line[[int(label) for label in row]] = 1
    return table
