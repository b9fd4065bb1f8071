"""Landings: the least squares they claim to be, nearer to the full depth, and what is refused."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxode.calibration import fit_landing
from jaxode.config import LoopConfig, ModelConfig, UserError
from jaxode.data import Batch
from jaxode.depth import combine
from jaxode.inference import exit_early
from jaxode.model import make_model
from jaxode.model.parameters import split

SIZES = {"vocab_size": 31, "width": 16, "heads": 2, "length": 8, "steps": 4, "output_init": 1.0}


@pytest.fixture(scope="module")
def batches():
    rng = np.random.default_rng(0)
    made = []
    for _ in range(8):
        tokens = rng.integers(0, 31, (8, 8), dtype=np.int32)
        ones = np.ones((8, 8), np.int32)
        made.append(Batch(tokens=tokens, targets=tokens, weights=ones.astype(np.float32), segments=ones))
    return made


def trajectory(model, batches):
    states = [np.asarray(model.hidden(jnp.asarray(one.tokens), trace=True).trace.states) for one in batches]
    return np.concatenate([one.reshape(len(one), -1, 16) for one in states], 1)


def recent(states, i, firsts):
    last = states[i + 1] - states[i]
    return [last, np.zeros_like(last) if i in firsts else states[i] - states[i - 1]]


@pytest.mark.parametrize(("layout", "firsts"), [({}, (0,)), ({"sharing": "sequence", "groups": 2}, (0, 2))])
def test_a_landing_is_a_least_squares_fit_and_comes_nearer_on_other_text(layout, firsts, batches, lively):
    model = lively(make_model(ModelConfig(**SIZES, **layout)))
    architecture, params = split(model)
    fitted, held = trajectory(model, batches[:6]), trajectory(model, batches[6:])
    plain = fit_landing(architecture, params, batches[:6], rank=0)
    landing = fit_landing(architecture, params, batches[:6], rank=8)
    assert plain.down is None
    for i in range(3):
        basis = np.stack([one.ravel() for one in recent(fitted, i, firsts)], 1)
        want, *_ = np.linalg.lstsq(basis, (fitted[-1] - fitted[i + 1]).ravel(), rcond=None)
        np.testing.assert_allclose(plain.weights[i], want, rtol=1e-2, atol=1e-3)
        # a second group's field is another: what the first knows of it may not carry over to other text
        for states in (fitted, held) if i >= firsts[-1] else (fitted,):
            away = [np.sum((states[-1] - states[i + 1]) ** 2)]
            for one in (plain, landing):
                ends = combine(one, i, jnp.asarray(states[i + 1]), recent(states, i, firsts))
                away.append(np.sum((states[-1] - np.asarray(ends)) ** 2))
            assert away[2] < away[1] < away[0], i
    # at the end there is nowhere to go
    assert not any(np.any(part[-1]) for part in (landing.weights, landing.down, landing.up))


def test_all_streams_of_a_loop_are_landed(batches, lively):
    model = lively(make_model(ModelConfig(**SIZES, loop=LoopConfig(streams=2))))
    landing = fit_landing(*split(model), batches[:2], rank=2)
    found = exit_early(model, jnp.asarray(batches[6].tokens), "state_change:0", landing=landing)
    np.testing.assert_allclose(found.logits, model(jnp.asarray(batches[6].tokens)).logits, rtol=1e-4, atol=1e-4)
    narrow = fit_landing(*split(lively(make_model(ModelConfig(**SIZES)))), batches[:2], rank=2)
    with pytest.raises(UserError, match="a landing of width 16, the loop's state has 32"):
        exit_early(model, jnp.asarray(batches[6].tokens), "state_change:0", landing=narrow)


def test_what_cannot_be_landed_is_refused(batches):
    shared, unshared = (split(make_model(ModelConfig(**SIZES, sharing=kind))) for kind in ("full", "none"))
    with pytest.raises(UserError, match="an unshared model has no solve to stop early"):
        fit_landing(*unshared, batches)
    with pytest.raises(UserError, match="no batches to fit a landing to"):
        fit_landing(*shared, [])
    with pytest.raises(UserError, match="rank = -1"):
        fit_landing(*shared, batches, rank=-1)
