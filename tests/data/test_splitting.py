"""What is held out, and how repeated texts are counted without holding them."""

import pytest

from jaxode.data import splitting
from jaxode.data.splitting import EqualTexts, HeldOut


def held_out(names: list[str], fraction: float) -> set[str]:
    rule = HeldOut.of(names, fraction)
    return {name for name in names if name in rule}


def test_a_split_is_stable_when_the_corpus_grows():
    names = [f"{i}.txt#0" for i in range(1000)]
    before, after = held_out(names[:900], 0.1), held_out(names, 0.1)
    assert before == after & set(names[:900])
    assert 60 < len(before) < 120
    assert HeldOut.of(names, 0.1).by_hash


@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize("fraction", [1e-9, 0.5, 1.0])
def test_neither_split_is_ever_empty(fraction: float, count: int):
    names = [f"{i}.txt" for i in range(count)]
    size = len(held_out(names, fraction))
    assert 1 <= size < count
    assert fraction == 0.5 or size == (1 if fraction < 0.5 else count - 1)


def note(texts: list[str]) -> str | None:
    equal = EqualTexts()
    for place, text in enumerate(texts):
        equal.add(text, place % 10 == 0)
    return equal.note()


def test_repetitions_are_counted_exactly_where_few_texts_are():
    assert note([str(i) for i in range(50)]) is None
    # 0 stands in both splits, 1 in training alone
    assert note(["0", "1", "0", "1", "1"]) == (
        "3 of 5 documents hold the same text as an earlier one; texts that stand in training and in validation: 1"
    )


def test_repetitions_are_estimated_beyond(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(splitting, "SAMPLE", 500)
    told = note([str(i % 4000) for i in range(8000)])
    assert told is not None
    assert told.startswith("about ")
    assert 3000 < int(told.split()[1]) < 5000
