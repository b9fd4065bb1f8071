"""Schedules t0 = 0 < t1 < ... < tn: where along depth-time the block is evaluated. Static, hashable, no jax."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np

from jaxode.config import UserError, require

Real = float | int


@dataclass(frozen=True)
class Schedule:
    """Time points of a solve with `steps` steps; the trained network is `Schedule.even(N, N)`.

    Raises:
        UserError: fewer than two points, a point that is not finite, or times that do not rise.
    """

    times: tuple[Real, ...]

    def __post_init__(self) -> None:
        times = tuple(float(t) for t in self.times)
        object.__setattr__(self, "times", times)
        require(len(times) >= 2, f"schedule {times}: needs at least a start and an end (one step)")
        require(all(map(math.isfinite, times)), f"schedule {times}: every time must be finite")
        for earlier, later in itertools.pairwise(times):
            if not np.float32(earlier) < np.float32(later):  # the precision of the solvers
                raise UserError(
                    f"schedule {times}: {later:g} does not rise above {earlier:g}; times must rise from t0 to tn"
                )

    @property
    def steps(self) -> int:
        """n, the number of steps."""
        return len(self.times) - 1

    @property
    def sizes(self) -> tuple[float, ...]:
        """h_i = t_{i+1} - t_i, in depth-time (one trained block application = 1)."""
        return tuple(b - a for a, b in itertools.pairwise(self.times))

    @classmethod
    def even(cls, span: Real, steps: int) -> Schedule:
        """Step rescaling: n steps of h = span / n over the same interval (Chen et al. 2023)."""
        _check_steps(steps)
        return cls(tuple(span * i / steps for i in range(steps + 1)))

    @classmethod
    def unit(cls, span: Real, steps: int) -> Schedule:
        """N steps of the trained size 1, ending at time n: truncation below `span`, the loop run longer beyond it."""
        _check_steps(steps)
        return cls(tuple(float(i) for i in range(steps + 1)))

    @classmethod
    def geometric(cls, span: Real, steps: int, ratio: Real) -> Schedule:
        """Each step `ratio` times the one before: > 1 is fine early and coarse late."""
        _check_steps(steps)
        require(
            ratio > 0 and math.isfinite(ratio), f'depth.schedule = "geometric:{ratio:g}": the ratio must be positive'
        )
        # Relative to the largest size, so that no power overflows.
        last = max(0.0, (steps - 1) * math.log(ratio))
        return cls.from_sizes(tuple(math.exp(i * math.log(ratio) - last) for i in range(steps)), span)

    @classmethod
    def from_sizes(cls, sizes: tuple[Real, ...], span: Real | None = None) -> Schedule:
        """Cumulative sums of step sizes, rescaled to end at `span` where one is given."""
        schedule = cls(tuple(itertools.accumulate(sizes, initial=0.0)))
        if span is None:
            return schedule
        return cls((*(t * span / schedule.times[-1] for t in schedule.times[:-1]), span))

    def split(self, parts: int) -> tuple[Schedule, ...]:
        """Cut into `parts` intervals of equal length, each restarted at 0; the cuts must be time points.

        Raises:
            UserError: the schedule steps across a boundary between groups.
        """
        start, end = self.times[0], self.times[-1]
        pieces = []
        for part in range(parts):
            low, high = (start + (end - start) * i / parts for i in (part, part + 1))
            inside = [t for t in self.times if low - 1e-6 <= t <= high + 1e-6]
            meets = len(inside) >= 2 and abs(inside[0] - low) < 1e-6 and abs(inside[-1] - high) < 1e-6
            require(
                meets,
                f"schedule {self.times}: steps across the boundary between two of {parts} groups "
                f"({low:g} to {high:g}); give every group its own steps (a multiple of {parts} even steps does)",
            )
            pieces.append(Schedule(tuple(t - low for t in inside)))
        return tuple(pieces)


def make_schedule(name: str, span: Real, steps: int) -> Schedule:
    """Read a schedule's name: even | unit | geometric:RATIO | step sizes such as "1,2,4,5" that sum to `span`.

    All but unit end at `span`.
    """
    if name == "even":
        return Schedule.even(span, steps)
    if name == "unit":
        return Schedule.unit(span, steps)
    try:
        if name.startswith("geometric:"):
            return Schedule.geometric(span, steps, float(name.removeprefix("geometric:")))
        sizes = tuple(float(part) for part in name.split(","))
    except UserError:
        raise
    except ValueError:
        raise UserError(
            f'depth.schedule = "{name}": allowed are even, unit, geometric:RATIO, or step sizes such as "1,2,4,5"'
        ) from None
    require(
        len(sizes) == steps,
        f'depth.schedule = "{name}" has {len(sizes)} steps but depth.steps = {steps}: make them agree',
    )
    require(
        abs(sum(sizes) - span) < 1e-6,
        f'depth.schedule = "{name}" sums to {sum(sizes):g}: must reach the end of the interval, {span:g}',
    )
    return Schedule.from_sizes(sizes)


def _check_steps(steps: int) -> None:
    require(steps >= 1, f"depth.steps = {steps}: must be at least 1")
