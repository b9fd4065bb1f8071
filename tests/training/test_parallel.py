"""jit over a mesh and pmap on 8 emulated devices equal the single device, and send no more than they must."""

import dataclasses
import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from small_runs import change
from test_step import MODEL, make_batch

from jaxode.checkpoint import Checkpoints, RunFolder
from jaxode.config import Config, DepthConfig, MeshConfig, ModelConfig, OptimizerConfig, TrainConfig, UserError
from jaxode.model import make_model
from jaxode.model.parameters import split
from jaxode.model.partition import partition
from jaxode.training import init_state, make_optimizer, make_parallel, make_train_step, train, validation
from jaxode.training.collectives import collectives
from jaxode.training.parallel import _part

WIDE = dataclasses.replace(MODEL, vocab_size=32, width=32, heads=8)
"""Everything is a multiple of 8."""
LAYOUTS = [MeshConfig(8, 1, 1), MeshConfig(1, 8, 1), MeshConfig(1, 1, 8), MeshConfig(2, 2, 2)]
MODELS = {
    "causal": WIDE,
    "masked, post-norm": dataclasses.replace(WIDE, kind="masked", norm_position="post"),
    "two blocks, swiglu": dataclasses.replace(
        WIDE, sharing="sequence", groups=2, steps=4, feed_forward="swiglu", ff_width=64
    ),
    "prelude, told, its gate": dataclasses.replace(
        WIDE, prelude=1, conditioning="step", attention=dataclasses.replace(WIDE.attention, gate=True)
    ),
}


def setup(model, optimizer="muon", adjoint="recursive", accumulate=1, **train_fields):
    """The compiled step, the state it begins with, and where batches go."""
    devices = int(np.prod(dataclasses.astuple(train_fields["mesh"]))) if "mesh" in train_fields else 1
    config = TrainConfig(**({"batch_size": 16, "devices": devices, "accumulate": accumulate} | train_fields))
    ways = make_parallel(config)
    architecture, params = split(make_model(model))
    # small enough that rounding does not grow from update to update
    rule, depth = make_optimizer(OptimizerConfig(name=optimizer, learning_rate=3e-3), 50), DepthConfig(adjoint=adjoint)
    state = ways.place_state(init_state(params, rule))
    step = ways.compile(
        lambda spread: make_train_step(architecture, depth, rule, accumulate=accumulate, spread=spread), state
    )
    return step, state, ways.place_batch


def losses(model, updates, **kwargs):
    step, state, place = setup(model, **kwargs)
    result = []
    for seed in range(updates):
        state, metrics = step(state, place(make_batch(16, seed % 2, ragged=True)), jax.random.key(0))
        result.append(float(metrics.loss))
    assert result[-1] < result[0]
    return np.array(result), jax.device_get(state.params)


def check_equal(model, updates, **kwargs):
    single, params = losses(model, updates)
    many, found = losses(model, updates, **kwargs)
    np.testing.assert_allclose(many, single, atol=1e-5)
    for name, value in params.items():
        np.testing.assert_allclose(found[name], value, atol=2e-3, err_msg=name)


@pytest.mark.broad
@pytest.mark.parametrize(
    "fields",
    [
        {"mesh": MeshConfig(2, 2, 2)},
        {"devices": 8, "parallel": "pmap", "adjoint": "remat"},
        {"mesh": MeshConfig(2, 2, 1), "accumulate": 2},
    ],
    ids=str,
)
def test_many_devices_equal_one(fields):
    assert len(jax.devices()) >= 8, "tests run on 8 emulated devices"
    check_equal(WIDE, 12, **fields)


@pytest.mark.broad
@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "mesh"),
    [("causal", mesh) for mesh in LAYOUTS] + [(model, LAYOUTS[-1]) for model in MODELS if model != "causal"],
    ids=str,
)
def test_every_layout_equals_one_device(model, mesh):
    check_equal(MODELS[model], 50, mesh=mesh)


def program(model=WIDE, **kwargs):
    step, state, place = setup(model, optimizer="adamw", **kwargs)
    text = step.lower(state, place(make_batch(16)), jax.random.key(0)).compile().as_text()
    sent = list(collectives(text))
    return tuple(Counter(one.kind for one in sent if one.looped is looped) for looped in (False, True))


@pytest.mark.parametrize("adjoint", ["recursive", "remat"])
def test_gradients_are_added_up_behind_the_solve_and_not_at_every_step(adjoint):
    once, loops = program(mesh=MeshConfig(8, 1, 1), adjoint=adjoint)
    # counts of tokens, which the loss is divided by, and then all gradients together
    assert (once, loops) == ({"all-reduce": 2}, {})


def test_shards_are_put_together_once_a_solve():
    once, loops = program(mesh=MeshConfig(1, 8, 1))
    assert not loops
    matrices = sum(value.ndim == 2 for value in split(make_model(WIDE))[1].values())
    assert (once["all-gather"], once["reduce-scatter"]) == (matrices, matrices)


