"""What config.json of Dory and HRM-Text may say, and the names that their tensors come with."""

import pytest
from flax import nnx
from references import dory, hrm_text

from jaxode import UserError
from jaxode.interop.families import FAMILIES
from jaxode.interop.families.family import Fields
from jaxode.model import CausalLM
from jaxode.model.parameters import split

PAIRS = ["sliding_attention", "mlp"]


def read(reference, **changes):
    raw = reference.CONFIG | changes
    return FAMILIES[raw["model_type"]].model(
        Fields({key: value for key, value in raw.items() if value is not ...}, "config.json")
    )


def test_dory_counts_layers_twice_or_once():
    once = {
        name: dory.CONFIG[name] // 2
        for name in ("num_hidden_layers", "n_input_layers", "n_recurrent_layers", "n_output_layers")
    }
    assert read(dory, layer_types=dory.CONFIG["layer_types"][::2], **once) == read(dory)


def test_what_dory_leaves_out_is_as_transformers_has_it():
    found = read(
        dory, layer_types=..., num_hidden_layers=20, n_input_layers=..., n_recurrent_layers=..., n_output_layers=...
    )
    assert (found.prelude, found.inner_blocks, found.coda) == (8, 4, 8)
    assert found.attention.full_layers == (3, 7, 11, 15, 19)
    plain = read(dory, rope_parameters=...)
    assert (plain.rotary_base, plain.attention.full_rotary_base) == (1e4, 1e7)


def test_dory_with_one_kind_of_layer():
    full = read(dory, layer_types=["full_attention", "mlp"] * 5)
    assert (full.attention.window, full.attention.full_layers, full.rotary_base) == (0, (), 1000.0)
    windowed = read(dory, layer_types=PAIRS * 5)
    assert (windowed.attention.window, windowed.attention.full_layers, windowed.rotary_base) == (4, (), 100.0)


def test_dory_says_which_cache_it_was_trained_for():
    family = FAMILIES["dory"]
    for mode, cache in (("per_loop", "loop"), ("last_loop", "last")):
        found = read(dory, recurrent_kv_cache_mode=mode)
        assert found.loop.cache == cache
        assert family.fields(found, {})["recurrent_kv_cache_mode"] == mode


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"num_hidden_layers": 9},
            "num_hidden_layers = 9: layer_types lists attention and mlp in turn, so it must be even",
        ),
        ({"n_output_layers": 4}, "must sum to num_hidden_layers = 10, with some recurrent ones"),
        ({"layer_types": [*PAIRS * 4]}, "layer_types = .*must be num_hidden_layers = 10 times"),
        (
            {"layer_types": ["chunked_attention", "mlp"] * 5},
            'must be num_hidden_layers = 10 times "sliding_attention" or',
        ),
        (
            {"rope_parameters": {"rope_theta": 1e4}},
            "rope_parameters = .*must be a table with one for sliding_attention",
        ),
        (
            {"recurrent_kv_cache_mode": "first_loop"},
            "recurrent_kv_cache_mode = 'first_loop': only 'per_loop' or 'last_loop'",
        ),
        ({"n_recurrent_loops": 0}, "n_recurrent_loops = 0: must be a whole number from 1"),
        ({"attention_bias": True}, "attention_bias = True: only False is read"),
    ],
)
def test_a_dory_that_is_not_read_is_refused(changes, message):
    with pytest.raises(UserError, match=f"^config.json: .*{message}"):
        read(dory, **changes)


def test_hrm_text_counts_layers_as_one_stack_or_as_applications():
    assert read(hrm_text, num_layers_per_stack=..., num_hidden_layers=2) == read(hrm_text)
    with pytest.raises(UserError, match=r"num_hidden_layers = 15: must be num_layers_per_stack = 2 times H_cycles"):
        read(hrm_text, num_hidden_layers=15)


def test_hrm_text_scales_its_embedding():
    assert read(hrm_text).embedding_scale == 1 / 0.4
    assert read(hrm_text, embedding_scale=3.0).embedding_scale == 3.0


def test_hrm_text_without_a_prefix():
    assert read(hrm_text).attention.prefix
    assert not read(hrm_text, prefix_lm=False).attention.prefix


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_key_value_heads": 2}, "num_key_value_heads = 2: only None or 4 is read"),
        ({"L_cycles": 0}, "L_cycles = 0: must be a whole number from 1"),
        ({"mlp_bias": True}, "mlp_bias = True: only False is read"),
        ({"hidden_act": "gelu"}, "hidden_act = 'gelu': only 'silu' is read"),
    ],
)
def test_an_hrm_text_that_is_not_read_is_refused(changes, message):
    with pytest.raises(UserError, match=f"^config.json: .*{message}"):
        read(hrm_text, **changes)


@pytest.mark.parametrize(
    ("names", "tensor", "shape"),
    [
        (("backbone.layers.0.mixer.sqk",), "backbone.layers.3.mixer.gate_proj.weight", (28, 20)),
        (("backbone.layers.0.self_attn.sqk",), "backbone.layers.1.self_attn.g_proj.weight", (24, 20)),
        (("model.layers.0.self_attn.sqk",), "model.layers.1.self_attn.gate_proj.weight", (24, 20)),
        ((), "backbone.layers.2.attn_alpha", (20,)),
    ],
)
def test_dory_has_three_sets_of_names(names, tensor, shape):
    assert shapes(read(dory), names)[tensor].shape == shape


def test_hrm_text_has_fused_tensors_or_their_parts():
    model = read(hrm_text)
    assert shapes(model, ())["model.H_module.layers.1.attn.gqkv_proj.weight"].shape == (96, 20)
    apart = shapes(model, ("model.L_module.layers.0.self_attn.q_proj.weight",))
    assert apart["model.H_module.layers.1.self_attn.gate_proj.weight"].shape == (24, 20)


def shapes(config, names):
    """Of their tensors."""
    _, ours = split(nnx.eval_shape(lambda: CausalLM(config, rngs=nnx.Rngs(0))))
    kind = "hrm_text" if config.loop.low_cycles else "dory"
    return FAMILIES[kind].table(config, names).shapes(ours)
