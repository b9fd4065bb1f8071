"""Models that no machine holds are refused from their configuration alone."""

import pytest

from jaxode.config import Config, ModelConfig, TrainConfig, UserError, from_dict, parse

HUGE = 2**31 - 1


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"prelude": HUGE}, "2147483648 different blocks (model.prelude = 2147483647 and model.coda = 0 beside "),
        ({"coda": HUGE}, "2147483648 different blocks"),
        ({"inner_blocks": HUGE}, "2147483647 different blocks"),
        ({"prelude": 1000}, "1001 different blocks"),
        ({"sharing": "none", "steps": 1001}, "1001 different blocks (model.prelude = 0 and model.coda = 0 beside "),
        ({"sharing": "cycle", "groups": 4, "inner_blocks": 300}, "1200 different blocks"),
        ({"vocab_size": HUGE, "width": 1024}, "2.2e+12 parameters (model.width = 1024, model.vocab_size = 2147483647"),
        ({"ff_width": HUGE, "width": 1024}, "4.4e+12 parameters (model.width = 1024, model.ff_width = 2147483647, "),
        ({"embedding_width": HUGE, "vocab_size": 1000}, "2.7e+12 parameters (model.width = 128, model.vocab_size = "),
        ({"token_types": HUGE, "width": 1024}, "2.2e+12 parameters (model.width = 1024, model.token_types = "),
        ({"length": 2**24, "width": 2**17, "positions": "learned"}, "2.41e+12 parameters (model.width = 131072, "),
        ({"width": 2**30, "heads": 1}, "1.38e+19 parameters (model.width = 1073741824, "),
    ],
)
def test_what_no_machine_holds_is_refused(values, message):
    with pytest.raises(UserError) as refused:
        ModelConfig(**values)
    assert str(refused.value).startswith(message)
    assert "must be at most" in str(refused.value)
    with pytest.raises(UserError) as in_toml:
        from_dict(Config, {"model": values}, "run.toml")
    assert str(in_toml.value) == f"run.toml: {refused.value}"
    flags = [part for name, value in values.items() for part in (f"--model.{name}", str(value))]
    with pytest.raises(UserError) as by_flag:
        parse(Config, flags)
    # the field by which flags come to a refused value is a matter of their order
    assert "must be" in str(by_flag.value)


def test_large_models_that_machines_hold_are_allowed():
    ModelConfig(vocab_size=256_000, width=16_384, heads=128, ff_width=65_536)
    ModelConfig(sharing="none", steps=1000)
    ModelConfig(steps=10_000)
    ModelConfig(length=2**20)


def test_tokens_of_an_update_have_a_bound():
    said = r"train.batch_size \* model.length = 2147483648: must be at most 2147483647"
    with pytest.raises(UserError, match=said):
        Config(train=TrainConfig(batch_size=2**24))
    Config(train=TrainConfig(batch_size=2**24 - 1, accumulate=1))
