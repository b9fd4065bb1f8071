"""cuDNN's attention is asked for where it is sure to compile, and for the same mathematics as the formula."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxode.config import DepthConfig
from jaxode.model import attention, make_model
from jaxode.model.attention import attend
from jaxode.model.kernels import attention_kernel, capability
from jaxode.model.masks import document_mask
from jaxode.model.parameters import split

HOPPER = 9.0


def kernel(length=128, keys=None, width=64, dtype=jnp.bfloat16, heads=4, groups=4, capability=HOPPER, **kinds):
    q = jax.ShapeDtypeStruct((2, length, heads, width), dtype)
    k = jax.ShapeDtypeStruct((2, length if keys is None else keys, groups, width), dtype)
    return attention_kernel(q, k, capability=capability, **({"masked": False, "causal": True} | kinds))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"capability": 8.0},
        {"causal": False},
        {"masked": True},
        {"groups": 1},
        {"width": 128},
        {"width": 72},
        {"length": 127},
        {"dtype": jnp.float16},
        {"length": 64, "keys": 256, "causal": False},
    ],
)
def test_cudnn_takes(changes):
    assert kernel(**changes) == "cudnn"


@pytest.mark.parametrize(
    "changes",
    [
        {"dtype": jnp.float32},
        {"capability": 7.5},
        {"capability": 0.0},
        {"width": 256},
        {"width": 68},
        {"length": 1, "causal": False},
        {"length": 1, "keys": 128, "causal": False},
        {"length": 63},
        {"length": 64, "keys": 128},
        {"length": 127, "masked": True},
        {"length": 128, "keys": 127, "causal": False, "masked": True},
    ],
)
def test_what_it_may_refuse_or_read_otherwise_is_written_out(changes):
    assert kernel(**changes) == "written out"


@pytest.mark.parametrize(("version", "want"), [("9.0", 9.0), ("12.1", 12.1), ("gfx90a", 0.0), (None, 0.0)])
def test_capability_is_that_of_nvidia_alone(version, want, monkeypatch):
    class Device:
        def __init__(self):
            if version is not None:
                self.compute_capability = version

    monkeypatch.setattr(jax, "devices", lambda: [Device()])
    assert capability.__wrapped__() == want


# --- the same mathematics --------------------------------------------------------------------------------------------

SEGMENTS = {
    "documents": [[1] * 20 + [2] * 44, [1] * 30 + [2] * 20 + [0] * 14],
    "padding": [[1] * 64, [1] * 41 + [0] * 23],
    "padding first": [[0] * 9 + [1] * 55, [1] * 64],
}


@pytest.mark.broad
@pytest.mark.parametrize("groups", [4, 2, 1])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("rows", [None, *SEGMENTS])
def test_what_cudnn_is_asked_for_is_the_formula(rows, causal, groups, monkeypatch):
    keys = jax.random.split(jax.random.key(0), 4)
    q, out = (jax.random.normal(key, (2, 64, 4, 8)) for key in keys[:2])
    k, v = (jax.random.normal(key, (2, 64, groups, 8)) for key in keys[2:])
    mask = None if rows is None else document_mask(jnp.asarray(SEGMENTS[rows]), causal=causal)

    def values_and_gradients():
        value, pull = jax.vjp(lambda q, k, v: attend(q, k, v, mask=mask, causal=causal), q, k, v)
        return value, *pull(out)

    asked, library = [], jax.nn.dot_product_attention

    def elsewhere(*args, implementation, **kinds):
        asked.append(implementation)
        return library(*args, implementation="xla", **kinds)

    want = values_and_gradients()
    monkeypatch.setattr(attention, "attention_kernel", lambda *_, **__: "cudnn")
    monkeypatch.setattr(jax.nn, "dot_product_attention", elsewhere)
    for new, old in zip(values_and_gradients(), want, strict=True):
        np.testing.assert_allclose(new, old, rtol=1e-4, atol=1e-5)
    assert asked == ["cudnn"]


# --- what is lowered for an NVIDIA GPU -------------------------------------------------------------------------------


def lowered(nvidia, config, segments=None):
    architecture, params = split(make_model(config, dtype=jnp.bfloat16))
    tokens = jnp.zeros((3, config.length), jnp.int32)

    @jax.jit
    def logits(params, tokens, segments):
        return architecture.bind(params)(tokens, DepthConfig(), segments=segments).logits

    return nvidia(logits, params, tokens, segments)


@pytest.mark.broad
@pytest.mark.parametrize("changes", [{"kind": "causal"}, {"kind": "causal", "kv_heads": 2}, {"kind": "masked"}])
def test_a_solve_calls_cudnn_and_holds_no_mask(changes, nvidia, tiny):
    text = lowered(nvidia, tiny(length=72, **changes))
    assert text.count("@__cudnn$fmhaSoftmax(") == 1
    assert ("PADDING" in text, "CAUSAL" in text) == (False, changes["kind"] == "causal")
    assert "72x72" not in text


@pytest.mark.broad
@pytest.mark.parametrize("kind", ["causal", "masked"])
def test_documents_are_read_as_a_mask_of_16_bits_beside_causality(kind, nvidia, tiny):
    text = lowered(nvidia, tiny(length=72, kind=kind), jnp.ones((3, 72), jnp.int32))
    assert text.count("@__cudnn$fmhaScaleBiasSoftmax(") == 1
    assert ("CAUSAL" in text) == (kind == "causal")
    assert "72x72xf32" not in text


@pytest.mark.broad
@pytest.mark.parametrize(
    ("changes", "masked"), [({"width": 1024, "heads": 4}, False), ({"length": 73}, True), ({"length": 16}, False)]
)
def test_what_cudnn_does_not_take_is_lowered_all_the_same(changes, masked, nvidia, tiny):
    config = tiny(**({"length": 72} | changes))
    segments = jnp.ones((3, config.length), jnp.int32) if masked else None
    assert "cudnn" not in lowered(nvidia, config, segments)
