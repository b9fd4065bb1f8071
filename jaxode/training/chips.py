"""What chips multiply at most, as their makers say: the denominator of the model FLOPs utilisation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jaxode.types import Device


@dataclass(frozen=True)
class Chip:
    """A kind of chip; of two figures for bfloat16 the one without structured sparsity counts."""

    name: str
    """How JAX's `device_kind` begins; of several that fit the longest counts."""
    peak: float
    """Dense bfloat16 products added up in float32, in floating-point operations per second."""
    source: str


_NVIDIA, _CLOUD = "https://www.nvidia.com/en-us/", "https://cloud.google.com/tpu/docs/"
_A100 = f"{_NVIDIA}data-center/a100/ (312, 624 with sparsity)"
_H100 = f"{_NVIDIA}data-center/h100/ (SXM 1,979, NVL 1,671, and the data sheet of 2022 PCIe 1,513, with sparsity)"
_ADA = "NVIDIA Ada GPU Architecture, v2.01, appendix A (RTX 4090: 165.2 with FP32 accumulation; L4: 121)"

CHIPS = (
    Chip("NVIDIA A100", 312e12, _A100),
    Chip("NVIDIA H100", 989.5e12, _H100),
    Chip("NVIDIA H100 PCIe", 756.5e12, _H100),
    Chip("NVIDIA H100 NVL", 835.5e12, _H100),
    Chip("NVIDIA H200", 989.5e12, f"{_NVIDIA}data-center/h200/ (SXM 1,979 with sparsity)"),
    Chip("NVIDIA H200 NVL", 835.5e12, f"{_NVIDIA}data-center/h200/ (NVL 1,671 with sparsity)"),
    Chip("NVIDIA B200", 2250e12, f"{_NVIDIA}data-center/hgx/ (eight of them 36,000 with sparsity)"),
    Chip("NVIDIA L4", 121e12, _ADA),
    Chip("NVIDIA GeForce RTX 4090", 165.2e12, _ADA),
    Chip("TPU v4", 275e12, f"{_CLOUD}v4"),
    Chip("TPU v5 lite", 197e12, f"{_CLOUD}v5e"),
    Chip("TPU v5e", 197e12, f"{_CLOUD}v5e"),
    Chip("TPU v5", 459e12, f"{_CLOUD}v5p"),
    Chip("TPU v5p", 459e12, f"{_CLOUD}v5p"),
    Chip("TPU v6 lite", 918e12, f"{_CLOUD}v6e"),
    Chip("TPU v6e", 918e12, f"{_CLOUD}v6e"),
)
UNLIKE = ("NVIDIA L40", "NVIDIA GeForce RTX 4090 D", "NVIDIA GeForce RTX 4090 Laptop", "TPU v4 lite")
"""Kinds that begin as one of the table and are other chips; so is a part of a chip (MIG)."""


def chip(kind: str) -> Chip | None:
    """The chip that JAX calls so; None where it is not in the table."""
    if "MIG" in kind or kind.startswith(UNLIKE):
        return None
    return max((chip for chip in CHIPS if kind.startswith(chip.name)), key=lambda chip: len(chip.name), default=None)


def bfloat16_peak(devices: Sequence[Device]) -> float | None:
    """Of all of them together, in floating-point operations per second; None where one of them is not known."""
    known = [chip(device.device_kind) for device in devices]
    return None if None in known else sum(chip.peak for chip in known if chip is not None)
