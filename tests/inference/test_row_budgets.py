"""Rows with steps of their own: every layout against rows run alone."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from adaptive_models import SEGMENTS, SIZES, TOKENS

from jaxode.config import DepthConfig, ModelConfig, UserError
from jaxode.depth import Coefficients
from jaxode.inference import solve_budgets
from jaxode.model import make_model
from jaxode.model.gains import Gains
from jaxode.model.parameters import calibration_parameters, split


def calibrated(model):
    """The model with made-up calibrations for 2 steps (correction, gains, adapters) and 3 (memory, other adapters)."""
    rng = np.random.default_rng(0)
    architecture, params = split(model)

    def random(*shape):
        return (0.3 * rng.normal(size=shape)).astype(np.float32)

    def gains(steps, rank):
        return jax.tree.map(lambda table: table + random(*table.shape), Gains.neutral(model.config, steps, rank))

    for steps, own in {
        2: Coefficients(1 + random(2, 2), random(2, 2, 16, 3), random(2, 3, 16), gains(2, 2)),
        3: Coefficients(1 + random(3, 3), gains=gains(3, 1)),
    }.items():
        params = params | calibration_parameters(steps, own)
    return architecture.bind(params)


@pytest.mark.broad
@pytest.mark.parametrize(
    ("layout", "solver", "budgets"),
    [
        ("causal", "secant", (3, 1, 4)),
        ("causal", "calibrated", (3, 2, 4)),
        ("masked, post-norm", "euler", (1, 4, 2)),
        ("sequence, prelude and coda", "ab2", (2, 4, 4)),
        ("cycle, injected", "secant", (4, 2, 2)),
    ],
)
def test_rows_with_budgets_of_their_own_are_what_they_are_alone(models, layout, solver, budgets):
    model = calibrated(models[layout]) if solver == "calibrated" else models[layout]
    found = solve_budgets(model, TOKENS, np.array(budgets), DepthConfig(solver=solver), segments=SEGMENTS)
    for row, steps in enumerate(budgets):
        # the trained network needs no calibration
        depth = DepthConfig() if (solver, steps) == ("calibrated", 4) else DepthConfig(steps=steps, solver=solver)
        alone = model(TOKENS[row : row + 1], depth, segments=SEGMENTS[row : row + 1])
        np.testing.assert_allclose(found.logits[row], alone.logits[0], rtol=1e-5, atol=1e-5)
        assert int(found.block_evaluations[row]) == alone.block_evaluations
    assert int(found.loops) == max(budgets) // (2 if model.config.sharing == "cycle" else 1)


def test_uneven_groups_have_every_budget_that_fits(lively):
    sizes = {"kind": "masked", "sharing": "sequence", "groups": 2, "steps": 5, "group_steps": "3,2"}
    model = lively(make_model(ModelConfig(**SIZES | sizes)))
    budgets = (5, 2, 3)
    found = solve_budgets(model, TOKENS, np.array(budgets), DepthConfig(solver="secant"), segments=SEGMENTS)
    for row, steps in enumerate(budgets):
        alone = model(
            TOKENS[row : row + 1], DepthConfig(steps=steps, solver="secant"), segments=SEGMENTS[row : row + 1]
        )
        np.testing.assert_allclose(found.logits[row], alone.logits[0], rtol=1e-5, atol=1e-5)


def test_budgets_of_unit_steps_go_beyond_the_trained_depth(models):
    """Each row truncated, or run longer, as it would be alone."""
    model, budgets = models["sequence, prelude and coda"], (2, 6, 4)
    found = solve_budgets(model, TOKENS, np.array(budgets), DepthConfig(steps=6, schedule="unit"), segments=SEGMENTS)
    for row, steps in enumerate(budgets):
        depth = DepthConfig(steps=steps, schedule="unit")
        alone = model(TOKENS[row : row + 1], depth, segments=SEGMENTS[row : row + 1])
        np.testing.assert_allclose(found.logits[row], alone.logits[0], rtol=1e-5, atol=1e-5)


def test_rows_of_auto_are_calibrated_where_the_model_is():
    config = ModelConfig(**SIZES)
    architecture, params = split(make_model(config))
    params = {name: 3 * value for name, value in params.items()}
    rng = np.random.default_rng(0)
    shapes = ((2, 2), (2, 2, 16, 3), (2, 3, 16))
    made = Coefficients(*((0.3 * rng.normal(size=shape)).astype(np.float32) for shape in shapes))
    model = architecture.bind(params | calibration_parameters(2, made))
    for budgets, solver in (((2, 3, 4), "calibrated, euler"), ((2, 2, 2), "calibrated"), ((4, 3, 1), "euler")):
        found = solve_budgets(model, TOKENS, np.array(budgets), DepthConfig(), segments=SEGMENTS)
        assert found.solver == solver
        for row, steps in enumerate(budgets):
            alone = model(TOKENS[row : row + 1], DepthConfig(steps=steps), segments=SEGMENTS[row : row + 1])
            assert alone.solver == ("calibrated" if steps == 2 else "euler")
            np.testing.assert_allclose(found.logits[row], alone.logits[0], rtol=1e-5, atol=1e-5)
    bare = solve_budgets(architecture.bind(params), TOKENS, np.array((2, 3, 4)), DepthConfig())
    assert bare.solver == "euler"


@pytest.mark.parametrize(
    ("budgets", "depth", "message"),
    [
        ([1, 2, 5], {"solver": "secant"}, r"budgets hold 5: at hand are 1, 2, 3, 4 steps"),
        ([1, 2, 3], {"solver": "secant", "steps": 2}, r"budgets hold 3: at hand are 1, 2 steps .*at most 2"),
        ([1, 0, 3], {"solver": "secant"}, "budgets hold 0"),
        ([1, 2], {"solver": "secant"}, r"budgets of shape \[2\].* each of the 3 rows"),
        ([1.0, 2.0, 3.0], {"solver": "secant"}, "type float64.*one whole number"),
        ([1, 2, 4], {"solver": "calibrated"}, "budgets hold 1: at hand are 4 steps"),
        ([1, 2, 4], {"solver": "heun"}, "need euler, ab2, ab3, secant"),
        ([1, 2, 4], {"solver": "tsit5"}, "chooses its own steps"),
        ([1, 2, 2], {"solver": "euler", "schedule": "1,3", "steps": 2}, "budgets hold 1: at hand are 2 steps"),
    ],
)
def test_budgets_that_cannot_be_are_refused_before_compilation(models, compilations, budgets, depth, message):
    before = compilations()
    with pytest.raises(UserError, match=message):
        inspect.unwrap(solve_budgets)(models["causal"], TOKENS, np.array(budgets), DepthConfig(**depth))
    assert compilations() == before


def test_budgets_must_fit_the_groups_and_be_known(models):
    with pytest.raises(UserError, match=r"budgets hold 3: at hand are 2, 4 steps"):
        solve_budgets(models["cycle, injected"], TOKENS, np.array([2, 3, 4]))
    with pytest.raises(UserError, match="budgets are traced"):
        jax.jit(lambda budgets: solve_budgets(models["causal"], TOKENS, budgets))(jnp.array([1, 2, 3]))
