"""What the tests of the loop do to a run: other settings, a signal, a kill."""

import dataclasses
import os
import signal

import pytest

from jaxode.training import loop, train


def change(config, **train_fields):
    return dataclasses.replace(config, train=dataclasses.replace(config.train, **train_fields))


def stop_after(monkeypatch, updates, number=signal.SIGTERM):
    """Deliver one real signal while update `updates` runs."""
    original = loop._Loop._check

    def check(self, metrics, step):
        original(self, metrics, step)
        if step == updates - 1 and self.stop.signal is None:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(loop._Loop, "_check", check)


class Killed(BaseException):
    """What no code catches."""


def kill_after(monkeypatch, updates, config, reason=Killed):
    """Train until update `updates` is checked, then end as a kill does."""
    original = loop._Loop._check

    def check(self, metrics, step):
        original(self, metrics, step)
        if step == updates:
            raise reason

    with monkeypatch.context() as patch:
        patch.setattr(loop._Loop, "_check", check)
        with pytest.raises(reason):
            train(config)
