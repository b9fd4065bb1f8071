"""A model on 2 x 2 x 2 devices gives what it gives on one."""

import numpy as np
import pytest

from jaxode.config import InferConfig, InferMeshConfig, UserError
from jaxode.inference import generate_batch, load, score_texts
from jaxode.inference.mesh import deal_rows


@pytest.fixture(scope="module")
def alone(runs):
    return load(runs["causal"])


@pytest.fixture(scope="module")
def together(alone):
    return alone.on_mesh(InferMeshConfig(2, 2, 2))


def test_parameters_are_cut_and_rows_dealt_out(alone, together):
    kernel = next(name for name in alone.params if name.endswith("feed_forward.inner.kernel"))
    whole, part = alone.params[kernel].shape, together.params[kernel].addressable_shards[0].data.shape
    assert np.prod(part) * 4 == np.prod(whole)
    rows, odd = deal_rows(together.params, (np.zeros((4, 3)), np.zeros((3, 3))))
    assert rows.addressable_shards[0].data.shape == (2, 3)
    assert isinstance(odd, np.ndarray)
    assert deal_rows(alone.params, odd) is odd


def test_scores_are_those_of_one_device(alone, together):
    texts = ["abc", "a bc", "c", "bb a"]
    want, found = ([score.nats for score in score_texts(model, texts).scores] for model in (alone, together))
    np.testing.assert_allclose(found, want, rtol=1e-5)


def test_texts_go_on_as_on_one_device(alone, together):
    want, found = (generate_batch(model, ["ab", "c"], max_new_tokens=6, seeds=3) for model in (alone, together))
    for one, other in zip(found, want, strict=True):
        assert one.text == other.text
        np.testing.assert_allclose(one.log_probabilities, other.log_probabilities, atol=1e-5)


def test_the_command_line(infer, runs, tmp_path):
    file = tmp_path / "text.txt"
    file.write_text("abc\nbca\n")
    call = ("--checkpoint", runs["causal"], "--task", "score", "--file", file)
    ran, mesh = infer(*call), infer(*call, "--mesh.data", "2", "--mesh.fsdp", "2", "--mesh.tensor", "2")
    assert (ran.code, mesh.code) == (0, 0), mesh.err
    (names, _, row), (mesh_names, _, mesh_row) = (each.out.splitlines() for each in (ran, mesh))
    assert names == mesh_names
    # sums over devices are otherwise rounded
    assert [float(x) for x in mesh_row.split()] == pytest.approx([float(x) for x in row.split()], rel=1e-3)


@pytest.mark.parametrize(
    ("mesh", "message"),
    [
        (InferMeshConfig(tensor=3), r"mesh\.tensor = 3 does not divide model\.heads = \d: make it"),
        (InferMeshConfig(data=4, fsdp=4), r"16 devices, but there are 8; make them smaller"),
    ],
)
def test_a_mesh_that_does_not_fit_is_refused(alone, mesh, message):
    with pytest.raises(UserError, match=message):
        alone.on_mesh(mesh)


@pytest.mark.parametrize("settings", [{"task": "sweep"}, {"task": "generate", "speculative": True}])
def test_what_runs_on_one_device_only_is_refused(settings):
    with pytest.raises(UserError, match=r"mesh .*leave (it|one of them) out"):
        InferConfig(mesh=InferMeshConfig(data=2), **settings)
    with pytest.raises(UserError, match=r"mesh\.data = 0: must be at least 1"):
        InferMeshConfig(data=0)
