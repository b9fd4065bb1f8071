"""Which processes train together: one a host, or one a device."""

from __future__ import annotations

from dataclasses import dataclass

from jaxode.config.checks import require
from jaxode.config.fields import check_fields

AUTO = "auto"


@dataclass(frozen=True)
class HostsConfig:
    """JAX's distributed runtime; every process is started with the same settings but for `process`."""

    coordinator: str = ""
    """ADDRESS:PORT of process 0, which all others reach; "auto": as the cluster's environment says (Cloud TPU, Slurm,
    Open MPI, Kubernetes); empty: this process trains alone."""
    processes: int = 0
    """How many there are."""
    process: int = -1
    """Number of this one, from 0."""

    def __post_init__(self) -> None:
        check_fields(self, "train.hosts")
        told = self.coordinator not in ("", AUTO)
        require(
            told or (self.processes, self.process) == (0, -1),
            f"train.hosts.processes = {self.processes}, train.hosts.process = {self.process} with "
            f'train.hosts.coordinator = "{self.coordinator}": they belong to the address of process 0; name it, or '
            "leave them out",
        )
        if not told:
            return
        address, _, port = self.coordinator.rpartition(":")
        require(
            bool(address) and port.isdecimal() and 0 < int(port) < 65536,
            f'train.hosts.coordinator = "{self.coordinator}": must be ADDRESS:PORT of process 0, such as '
            'node1:1234, or "auto"',
        )
        require(
            self.processes >= 1 and 0 <= self.process < self.processes,
            f"train.hosts.process = {self.process} of train.hosts.processes = {self.processes}: must be one of "
            f"0 .. {max(self.processes, 1) - 1}, and there must be at least one",
        )
