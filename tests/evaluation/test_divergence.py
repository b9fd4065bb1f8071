"""A solve that is not finite says since which step; the step is planted."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from jaxode.config import DepthConfig, ModelConfig
from jaxode.data import Batch
from jaxode.evaluation import Diverged, divergence, evaluate
from jaxode.model import make_model
from jaxode.model.parameters import split

CONFIG = ModelConfig(vocab_size=11, width=8, heads=2, length=4, steps=4)
TOKENS = np.zeros((1, 4), np.int32)
BATCH = Batch(TOKENS, TOKENS, np.ones((1, 4), np.float32), TOKENS + 1)


def planted(**changes):
    """Without kernels f is one constant vector, 1e19 long in every channel, until a norm overflows.

    A norm squares its input: at 1e19 that is 1e38, at 2e19 more than float32 holds. So the first evaluation of the
    field at a state of 2e19 or more is not finite, and so is the state one step later.
    """
    architecture, params = split(make_model(dataclasses.replace(CONFIG, **changes)))
    params = {name: jnp.zeros_like(value) if name.endswith("kernel") else value for name, value in params.items()}
    biases = {name: jnp.full((8,), 1e19) for name in params if name.endswith("feed_forward.output.bias")}
    return architecture, params | biases


@pytest.mark.broad
@pytest.mark.parametrize(
    ("depth", "message"),
    [
        (DepthConfig(), "first not finite after step 3 of 4 (depth-time 2 to 3)"),
        (DepthConfig(solver="lie"), "first not finite after step 3 of 4 (depth-time 2 to 3)"),
        (DepthConfig(steps=2), "first not finite after step 2 of 2 (depth-time 2 to 4)"),
        (DepthConfig(steps=3, schedule="1,2,1"), "first not finite after step 3 of 3 (depth-time 3 to 4)"),
        (DepthConfig(steps=1), "finite after every step, so what follows the solve overflows"),
        (DepthConfig(solver="tsit5"), "the solve diverged or the weights are damaged"),
    ],
)
def test_the_first_bad_step_is_named(depth, message):
    with pytest.raises(Diverged) as error:
        evaluate(*planted(), [BATCH], depth)
    solver = "euler" if depth.solver == "auto" else depth.solver
    assert str(error.value).startswith(f'the loss is not finite with depth.solver = "{solver}", depth.steps = ')
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_steps_are_counted_through_the_groups():
    with pytest.raises(Diverged, match=r"after step 3 of 4 \(depth-time 2 to 3\)"):
        evaluate(*planted(sharing="sequence", groups=2), [BATCH], DepthConfig())


def test_an_unshared_model_has_no_steps_to_name():
    with pytest.raises(Diverged, match=r"is not finite .*: the solve diverged or the weights are damaged"):
        evaluate(*planted(sharing="none"), [BATCH], DepthConfig())


def test_a_state_that_never_was_finite_is_the_weights_fault():
    architecture, params = planted()
    damaged = params | {"embedding.tokens.embedding": jnp.full((11, 8), jnp.nan)}
    with pytest.raises(Diverged, match="not finite before the first step: the weights are damaged"):
        evaluate(architecture, damaged, [BATCH], DepthConfig())


def test_the_failing_batch_is_the_one_that_is_looked_at():
    """Only token 1 is damaged, and only the second batch holds it."""
    architecture, params = split(make_model(dataclasses.replace(CONFIG, tied=False)))
    params = params | {"embedding.tokens.embedding": params["embedding.tokens.embedding"].at[1].set(jnp.inf)}
    with pytest.raises(Diverged, match="not finite before the first step"):
        evaluate(architecture, params, [BATCH, dataclasses.replace(BATCH, tokens=TOKENS + 1)], DepthConfig())


def test_nothing_is_looked_at_before_a_failure(monkeypatch):
    monkeypatch.setattr(divergence, "_finite", lambda *a, **k: pytest.fail("solved twice"))
    assert evaluate(*split(make_model(CONFIG)), [BATCH], DepthConfig()).tokens == 4
