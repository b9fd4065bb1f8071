"""Which chip a device is, by the name that JAX has for it."""

from types import SimpleNamespace

import pytest

from jaxode.training.chips import CHIPS, bfloat16_peak, chip


@pytest.mark.parametrize(
    ("kind", "teraflops"),
    [
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA H100 80GB HBM3", 989.5),
        ("NVIDIA H100 PCIe", 756.5),
        ("NVIDIA H200", 989.5),
        ("NVIDIA L4", 121),
        ("TPU v5 lite", 197),
        ("TPU v5", 459),
        ("TPU v6 lite", 918),
    ],
)
def test_a_chip_by_its_kind(kind, teraflops):
    found = chip(kind)
    assert found is not None
    assert found.peak == teraflops * 1e12


@pytest.mark.parametrize("kind", ["cpu", "NVIDIA L40S", "NVIDIA A100-SXM4-40GB MIG 1g.5gb", "TPU v4 lite", "TPU v9"])
def test_what_is_not_in_the_table_is_nothing(kind):
    assert chip(kind) is None


def test_devices_together_and_one_that_is_not_known():
    known, other = SimpleNamespace(device_kind="TPU v4"), SimpleNamespace(device_kind="cpu")
    assert bfloat16_peak([known, known]) == 550e12
    assert bfloat16_peak([known, other]) is None


def test_every_figure_has_a_source():
    assert all("https://" in entry.source or "NVIDIA Ada" in entry.source for entry in CHIPS)
