"""Choices of a model's parts: reachable in Python, TOML and flags alike, and refused where they do not fit together."""

from pathlib import Path

import pytest

from jaxode.config import (
    AttentionConfig,
    ClockConfig,
    Config,
    LoopConfig,
    ModelConfig,
    SphereConfig,
    UserError,
    from_dict,
    parse,
    to_dict,
)

NESTED = ModelConfig(
    norm="rms",
    norm_position="sandwich",
    bias="none",
    prelude=1,
    attention=AttentionConfig(head_width=48, window=8, full_layers=(0, 1), full_rotary_base=1e6),
    loop=LoopConfig(boundary="norm", schedule="unit"),
)


def test_nested_choices_read_alike_everywhere(tmp_path):
    assert from_dict(Config, to_dict(Config(model=NESTED)), "file").model == NESTED
    flags = "--model.norm rms --model.norm-position sandwich --model.bias none --model.prelude 1 "
    flags += "--model.attention.head-width 48 --model.attention.window 8 --model.attention.full-layers 0 1 "
    flags += "--model.attention.full-rotary-base 1e6 --model.loop.boundary norm --model.loop.schedule unit"
    assert parse(Config, flags.split()).model == NESTED
    toml = tmp_path / "config.toml"
    toml.write_text(
        '[model]\nnorm = "rms"\nnorm_position = "sandwich"\nbias = "none"\nprelude = 1\n[model.attention]\n'
        "head_width = 48\nwindow = 8\nfull_layers = [0, 1]\nfull_rotary_base = 1e6\n"
        '[model.loop]\nboundary = "norm"\nschedule = "unit"\n'
    )
    assert parse(Config, ["--config", str(toml)]).model == NESTED


def test_a_head_may_have_a_width_of_its_own():
    assert ModelConfig(width=50, heads=4, attention=AttentionConfig(head_width=6)).head_width == 6


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"norm_position": "sphere"}, 'model.norm_position = "sphere" with model.norm = "layer"'),
        ({"norm": "unit"}, 'model.norm_position = "pre" with model.norm = "unit"'),
        (
            {"norm": "unit", "norm_position": "sphere", "attention": AttentionConfig(norm="unit")},
            'model.bias = "all", model.feed_forward = "gelu_tanh" with model.norm_position = "sphere"',
        ),
        (
            {"sharing": "none", "loop": LoopConfig(boundary="norm")},
            "model.loop.boundary = 'norm' with model.sharing = \"none\": a loop",
        ),
        ({"clock": ClockConfig(features=32)}, 'model.clock.features = 32 with model.conditioning = "none": nothing is'),
        ({"clock": ClockConfig(width=8)}, 'model.clock.width = 8 with model.conditioning = "none": nothing is told t'),
        ({"clock": ClockConfig(shared=True)}, 'model.clock.shared = true with model.conditioning = "none": nothing'),
        ({"clock": ClockConfig(unit=True)}, 'model.clock.unit = true with model.conditioning = "none": nothing is'),
        ({"sphere": SphereConfig(size=0.1)}, 'model.sphere.size = 0.1 with model.norm_position = "pre": it belongs'),
        ({"sphere": SphereConfig(rate=0.1)}, 'model.sphere.rate = 0.1 with model.norm_position = "pre": it belongs'),
        (
            {"sharing": "cycle", "groups": 2, "steps": 4, "loop": LoopConfig(low_cycles=2)},
            'model.loop.low_cycles = 2 with model.sharing = "cycle"',
        ),
        (
            {"norm_position": "post", "loop": LoopConfig(boundary="norm")},
            'model.loop.boundary = "norm" with model.norm',
        ),
        ({"attention": AttentionConfig(window=4, full_layers=(3,))}, "full_layers holds [3]: there are 1 blocks"),
        ({"kind": "masked", "attention": AttentionConfig(prefix=True)}, "model.attention.prefix = true: needs"),
        ({"attention": AttentionConfig(head_width=7)}, "is odd"),
        ({"embedding_scale": 0.0}, "model.embedding_scale = 0.0: must be positive"),
    ],
)
def test_choices_that_do_not_fit_together_are_refused(values, message):
    with pytest.raises(UserError) as refused:
        ModelConfig(**values)
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (AttentionConfig, {"full_layers": (1,)}, "set model.attention.window, or leave them out"),
        (AttentionConfig, {"rotary_scaling": (8.0,)}, "must be four numbers"),
        (AttentionConfig, {"rotary_scaling": (8.0, 4.0, 1.0, 100.0)}, "the low frequency factor below the high one"),
        (AttentionConfig, {"norm": "layer"}, "must be one of 'none', 'whole', 'unit'"),
        (LoopConfig, {"low_cycles": 1, "start": "noise"}, "two states have rules of their own"),
        (LoopConfig, {"start_size": -1.0}, "model.loop.start_size = -1.0: must be at least 0"),
        (LoopConfig, {"start_size": 0.5}, 'model.loop.start_size = 0.5 with model.loop.start = "entered": it is that'),
        (ClockConfig, {"features": 3}, "must be an even number"),
        (SphereConfig, {"rate": 0.0}, "model.sphere.rate = 0.0: must be positive"),
    ],
)
def test_values_of_parts_that_cannot_be_are_refused(kind, values, message, untyped):
    with pytest.raises(UserError) as refused:
        kind(**values)
    assert message in str(refused.value)


@pytest.mark.parametrize("path", sorted(Path(__file__).parents[2].glob("configs/*.toml")), ids=lambda path: path.stem)
def test_every_recipe_reads(path):
    assert parse(Config, ["--config", str(path)]).train.updates > 0
