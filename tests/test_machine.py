"""How much memory is free, from what the system tells."""

import os

import jax
import pytest

from jaxode import machine
from jaxode.machine import available_memory, gigabytes, readable


class Device:
    """One that counts its own memory."""

    def memory_stats(self):
        return {"bytes_limit": 80, "bytes_in_use": 30}


@pytest.fixture
def meminfo(monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "MEMINFO", tmp_path / "meminfo")
    return tmp_path / "meminfo"


def test_the_device_tells_first(monkeypatch):
    monkeypatch.setattr(jax, "local_devices", lambda: [Device()])
    assert available_memory() == 50


def test_the_system_tells_for_a_device_that_does_not(meminfo):
    meminfo.write_text("MemTotal: 9 kB\nMemFree: 1 kB\nMemAvailable:    2048 kB\n")
    assert available_memory() == 2**21


def test_pages_that_are_free(monkeypatch, meminfo):
    monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 4096, "SC_AVPHYS_PAGES": 10}.__getitem__)
    assert available_memory() == 40_960


def test_nothing_tells(monkeypatch, meminfo):
    def unknown(name):
        raise ValueError(name)

    monkeypatch.setattr(os, "sysconf", unknown)
    assert available_memory() is None


def test_bytes_in_errors():
    assert gigabytes(21_474_836_480) == "21.5 GB"


def test_bytes_in_lines():
    assert [readable(size) for size in (1_000, 54_850_000, 21_474_836_480)] == ["0.001 MB", "54.9 MB", "21.5 GB"]
