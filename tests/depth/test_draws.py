"""Schedules drawn inside a compiled program."""

import itertools
from collections import Counter

import jax
import numpy as np
import pytest

from jaxode.config import UserError
from jaxode.depth import draw_sizes

SPACINGS = ("random", "coarse-early", "fine-early")


def drawn(span, steps, spacing, count):
    keys = jax.random.split(jax.random.key(0), count)
    return np.asarray(jax.jit(jax.vmap(lambda key: draw_sizes(key, span, steps, spacing)))(keys))


def compositions(span, steps):
    return [sizes for sizes in itertools.product(range(1, span + 1), repeat=steps) if sum(sizes) == span]


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize(("span", "steps"), [(12, 1), (12, 5), (12, 12), (1, 1)])
def test_whole_steps_that_fill_the_interval(span, steps, spacing):
    sizes = drawn(span, steps, spacing, 200)
    assert sizes.shape == (200, steps)
    np.testing.assert_array_equal(sizes.sum(axis=1), span)
    assert sizes.min() >= 1
    np.testing.assert_array_equal(sizes, np.round(sizes))


@pytest.mark.parametrize("spacing", SPACINGS)
def test_every_schedule_can_be_drawn_and_random_takes_all_equally_often(spacing):
    count, all_of_them = 7000, compositions(7, 3)
    found = Counter(map(tuple, drawn(7, 3, spacing, count).astype(int).tolist()))
    assert set(found) == set(all_of_them)
    expected = count / len(all_of_them)
    chi_square = sum((number - expected) ** 2 / expected for number in found.values())
    # 14 degrees of freedom: 36.1 is passed by chance once in a thousand
    assert (chi_square < 36.1) == (spacing == "random")


def test_the_names_say_where_the_long_steps_are():
    first = {spacing: drawn(12, 4, spacing, 4000).mean(axis=0) for spacing in SPACINGS}
    np.testing.assert_allclose(first["random"], 3.0, atol=0.15)
    assert (np.diff(first["coarse-early"][:3]) < -0.5).all()
    np.testing.assert_allclose(first["fine-early"], first["coarse-early"][::-1], atol=0.2)


@pytest.mark.parametrize(("span", "steps", "spacing"), [(3, 4, "random"), (3, 0, "random"), (3, 2, "even")])
def test_refused(span, steps, spacing):
    with pytest.raises(UserError):
        draw_sizes(jax.random.key(0), span, steps, spacing)
