"""Which parameters an update moves how far."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxode.config import ClockConfig, OptimizerConfig, UserError
from jaxode.model import make_model
from jaxode.model.low_rank import with_low_rank
from jaxode.model.parameters import split
from jaxode.training.optimizer import check_rates, make_optimizer, parts


@pytest.mark.parametrize("name", ["adamw", "muon"])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.broad
def test_factors_on_the_updates_of_parts(tiny, name, shared):
    _, params = split(make_model(tiny(conditioning="step", clock=ClockConfig(shared=shared))))
    gradient = jax.tree.map(lambda x: jnp.full(x.shape, 1e-3), params)

    def update(**factors):
        optimizer = make_optimizer(OptimizerConfig(name=name, warmup_fraction=0.0, **factors), 10)
        return optimizer.update(gradient, optimizer.init(params), params)[0]

    plain = update()
    changed = update(branch_rate=2.0, conditioning_rate=10.0, head_rate=3.0, embedding_rate=0.5)
    seen = set()
    for key, value in plain.items():
        told = ".conditioning." in key or ".clock." in key
        branch = key.endswith((".attention.output.kernel", ".feed_forward.output.kernel"))
        branch |= key.endswith((".attention.output.bias", ".feed_forward.output.bias"))
        factor = 10.0 if told else 2.0 if branch else 1.0
        factor = {"head": 3.0, "embedding": 0.5}.get(key.partition(".")[0], factor)
        seen.add(factor)
        np.testing.assert_allclose(changed[key], factor * value, rtol=1e-5, atol=1e-9, err_msg=key)
        assert np.any(value)
    assert seen == {1.0, 2.0, 10.0, 3.0, 0.5}


@pytest.mark.parametrize("field", ["branch_rate", "conditioning_rate", "head_rate", "embedding_rate"])
def test_factors_are_positive(field):
    with pytest.raises(UserError, match=rf"optimizer\.{field} = 0.0: must be positive"):
        OptimizerConfig(**{field: 0.0})


def test_low_rank_changes_are_of_their_matrices(tiny):
    _, params = split(make_model(tiny()))
    params = with_low_rank(params, 2)
    found = parts(params)
    for name, part in found.items():
        branch = ".attention.output." in name or ".feed_forward.output." in name
        own = name.partition(".")[0]
        assert part == ("branch" if branch else own if own in ("head", "embedding") else "rest"), name
    assert found["lora.stack.looped.0.attention.output.kernel.down"] == "branch"


def test_a_factor_on_what_does_not_move_is_refused(tiny):
    _, params = split(make_model(tiny()))
    check_rates(OptimizerConfig(branch_rate=2.0, head_rate=2.0, embedding_rate=0.5), params)
    moving = [name for name in params if not name.startswith("embedding.")]
    with pytest.raises(
        UserError, match=r"optimizer\.embedding_rate = 0.5: nothing moves that it is for \(.*branch, head"
    ):
        check_rates(OptimizerConfig(embedding_rate=0.5), moving)
    with pytest.raises(UserError, match=r"optimizer\.conditioning_rate = 2: nothing moves"):
        check_rates(OptimizerConfig(conditioning_rate=2.0), params)
