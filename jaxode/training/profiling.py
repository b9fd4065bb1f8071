"""A trace of a few updates, for whoever wants to see what the devices do meanwhile (train.profile)."""

from __future__ import annotations

from pathlib import Path

import jax

from jaxode import hosts
from jaxode.config import UserError, require
from jaxode.config.training import PROFILED, WARM_UP
from jaxode.training.step import StepMetrics


class Profile:
    """Records the updates that follow the first of a start, by jax.profiler; process 0 alone, where there are several.

    Where step counts are drawn, one that is new among them is compiled in the trace, and seen there.
    """

    def __init__(self, folder: Path, start: int, updates: int):
        """Of a run that goes on from update `start`; nothing is recorded yet.

        Raises:
            UserError: it has too few updates left.
        """
        self.folder, self.first, self.last = folder, start + WARM_UP + 1, start + WARM_UP + PROFILED
        self._open = self._written = False
        self._reached = start
        require(
            updates >= self.last,
            f"train.profile = true with {updates - start} update(s) left of {updates}: a trace takes {PROFILED} after "
            f"{WARM_UP} that warm up; leave it out",
        )

    def before(self, update: int) -> None:
        """Begin with the first of them.

        Raises:
            UserError: somebody else records already, or the folder cannot be written.
        """
        if update != self.first or not hosts.first():
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            jax.profiler.start_trace(str(self.folder))
        except (OSError, RuntimeError) as error:
            raise UserError(f"train.profile = true: no trace can be made in {self.folder} ({error})") from None
        self._open = True

    def after(self, update: int, metrics: StepMetrics) -> None:
        """End with the last of them, once the devices are done with it."""
        if self._open:
            self._reached = update
        if update == self.last:
            jax.block_until_ready(metrics)
            self.close()

    def close(self) -> None:
        """Write what is recorded, whole or not."""
        if self._open:
            self._open = False
            jax.profiler.stop_trace()
            self._written = True

    def line(self) -> str:
        """What was recorded and how to see it."""
        if not self._written:
            return f"train.profile: the run ended before update {self.first}, and nothing was recorded"
        return (
            f"trace of updates {self.first} to {self._reached} in {self.folder}: xprof --logdir {self.folder} "
            "(pip install xprof), or its .trace.json.gz at https://ui.perfetto.dev"
        )
