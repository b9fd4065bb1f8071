"""Which methods are compared, and that they are compared at equal block evaluations."""

import pytest

from jaxode.config import DepthConfig, ModelConfig, UserError
from jaxode.evaluation import comparators, evaluation_counts
from jaxode.model import block_evaluations

LAYOUTS = {
    "full": {},
    "prelude": {"prelude": 1, "coda": 2},
    "sequence": {"sharing": "sequence", "groups": 2},
    "cycle": {"sharing": "cycle", "groups": 3},
}


def by_name(model, counts):
    found = {}
    for method in comparators(model, counts):
        found.setdefault(method.name, []).append(method.depth)
    return found


@pytest.mark.parametrize(
    ("layout", "asked", "counts"),
    [
        ({}, None, (12, 6, 4, 3, 2)),
        ({}, 8, (12, 8, 6, 4, 3, 2)),
        ({}, 4, (12, 6, 4, 3, 2)),
        (LAYOUTS["sequence"], None, (12, 6, 4, 2)),
        (LAYOUTS["cycle"], None, (12, 6, 3)),
        ({"steps": 7}, None, (7,)),
    ],
)
def test_counts_are_the_divisors_that_fit_and_what_was_asked(layout, asked, counts):
    assert evaluation_counts(ModelConfig(**{"steps": 12, **layout}), asked) == counts


def test_an_unshared_model_has_nothing_to_compare():
    with pytest.raises(UserError, match="an unshared model runs its blocks once each"):
        evaluation_counts(ModelConfig(sharing="none"))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_method_costs_one_of_the_counts(layout):
    """So many evaluations of the looped part, counting every stage; twice N for step rescaling alone."""
    model = ModelConfig(steps=12, **LAYOUTS[layout])
    counts = evaluation_counts(model)
    for method in comparators(model, counts):
        cost = block_evaluations(model, method.depth) - model.prelude - model.coda
        assert cost in counts or (method.name, cost) == ("step rescaling", 24), method


def test_solvers_of_many_stages_take_fewer_steps_and_only_whole_numbers():
    found = by_name(ModelConfig(steps=12), (12, 6, 4, 3, 2))
    assert [depth.steps for depth in found["Heun"]] == [6, 3, 2, 1]  # of 12, 6, 4, 2 evaluations
    assert [depth.steps for depth in found["midpoint"]] == [6, 3, 2, 1]
    assert [depth.steps for depth in found["RK4"]] == [3, 1]  # of 12 and 4
    assert {depth.solver for depth in found["RK4"]} == {"rk4"}


def test_the_full_depth_is_in_no_family_and_more_steps_are_in_one():
    found = by_name(ModelConfig(steps=12), (12, 6, 4))
    assert [depth.steps for depth in found["step rescaling"]] == [24, 6, 4]
    for name in ("truncation", "Lie splitting", "secant", "geometric 1.5", "geometric 2"):
        assert [depth.steps for depth in found[name]] == [6, 4], name
    # textbook order does not give the network back at h = 1
    for name in ("AB2", "AB3"):
        assert [depth.steps for depth in found[name]] == [12, 6, 4], name
    assert found["truncation"][0] == DepthConfig(steps=6, solver="euler", schedule="unit")


def test_what_does_not_fit_is_left_out():
    found = by_name(ModelConfig(steps=12, sharing="sequence", groups=2), (12, 6))
    assert "geometric 2" not in found, "it steps across the boundary of the groups"
    assert [depth.steps for depth in found["Heun"]] == [6], "3 steps do not fit two groups"
    asked = by_name(ModelConfig(steps=12), (16,))
    assert "truncation" not in asked, "there are only 12 steps of size 1"
    assert [depth.steps for depth in asked["RK4"]] == [4]
