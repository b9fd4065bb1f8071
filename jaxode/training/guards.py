"""What the losses of a run say about it: not a number, or far above those before."""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Callable

from jaxode import hosts
from jaxode.config import UserError

WINDOW, LEAST = 50, 20
"""Losses that a new one is compared with, and how many there must be."""
SPIKE = 8.0
"""From so many median deviations above their median on a loss is told as a spike."""
IN_A_ROW = 20
"""So many updates without a finite loss, one after the other, end a run in any case."""


class Guard:
    """Looks at every update's loss and gradient norm, one update late."""

    def __init__(self, skips: bool, kept: Callable[[], str]):
        """With `skips` the step leaves out updates that are not finite; `kept` says what a run that ends leaves."""
        self.skips, self.kept = skips, kept
        self.skipped = 0
        """Updates left out since the run was started or resumed."""
        self._seen = self._in_a_row = 0
        self._recent: deque[float] = deque(maxlen=WINDOW)

    def check(self, step: int, loss: float, norm: float) -> None:
        """Tell what is unusual; an update that was looked at already is passed over.

        Raises:
            UserError: loss or gradient norm is not finite, and nothing skips that, or not so often.
        """
        if step <= self._seen:
            return
        self._seen = step
        if math.isfinite(loss) and math.isfinite(norm):
            self._in_a_row = 0
            self._tell_spike(step, loss)
            return
        about = f"update {step}: loss {loss}, gradient norm {norm}"
        self._in_a_row += 1
        if not self.skips or self._in_a_row >= IN_A_ROW:
            again = f" {self._in_a_row} updates in a row" if self.skips else ""
            raise UserError(
                f"{about}: training has diverged{again}; {self.kept()}; lower optimizer.learning_rate or raise "
                "optimizer.warmup_fraction"
            )
        self.skipped += 1
        hosts.say(f"{about}: left out, {self.skipped} in all (train.nonfinite)")

    def _tell_spike(self, step: int, loss: float) -> None:
        if len(self._recent) >= LEAST:
            middle = statistics.median(self._recent)
            # losses at several step counts lie apart: their spread is no spike
            spread = max(statistics.median(abs(one - middle) for one in self._recent), 0.01 * abs(middle))
            if loss > middle + SPIKE * spread:
                last = len(self._recent)
                hosts.say(f"update {step}: loss {loss:.4g}, a spike: the median of the last {last} is {middle:.4g}")
        self._recent.append(loss)