def test_a_step_with_shared_blocks_adds_up_each_sublayer_alone():
    _, loops = program(mesh=MeshConfig(1, 1, 8))
    # forward each sublayer once; backward the same of its gradient, and the attention's again, which is made anew
    assert loops == {"all-reduce": 5}
    _, loops = program(MODELS["two blocks, swiglu"], mesh=MeshConfig(2, 2, 2))
    assert loops == {"all-reduce": 2 * 5}


def test_bytes_of_whole_models_are_those_of_the_parameters():
    step, state, place = setup(WIDE, optimizer="adamw", mesh=MeshConfig(8, 1, 1))
    text = step.lower(state, place(make_batch(16)), jax.random.key(0)).compile().as_text()
    # their gradients, the loss, and how many tokens it is divided by
    want = sum(4 * value.size for value in state.params.values()) + 4 + 4
    assert sum(one.bytes for one in collectives(text)) == want


def test_bytes_are_those_of_what_is_gathered():
    step, state, place = setup(WIDE, optimizer="adamw", mesh=MeshConfig(1, 8, 1))
    text = step.lower(state, place(make_batch(16)), jax.random.key(0)).compile().as_text()
    gathered = sum(one.bytes for one in collectives(text) if one.kind == "all-gather")
    assert gathered == sum(4 * value.size for value in state.params.values() if value.ndim == 2)


def test_parameters_and_what_the_optimizer_keeps_of_them_are_cut():
    _, state, _ = setup(WIDE, mesh=MeshConfig(1, 4, 2))
    kernel = state.params["stack.looped.0.feed_forward.inner.kernel"]
    assert kernel.shape == (32, 128)
    assert {shard.data.shape for shard in kernel.addressable_shards} == {(8, 64)}
    held = jax.tree.leaves((state.params, state.optimizer))
    whole, mine = (sum(x.size for x in leaves) for leaves in (held, [x.addressable_shards[0].data for x in held]))
    assert mine < 0.3 * whole


def test_what_an_axis_does_not_divide_is_whole():
    sizes = {"data": 1, "fsdp": 8, "tensor": 2}
    assert tuple(partition("embedding.tokens.embedding", (259, 32), sizes)) == (None, "fsdp")
    assert tuple(partition("embedding.tokens.embedding", (259, 31), sizes)) == (None, None)
    assert tuple(partition("stack.looped.0.attention_norm.scale", (32,), sizes)) == ()
    assert tuple(partition("stack.looped.0.attention.output.kernel", (32, 64), sizes)) == ("tensor", "fsdp")


def test_batches_are_spread_over_the_mesh():
    ways = make_parallel(TrainConfig(batch_size=16, devices=8))
    batch = ways.place_batch(make_batch(16))
    assert {shard.data.shape for shard in batch.tokens.addressable_shards} == {(2, MODEL.length)}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"batch_size": 12}, r"batch_size = 12 .* 8 devices do not divide: .*_size 8 or 16, or another multiple of 8$"),
        (
            {"batch_size": 6, "accumulate": 2},
            r"gives 3 rows, .*: make train\.batch_size 16, or another multiple of 16$",
        ),
        ({"batch_size": 4096, "devices": 4096}, r"train\.devices = 4096: only \d+ cpu device"),
        ({"mesh": MeshConfig(fsdp=3)}, r"fsdp = 3 times .* is 3, which does not divide 8 device\(s\): make it 2 or 4"),
        (
            {"mesh": MeshConfig(data=3, tensor=2)},
            r"mesh\.data = 3 times 2 .* is 6, but there are 8 .*data = 4, or 0$",
        ),
        ({"batch_size": 6, "mesh": MeshConfig(tensor=2)}, r"6 rows, which 4 groups of 2 devices do not divide"),
    ],
)
def test_refuses_what_devices_do_not_divide(fields, message):
    with pytest.raises(UserError, match=message):
        make_parallel(TrainConfig(**({"batch_size": 16, "devices": 8} | fields)))


def test_refuses_heads_that_a_mesh_does_not_divide(config):
    config = change(config, mesh=MeshConfig(tensor=4), devices=8)
    with pytest.raises(UserError, match=r"train\.mesh\.tensor = 4 does not divide model\.heads = 2: make it 2$"):
        train(config)


def test_pmap_has_no_mesh():
    with pytest.raises(UserError, match=r'train\.parallel = "pmap" with train\.mesh'):
        TrainConfig(parallel="pmap", mesh=MeshConfig(fsdp=2))


def restored(run, model, mesh):
    """The newest checkpoint on a mesh."""
    ways = make_parallel(TrainConfig(batch_size=16, devices=int(np.prod(dataclasses.astuple(mesh))), mesh=mesh))
    _, params = split(make_model(model))
    state = ways.place_state(init_state(params, make_optimizer(OptimizerConfig(learning_rate=1e-2), 8)))
    with Checkpoints(RunFolder(Path(run))) as checkpoints:
        found = checkpoints.restore(state.params, state.optimizer)
    assert found is not None
    for name, value in found.params.items():
        assert value.sharding == state.params[name].sharding, name
    return jax.device_get((found.params, found.optimizer))


