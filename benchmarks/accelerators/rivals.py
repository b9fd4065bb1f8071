"""The same networks in PyTorch, where it is there: on the same device, in the same type, random weights."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import jax


def rival(name: str, skipped: dict[str, str], *arguments: Any) -> Any:
    """What `accelerators.torch_networks.NAME` gives, called once; None, and why in `skipped`, where it cannot run."""
    label = f"PyTorch: {name}"
    if label in skipped:
        return None
    if jax.default_backend() not in ("cpu", "gpu"):
        skipped[label] = f"PyTorch does not run on {jax.default_backend()} here"
        return None
    try:
        networks = importlib.import_module("accelerators.torch_networks")
        run: Callable[[], Any] | dict[str, Callable[[], Any]] = getattr(networks, name)(*arguments)
        for call in run.values() if isinstance(run, dict) else [run]:
            call()
    except Exception as error:  # a compiler, a driver or memory: whatever it is, our own figures count without it
        skipped[label] = f"{type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else ''}"
        return None
    return run
