"""Packing is lossless: unpacking the rows gives back the stream."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from jaxode.data.packing import pack, pack_texts, places, segments, unpack, windows

END, PAD = 0, 1
documents = st.lists(st.lists(st.integers(2, 9), max_size=20), max_size=8)
lengths = st.integers(1, 9)


def stream_of(texts: list[list[int]]) -> list[int]:
    return [token for text in texts for token in [*text, END]]


@given(documents, lengths)
def test_no_token_is_lost_or_invented(texts: list[list[int]], length: int):
    rows = list(pack(texts, length, END, PAD))
    assert list(unpack(rows)) == stream_of(texts)


@given(documents, lengths)
def test_every_token_but_the_first_is_a_target_exactly_once(texts: list[list[int]], length: int):
    targets = [t for row in pack(texts, length, END, PAD) for t in row.tokens[1 : row.count].tolist()]
    assert targets == stream_of(texts)[1:]


@given(documents, lengths)
def test_only_the_last_row_is_padded(texts: list[list[int]], length: int):
    rows = list(pack(texts, length, END, PAD))
    assert all(row.count == length + 1 for row in rows[:-1])
    for row in rows:
        assert row.tokens.shape == (length + 1,)
        assert (row.tokens[row.count :] == PAD).all()
    # no row without a target, unless the stream is one token
    assert all(row.count >= 2 for row in rows) or len(stream_of(texts)) == 1


def test_packing_reads_no_further_than_it_must():
    def endless():
        while True:
            yield [2, 3, 4]

    rows = pack(endless(), 5, END, PAD)
    assert next(rows).tokens.tolist() == [2, 3, 4, END, 2, 3]
    assert next(rows).tokens.tolist() == [3, 4, END, 2, 3, 4]


def test_segments_number_documents_and_leave_padding_zero():
    tokens = np.array([5, END, 6, 7, END, 8, PAD, PAD])
    assert segments(tokens, END, 6).tolist() == [1, 1, 2, 2, 2, 3, 0, 0]


def test_segments_of_a_batch_equal_those_of_its_rows():
    tokens = np.array([[5, END, 6, 7], [END, END, 3, PAD]])
    both = segments(tokens, END, np.array([4, 3]))
    assert both.tolist() == [segments(t, END, c).tolist() for t, c in zip(tokens, (4, 3), strict=True)]


def test_padding_that_shares_the_end_id_is_still_padding():
    assert segments(np.array([5, END, END, END]), END, 2).tolist() == [1, 1, 0, 0]


def texts_of(row):
    return [row.tokens[row.segments == number].tolist() for number in range(1, row.segments.max() + 1)]


@given(st.lists(st.lists(st.integers(2, 9), min_size=1, max_size=9), max_size=60))
def test_whole_texts_stay_whole(texts: list[list[int]]):
    rows = list(pack_texts(texts, 9, PAD))
    assert sorted(text for row in rows for text in texts_of(row)) == sorted(texts)
    for row in rows:
        assert row.tokens.shape == row.segments.shape == (10,)
        assert row.count == (row.segments > 0).sum() <= 9
        # side by side from the beginning, the rest is padding
        assert (np.diff(row.segments[: row.count]) >= 0).all()
        assert (row.segments[row.count :] == 0).all()
        assert (row.tokens[row.count :] == PAD).all()


def test_whole_texts_leave_little_room():
    rng = np.random.default_rng(0)
    texts = [[5] * size for size in rng.integers(5, 30, 500)]
    rows = list(pack_texts(texts, 64, PAD))
    assert sum(map(len, texts)) > 0.95 * 64 * len(rows)


def test_places_begin_anew_with_every_text():
    number = np.array([[1, 1, 1, 2, 2, 3, 0, 0], [1, 2, 3, 3, 3, 3, 3, 3]])
    assert places(number).tolist() == [[0, 1, 2, 0, 1, 0, 0, 1], [0, 0, 0, 1, 2, 3, 4, 5]]


@given(st.integers(0, 60), lengths, st.data())
def test_windows_predict_every_token_once_behind_what_they_hold(tokens: int, length: int, data: st.DataObject):
    stride = data.draw(st.integers(1, length))
    reached = 1
    for number, (start, new) in enumerate(windows(tokens, length, stride)):
        end = min(start + length, tokens - 1)
        assert start + new + 1 == reached
        assert 0 <= new < end - start
        assert new >= length - stride or number == 0
        reached = end + 1
    assert reached == max(tokens, 1)


def test_windows_of_the_whole_length_stand_end_to_end():
    assert list(windows(13, 4, 4)) == [(0, 0), (4, 0), (8, 0)]
    assert list(windows(12, 4, 4)) == [(0, 0), (4, 0), (7, 1)]
