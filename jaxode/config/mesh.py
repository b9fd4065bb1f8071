"""How devices stand to each other: as a mesh of three named axes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jaxode.config.checks import at_least, require
from jaxode.config.fields import check_fields

if TYPE_CHECKING:
    from jaxode.config.model import ModelConfig


@dataclass(frozen=True)
class MeshConfig:
    """data x fsdp x tensor devices; rows of a batch are dealt out over the first two."""

    data: int = 0
    """Copies of the model; 0: as many as the devices allow."""
    fsdp: int = 1
    """Devices that share one copy of parameters and optimizer state (Zhao et al. 2023, FSDP): each keeps a part, and
    the whole is put together once a solve."""
    tensor: int = 1
    """Devices that share every block: each computes its own heads and hidden units (Shoeybi et al. 2019, Megatron)."""

    def __post_init__(self) -> None:
        check_fields(self, "train.mesh")
        at_least("train.mesh.data", self.data, 0)
        at_least("train.mesh.fsdp", self.fsdp, 1)
        at_least("train.mesh.tensor", self.tensor, 1)

    def over(self, devices: int) -> tuple[int, int, int]:
        """Sizes of the three axes on so many devices.

        Raises:
            UserError: no such mesh, with the nearest that fits.
        """
        inner = self.fsdp * self.tensor
        text = f"train.mesh.fsdp = {self.fsdp} times train.mesh.tensor = {self.tensor}"
        require(
            devices % inner == 0,
            f"{text} is {inner}, which does not divide {devices} device(s): make it {nearest(inner, devices)}",
        )
        data = self.data or devices // inner
        require(
            data * inner == devices,
            f"train.mesh.data = {self.data} times {inner} ({text}) is {data * inner}, but there are {devices} "
            f"device(s): set train.mesh.data = {devices // inner}, or 0",
        )
        return data, self.fsdp, self.tensor

    def check_fits(self, model: ModelConfig) -> None:
        """Refuse a model that "tensor" does not divide.

        Raises:
            UserError: its heads or hidden units, with the nearest that does.
        """
        _check_tensor("train.mesh.tensor", self.tensor, model)


@dataclass(frozen=True)
class InferMeshConfig:
    """data x fsdp x tensor of the devices for a model at work; 1 x 1 x 1 is one of them."""

    data: int = 1
    """Copies of the model, to which rows are dealt out; where they do not divide the rows, each computes all of
    them."""
    fsdp: int = 1
    """Devices that share one copy of the parameters: each keeps a part of every matrix."""
    tensor: int = 1
    """Devices that share every block: each computes its own heads and hidden units."""

    def __post_init__(self) -> None:
        check_fields(self, "mesh")
        for name, size in zip(("data", "fsdp", "tensor"), self.sizes, strict=True):
            at_least(f"mesh.{name}", size, 1)

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Of the three axes."""
        return self.data, self.fsdp, self.tensor

    def check_fits(self, model: ModelConfig) -> None:
        """Refuse a model that "tensor" does not divide.

        Raises:
            UserError: its heads or hidden units, with the nearest that does.
        """
        _check_tensor("mesh.tensor", self.tensor, model)


def _check_tensor(field: str, tensor: int, model: ModelConfig) -> None:
    parts = {"heads": model.heads, "kv_heads": model.num_kv_heads, "ff_width": model.hidden_width}
    for name, number in parts.items():
        require(
            number % tensor == 0,
            f"{field} = {tensor} does not divide model.{name} = {number}: make it "
            f"{nearest(tensor, math.gcd(*parts.values()))}",
        )


def nearest(wanted: int, number: int) -> str:
    """The divisors of a number that lie next to what was wanted, as a message names them."""
    divisors = [d for d in range(1, number + 1) if number % d == 0]
    below, above = [d for d in divisors if d <= wanted][-1:], [d for d in divisors if d >= wanted][:1]
    return " or ".join(map(str, dict.fromkeys(below + above)))
