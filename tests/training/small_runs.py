"""What the tests of the loop do to a run: other settings, a signal, a kill; and a small ALBERT that one begins with."""

import dataclasses
import os
import signal

import jax.numpy as jnp
import numpy as np
import pytest

from jaxode.config import ModelConfig
from jaxode.training import loop, train

ALBERT = ModelConfig(
    kind="masked",
    vocab_size=259,
    width=16,
    heads=2,
    length=16,
    steps=4,
    embedding_width=8,
    norm_position="post",
    positions="learned",
    token_types=2,
    embedding_norm=True,
)
TOKENS = jnp.asarray(np.random.default_rng(0).integers(0, 256, (2, 16)), jnp.int32)


def change(config, **train_fields):
    return dataclasses.replace(config, train=dataclasses.replace(config.train, **train_fields))


def stop_after(monkeypatch, updates, number=signal.SIGTERM):
    """Deliver one real signal while update `updates` runs."""
    original = loop.Loop._check

    def check(self, metrics, step):
        original(self, metrics, step)
        if step == updates - 1 and self.stop.signal is None:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(loop.Loop, "_check", check)


class Killed(BaseException):
    """What no code catches."""


def kill_after(monkeypatch, updates, config, reason=Killed):
    """Train until update `updates` is checked, then end as a kill does."""
    original = loop.Loop._check

    def check(self, metrics, step):
        original(self, metrics, step)
        if step == updates:
            raise reason

    with monkeypatch.context() as patch:
        patch.setattr(loop.Loop, "_check", check)
        with pytest.raises(reason):
            train(config)
