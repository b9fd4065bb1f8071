"""Nanbeige: where its loops are counted, rotations as the release rounds them, features that are not read."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from families import CASES
from references import nanbeige

from jaxode import UserError
from jaxode.interop import from_pretrained, save_pretrained
from jaxode.interop.families import FAMILIES
from jaxode.interop.families.family import Fields
from jaxode.interop.families.nanbeige import FEATURES


def read(**changes):
    return FAMILIES["nanbeige"].model(Fields(nanbeige.CONFIG | changes, "config.json"))


def test_frequencies_are_rounded(tmp_path):
    tokens = np.random.default_rng(0).integers(0, 53, (1, 40)).astype(np.int32)
    case = CASES["nanbeige"]
    found = from_pretrained(case.write(tmp_path)).model(jnp.asarray(tokens)).logits
    np.testing.assert_allclose(found, case.logits(tokens), atol=1e-4)
    assert np.abs(found - case.logits(tokens, rounded_frequencies=False)).max() > 1e-3


def test_loops_are_those_of_the_losses_where_these_have_weights():
    assert read(num_loops=3).steps == 3
    assert read(num_loops=3, loop_loss_weights=[0.5]).steps == 2
    with pytest.raises(UserError, match=r"loop_loss_weights = 0\.5: must be a list of numbers"):
        read(loop_loss_weights=0.5)


def test_loops_that_were_asked_for_are_kept_whatever_the_losses_said(tmp_path):
    folder = CASES["nanbeige-last-norm"].write(tmp_path / "read")
    save_pretrained(from_pretrained(folder, loops=7), tmp_path / "written")
    assert from_pretrained(tmp_path / "written").config.model.steps == 7
    kept = json.loads((tmp_path / "written" / "config.json").read_text())
    assert (kept["num_loops"], kept["loop_loss_weights"]) == (7, [])


def test_the_width_of_a_head_by_either_name():
    config = {name: value for name, value in nanbeige.CONFIG.items() if name != "head_dim"}
    for changes, width in (({"kv_channels": 8}, 8), ({"num_attention_heads": 9, "num_key_value_heads": 3}, 2)):
        assert FAMILIES["nanbeige"].model(Fields(config | changes, "config.json")).head_width == width


@pytest.mark.parametrize("name", FEATURES)
def test_features_that_are_not_read_are_refused_by_name(name):
    value = [3] if name == "insert_ngram_layer_idx" else 4 if name == "emb_neighbor_num" else True
    with pytest.raises(UserError, match=rf"config.json: {name} = .*: not read; only models without it are"):
        read(**{name: value})
    assert read(**{name: None}) == read(**{name: type(value)()}) == read()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pretraining_tp": 2}, "pretraining_tp = 2: only 1 is read"),
        ({"hidden_act": "gelu"}, "hidden_act = 'gelu': only 'silu' is read"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "rope_type = 'yarn': only 'default' is read"),
        ({"num_loops": 0}, "num_loops = 0: must be a whole number from 1"),
    ],
)
def test_what_is_not_read_is_refused(changes, message):
    with pytest.raises(UserError, match=message):
        read(**changes)
