"""Values of the configuration: every refusal names the place, the value and the remedy."""

import dataclasses

import pytest

from jaxode.config import (
    AttentionConfig,
    ClockConfig,
    Config,
    DataConfig,
    DepthConfig,
    InferConfig,
    LoopConfig,
    ModelConfig,
    OptimizerConfig,
    SphereConfig,
    TrainConfig,
    UserError,
)


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (
            ModelConfig,
            {"width": 65, "heads": 4},
            "model.width = 65 is not divisible by model.heads = 4: choose a multiple",
        ),
        (
            ModelConfig,
            {"heads": 4, "kv_heads": 3},
            "model.kv_heads = 3 does not divide model.heads = 4: choose a divisor, or 0",
        ),
        (
            ModelConfig,
            {"width": 12, "heads": 4},
            "model.width / model.heads = 3 is odd: rotary positions need an even head width",
        ),
        (ModelConfig, {"groups": 2}, 'model.groups = 2 with model.sharing = "full": they belong to "sequence"'),
        (
            ModelConfig,
            {"groups": 5, "sharing": "cycle", "steps": 12},
            "model.groups = 5 does not divide model.steps = 12: choose",
        ),
        (ModelConfig, {"dropout": 1.0}, "model.dropout = 1.0: must lie in [0.0, 0.99]"),
        (ModelConfig, {"dropout": -0.1}, "model.dropout = -0.1: must lie in"),
        (ModelConfig, {"dropout": float("nan")}, "model.dropout = nan: must lie in"),
        (ModelConfig, {"rotary_base": -1.0}, "model.rotary_base = -1.0: must be positive"),
        (DepthConfig, {"steps": 0}, "depth.steps = 0: must be at least 1 (None runs the model's full depth)"),
        (DepthConfig, {"steps": -3}, "depth.steps = -3: must be at least 1"),
        (DepthConfig, {"tolerance": 0.0}, "depth.tolerance = 0.0: must be positive"),
        (DataConfig, {"corpus": "files"}, 'data.files is empty: corpus "files" needs a glob of text files'),
        (DataConfig, {"corpus": "books", "files": "*.md"}, 'data.files = "*.md" together with data.corpus = "books"'),
        (DataConfig, {"valid_fraction": 0.0}, "data.valid_fraction = 0.0: must lie in (0, 0.5]"),
        (DataConfig, {"valid_fraction": 0.6}, "data.valid_fraction = 0.6: must lie in (0, 0.5]"),
        (DataConfig, {"mask_fraction": 0.0}, "data.mask_fraction = 0.0: must lie in (0, 1)"),
        (DataConfig, {"mask_fraction": 1.0}, "data.mask_fraction = 1.0: must lie in (0, 1)"),
        (DataConfig, {"vocab_size": 299}, "data.vocab_size = 299: must be at least 300 (256 bytes and the special"),
        (OptimizerConfig, {"learning_rate": 0.0}, "optimizer.learning_rate = 0.0: must be positive"),
        (OptimizerConfig, {"learning_rate": float("nan")}, "optimizer.learning_rate = nan: must be positive"),
        (OptimizerConfig, {"final_fraction": 1.5}, "optimizer.final_fraction = 1.5: must lie in [0.0, 1.0]"),
        (OptimizerConfig, {"beta1": 1.0}, "optimizer.beta1 = 1.0: must lie in"),
        (OptimizerConfig, {"beta2": -0.1}, "optimizer.beta2 = -0.1: must lie in"),
        (OptimizerConfig, {"epsilon": 0.0}, "optimizer.epsilon = 0.0: must be positive"),
        (
            TrainConfig,
            {"batch_size": 16, "accumulate": 3},
            "train.batch_size = 16 is not divisible by train.accumulate",
        ),
        (OptimizerConfig, {"warmup_fraction": 0.95}, "optimizer.warmup_fraction = 0.95: must lie in [0.0, 0.9]"),
        (Config, {"resume": True}, "resume without out: name the run folder to continue with --out"),
        (InferConfig, {"steps": 0}, "steps = 0: must be at least 1 (None runs the model's full depth)"),
        (InferConfig, {"temperature": -0.5}, "temperature = -0.5: must be at least 0.0"),
        (InferConfig, {"seed": -1}, "seed = -1: must be at least 0"),
        (InferConfig, {"task": "score"}, "task = score needs --file"),
        (
            InferConfig,
            {"task": "sweep", "budget": 0.5},
            "budget = 0.5 with task = sweep: only generate, fill, score, classify, encode, bench read it",
        ),
        (InferConfig, {"task": "calibrate", "budget": 0.5}, "budget = 0.5 with task = calibrate: only"),
        (InferConfig, {"task": "report", "budget": 0.5}, "budget = 0.5 with task = report: only"),
        (
            InferConfig,
            {"task": "report", "max_loss_increase": 0.1},
            "max_loss_increase = 0.1 with task = report: only",
        ),
        (
            InferConfig,
            {"budget": 0.5, "solver": "heun"},
            "budget = 0.5 with solver = heun: both choose the solver; give",
        ),
        (InferConfig, {"budget": 0.5, "schedule": "1,3"}, "budget = 0.5 with schedule = 1,3: both choose the solver"),
        (
            InferConfig,
            {"max_loss_increase": 0.1, "solver": "euler"},
            "max_loss_increase = 0.1 with solver = euler: both choose the solver",
        ),
    ],
)
def test_refused_value_says_what_to_do(kind, values, message):
    with pytest.raises(UserError) as refusal:
        kind(**values)
    assert str(refusal.value).startswith(message)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("kind", "prefix", "least", "names"),
    [
        (ModelConfig, "model.", 1, "width heads length steps groups"),
        (ModelConfig, "model.", 0, "vocab_size kv_heads ff_width embedding_width prelude coda output_init"),
        (OptimizerConfig, "optimizer.", 0, "weight_decay clip"),
        (
            TrainConfig,
            "train.",
            1,
            "updates batch_size accumulate log_every checkpoint_every keep",
        ),
        (TrainConfig, "train.", 0, "devices validate_every validation_batches final_batches seed patience"),
        (InferConfig, "", 1, "max_new_tokens top"),
    ],
)
def test_lower_bounds(kind, prefix, least, names):
    for name in names.split():
        number = type(getattr(kind(), name))
        below = number(least - 1)
        with pytest.raises(UserError) as refusal:
            kind(**{name: below})
        assert str(refusal.value) == f"{prefix}{name} = {below}: must be at least {least}"
        fitting = {"heads": 1, "positions": "learned"} if name == "width" else {}
        kind(**{name: number(least)}, **fitting)  # the bound itself is allowed


