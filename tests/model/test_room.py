"""A model that does not fit is refused before anything is allocated; its size is known before it is made."""

import jax
import pytest
from flax import nnx

from jaxode.config import ClockConfig, LoopConfig, ModelConfig, UserError
from jaxode.config.size import num_parameters
from jaxode.model import CausalLM, Encoder, SequenceClassifier, make_model, room

LAYOUTS = {
    "plain": {},
    "masked": {"kind": "masked"},
    "untied": {"tied": False},
    "albert": {
        "kind": "masked",
        "embedding_width": 8,
        "embedding_norm": True,
        "token_types": 2,
        "positions": "learned",
        "norm_position": "post",
    },
    "factorised": {"embedding_width": 8, "tied": False},
    "swiglu": {"norm": "rms", "feed_forward": "swiglu", "kv_heads": 2, "ff_width": 24},
    "prelude": {"inject_input": True, "prelude": 1, "coda": 2},
    "cycle": {"sharing": "cycle", "groups": 2, "inner_blocks": 2},
    "none": {"sharing": "none"},
    "streams": {"loop": LoopConfig(streams=3)},
    "told streams": {"loop": LoopConfig(streams=2), "conditioning": "step"},
    "shared clock": {"loop": LoopConfig(streams=2), "conditioning": "time", "clock": ClockConfig(shared=True, rank=3)},
    "told matrices": {"conditioning": "step", "clock": ClockConfig(rank=4), "norm_position": "post"},
    "told swiglu": {"conditioning": "step", "clock": ClockConfig(rank=2), "feed_forward": "swiglu", "kv_heads": 2},
    "narrow clock": {
        "loop": LoopConfig(streams=2),
        "conditioning": "step",
        "clock": ClockConfig(rank=4, width=6),
        "norm_position": "post",
    },
    "time": {"conditioning": "time", "prelude": 1},
    "loopformer": {"conditioning": "loopformer", "inner_blocks": 2},
}
BIG = {"vocab_size": 2**30, "width": 64}
"""275 GB, which no test may come to allocate."""


@pytest.mark.parametrize("layout", LAYOUTS)
def test_parameters_are_counted_without_making_them(tiny, layout):
    config = tiny(**LAYOUTS[layout])
    shapes = nnx.state(nnx.eval_shape(lambda: make_model(config)), nnx.Param)
    assert num_parameters(config) == sum(leaf.size for leaf in jax.tree.leaves(shapes))


def test_a_model_that_does_not_fit_is_refused(tiny, monkeypatch):
    config = tiny()
    size = 4 * num_parameters(config)
    monkeypatch.setattr(room, "available_memory", lambda: size)
    assert make_model(config).num_parameters == num_parameters(config)
    monkeypatch.setattr(room, "available_memory", lambda: size - 1)
    for make in (
        lambda: make_model(config),
        lambda: CausalLM(config, rngs=nnx.Rngs(0)),
        lambda: Encoder(config, rngs=nnx.Rngs(0)),
        lambda: SequenceClassifier(config, 2, rngs=nnx.Rngs(0)),
    ):
        with pytest.raises(UserError) as refused:
            make()
        assert str(refused.value).startswith(f"a model of {num_parameters(config):,} parameters takes ")
        assert "model.width = 32, model.vocab_size = 50, model.inner_blocks = 1" in str(refused.value)
    monkeypatch.setattr(room, "available_memory", lambda: None)
    make_model(config)


@pytest.mark.parametrize("field", ["vocab_size", "ff_width", "embedding_width", "token_types"])
def test_nothing_is_allocated_before_the_refusal(monkeypatch, field):
    monkeypatch.setattr(room, "available_memory", lambda: 10**9)
    with pytest.raises(UserError, match=rf"GB, 1 GB are available \(.*model\.{field} = 2147483647"):
        make_model(ModelConfig(**({"vocab_size": 50, "width": 64} | {field: 2**31 - 1})))


def test_shapes_alone_need_no_memory(monkeypatch):
    monkeypatch.setattr(room, "available_memory", lambda: 1)
    model = nnx.eval_shape(lambda: make_model(ModelConfig(**BIG)))
    assert model.num_parameters == num_parameters(ModelConfig(**BIG))