def test_a_checkpoint_of_any_mesh_is_read_on_any_other(config):
    wide = ModelConfig(width=32, heads=4, length=16, steps=3)
    config = dataclasses.replace(change(config, mesh=MeshConfig(1, 4, 2), devices=8), model=wide)
    first = train(config)
    plain = restored(config.out, first.config.model, MeshConfig(1, 1, 1))
    for mesh in (MeshConfig(1, 4, 2), MeshConfig(4, 2, 1), MeshConfig(1, 1, 4)):
        jax.tree.map(np.testing.assert_array_equal, restored(config.out, first.config.model, mesh), plain)
    for name, value in first.params.items():
        np.testing.assert_array_equal(plain[0][name], value, err_msg=name)
    longer = change(dataclasses.replace(first.config, resume=True), mesh=MeshConfig(8, 1, 1), batch_size=4)
    with pytest.raises(UserError, match="4 rows, which 8 devices do not divide"):
        train(longer)
    assert train(change(longer, mesh=MeshConfig(2, 1, 1), devices=2)).step == first.step


@pytest.mark.deep
def test_validation_runs_on_all_devices(config, monkeypatch):
    mesh, seen = MeshConfig(data=2, fsdp=2, tensor=2), []
    evaluate = validation.evaluate

    def watched(architecture, params, batches, *args, **kwargs):
        batches = list(batches)
        alone = evaluate(architecture, jax.device_get(params), jax.device_get(batches), *args, **kwargs)
        spread = evaluate(architecture, params, batches, *args, **kwargs)
        seen.append((alone.nats_per_token, spread.nats_per_token))
        cut = [len({str(shard.index) for shard in x.addressable_shards}) for x in params.values() if x.ndim == 2]
        assert max(cut) == 4
        assert len({str(shard.index) for shard in batches[0].tokens.addressable_shards}) == 4
        return spread

    monkeypatch.setattr(validation, "evaluate", watched)
    wide = dataclasses.replace(config, model=ModelConfig(width=32, heads=4, length=16, steps=3))
    result = train(change(wide, mesh=mesh, devices=8, updates=2, validate_every=1, sweep=False))
    assert len(seen) == 2  # after the first update, and at the end
    np.testing.assert_allclose(*np.transpose(seen), rtol=1e-5)
    assert all(isinstance(x, np.ndarray) for x in result.params.values())


def logged(run):
    return [json.loads(line) for line in run.metrics.read_text().splitlines()]


@pytest.mark.deep
def test_a_teacher_is_cut_like_what_it_teaches(begun):
    begun = dataclasses.replace(
        begun, objective=dataclasses.replace(begun.objective, distil=1.0, teacher="init", steps="uniform:2,4")
    )
    begun = change(begun, updates=3, log_every=1, sweep=False)
    meshed = change(dataclasses.replace(begun, out=begun.out + "-mesh"), mesh=MeshConfig(1, 2, 2), devices=4)
    want, found = ([record for record in logged(train(run).run) if "distil" in record] for run in (begun, meshed))
    assert len(want) == 3
    for one, other in zip(want, found, strict=True):
        assert other["loss"] == pytest.approx(one["loss"], abs=1e-4)
        assert other["distil"] == pytest.approx(one["distil"], abs=1e-4)


def test_the_command_line_knows_the_mesh():
    from jaxode.config import parse

    assert parse(Config, ["--train.mesh.fsdp", "4"]).train.mesh == MeshConfig(fsdp=4)


def placed(*shares_of):
    """Rows dealt out to devices of so many processes, each of which holds these shares."""

    class Device:
        def __init__(self, process):
            self.process_index = process

    where = {Device(process): (slice(share, share + 1),) for process, mine in enumerate(shares_of) for share in mine}
    count = len({share for mine in shares_of for share in mine})
    mesh = SimpleNamespace(shape={"data": count, "fsdp": 1})
    return SimpleNamespace(mesh=mesh, devices_indices_map=lambda shape: where)


@pytest.mark.parametrize(
    ("shares_of", "parts"),
    [
        # each process its block; not in order, as a TPU's devices may stand; two processes a share
        ([[0, 1], [2, 3]], [(0, 2), (1, 2)]),
        ([[0, 1, 6, 7], [2, 3, 4, 5]], [(0, 2), (1, 2)]),
        ([[0], [0], [1], [1]], [(0, 2), (0, 2), (1, 2), (1, 2)]),
    ],
)
def test_every_row_is_brought_by_the_processes_that_hold_its_share(shares_of, parts, untyped, monkeypatch):
    for process, part in enumerate(parts):
        monkeypatch.setattr(jax, "process_index", lambda process=process: process)
        assert _part(placed(*shares_of)) == part


def test_rows_that_processes_share_in_part_are_refused(untyped):
    with pytest.raises(UserError, match="the rows of a batch do not fall apart by process"):
        _part(placed([0, 1], [1, 2]))