def test_every_number_of_the_model_and_the_loop_has_a_lower_bound():
    parts = (AttentionConfig, LoopConfig, ClockConfig, SphereConfig)
    for kind in (ModelConfig, OptimizerConfig, TrainConfig, InferConfig, DepthConfig, *parts):
        for field in dataclasses.fields(kind):
            default = getattr(kind(), field.name)
            if type(default) in (int, float):
                with pytest.raises(UserError, match=field.name):
                    kind(**{field.name: type(default)(-1)})


def test_files_select_their_corpus():
    assert DataConfig(files="*.txt").corpus == "files"


@pytest.mark.parametrize(
    ("values", "heads", "hidden", "distinct"),
    [
        ({"width": 64, "heads": 4}, 4, 256, 1),
        ({"width": 64, "heads": 4, "kv_heads": 2, "ff_width": 100}, 2, 100, 1),
        ({"width": 64, "heads": 4, "feed_forward": "swiglu"}, 4, 176, 1),  # 8/3 * 64 = 170.7, up to a multiple of 8
        ({"width": 48, "heads": 4, "feed_forward": "swiglu"}, 4, 128, 1),
        ({"width": 64, "sharing": "cycle", "steps": 12, "groups": 3}, 4, 256, 3),
        ({"width": 64, "sharing": "none", "steps": 12}, 4, 256, 12),
    ],
)
def test_zeros_resolve(values, heads, hidden, distinct):
    model = ModelConfig(**values)
    assert (model.num_kv_heads, model.hidden_width, model.distinct_blocks) == (heads, hidden, distinct)
    assert model.head_width == model.width // 4
