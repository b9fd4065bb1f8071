"""Curricula: in how many steps each update solves its batch, drawn from a small fixed set, and what that costs."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from jaxode.config import Config, DepthConfig, ModelConfig, ObjectiveConfig, UserError, parse_counts, require
from jaxode.evaluation import default_steps
from jaxode.model import flops_per_token, plan, resolve
from jaxode.model.cost import block_evaluations
from jaxode.training.terms import check_terms

DIVISORS = (1, 2, 3, 4, 6)
LATE = (0.35, 0.7)
"""Shares of the updates between which "late" adds its step counts one after another."""
SIGMA = 0.5
"""Of the logarithm of the Poisson mean (Geiping et al. 2025, section 3.3)."""


@dataclass(frozen=True)
class Solves:
    """Step counts of one update: static, one compiled program for each value."""

    main: int
    short: int | None = None


class Curriculum:
    """Which solves each update makes: a function of (seed, update) alone, from a small fixed set.

    Raises:
        UserError: step counts, spacing or conditioning that do not fit the model.
    """

    def __init__(self, config: Config):
        """Resolve the step counts of `config.objective` for the model."""
        model, own = config.model, config.objective.resolved
        depth = resolve(model, config.depth)
        self._seed, self._updates = config.train.seed, config.train.updates
        self._alone = math.ceil(own.widen_after * self._updates)
        self.full = model.steps if depth.steps is None else depth.steps
        self._depth, self._spaced = depth, own
        _check(model, depth, config.objective)
        check_terms(own, model.learns)
        self._rule, self._main = _choices("steps", own.steps, model)
        self._short_rule, self._short = _choices("short", own.short, model)
        if self._rule == "grow" and not parse_counts(own.steps)[1]:
            self._main = tuple(steps for steps in self._main if self.full in (4 * steps, 2 * steps, steps))
        require(
            self._rule not in ("grow", "late") or self._main[-1:] == (self.full,),
            f'objective.steps = "{own.steps}" ends with {self._main[-1] if self._main else None}: depth must grow to '
            f"the full {self.full} steps",
        )
        self._short = tuple(steps for steps in self._short if steps < self.full)
        told_nothing = own.spacing == "unit" or min(self._main + self._short, default=self.full) >= model.steps
        require(
            not (model.clock.anchored and told_nothing),
            f'model.clock.anchored = true with objective.steps = "{own.steps}", objective.short = "{own.short}", '
            f'objective.spacing = "{own.spacing}": no update makes a step longer than 1, and nothing would be told; '
            f"name step counts below N = {model.steps}, evenly spaced or drawn",
        )
        require(
            not own.short or bool(self._short),
            f'objective.short = "{own.short}": no step count below the full depth of {self.full} fits the layout',
        )

    @property
    def shortest(self) -> DepthConfig:
        """The solve in the fewest steps that updates make, in even ones where their sizes are drawn."""
        fewest = min(self._main + self._short, default=self.full)
        if fewest == self.full:
            return self._depth
        solver = self._depth.solver if fewest in self._main else self._spaced.short_solver
        schedule = "unit" if self._spaced.spacing == "unit" else "even"
        return dataclasses.replace(self._depth, steps=fewest, schedule=schedule, solver=solver)

    def at(self, update: int) -> Solves:
        """The solves of an update, counted from 0."""
        rng = np.random.default_rng((self._seed, update, 0x0DE))
        if self._rule == "grow":
            main = self._main[self._reached(update)]
        elif self._rule == "late":
            main = self._late(update, rng)
        elif self._rule == "widen":
            main = _draw(rng, "inverse", self._main[: self._reached(update) + 1])
        else:
            main = _draw(rng, self._rule, self._main) if self._main else self.full
        shorter = [steps for steps in self._short if steps < main]
        return Solves(main, _draw(rng, self._short_rule, shorter) if shorter else None)

    def _late(self, update: int, rng: np.random.Generator) -> int:
        share = update / self._updates
        if share >= LATE[1]:
            return _draw(rng, "uniform", self._main)
        after = max(0.0, share - LATE[0]) / (LATE[1] - LATE[0])
        return self._main[min(math.ceil(after * (len(self._main) - 1)), len(self._main) - 1)]

    def _reached(self, update: int) -> int:
        """Place in `steps` of the last count whose turn has come: equally many updates each, after those of `alone`."""
        last = len(self._main) - 1
        if not self._alone:
            return min(update * len(self._main) // self._updates, last)
        if update < self._alone:
            return 0
        return min(1 + (update - self._alone) * last // (self._updates - self._alone), last)


@dataclass(frozen=True)
class Cost:
    """Of one update or of several, forward and backward; recomputation is no progress and is not counted."""

    block_evaluations: int
    """Applications of a block in the forward solves."""
    flops: int
    """Per token: three times the forward pass, and once that of a teacher."""


@cache
def cost(model: ModelConfig, depth: DepthConfig, objective: ObjectiveConfig, solves: Solves) -> Cost:
    """Per token of one update."""
    objective = objective.resolved
    main = dataclasses.replace(depth, steps=solves.main, schedule="even")
    each = [main] + ([DepthConfig(steps=solves.short)] if solves.short is not None else [])
    evaluations = sum(block_evaluations(model, one) for one in each)
    flops = sum(flops_per_token(model, one).total for one in each)
    # read out through coda and head
    exits, one = len(objective.exit_shares), flops_per_token(model)
    evaluations += exits * model.coda
    flops += exits * (one.head + model.coda * one.block)
    if objective.teacher == "init":  # forward alone
        taught = flops_per_token(model, DepthConfig()).total
        return Cost(evaluations + block_evaluations(model, DepthConfig()), 3 * flops + taught)
    return Cost(evaluations, 3 * flops)


def _draw(rng: np.random.Generator, rule: str, choices: Sequence[int]) -> int:
    """Uniform, inverse to the steps, or the choice nearest to a log-normal Poisson draw with the choices' mean."""
    if rule == "uniform":
        return int(rng.choice(choices))
    if rule == "inverse":
        shares = 1.0 / np.asarray(choices)
        return int(rng.choice(choices, p=shares / shares.sum()))
    mean = sum(choices) / len(choices)
    rate = math.exp(rng.normal(math.log(mean) - SIGMA**2 / 2, SIGMA))
    drawn = rng.poisson(rate) + 1
    return min(choices, key=lambda steps: abs(steps - drawn))


def _choices(key: str, text: str, model: ModelConfig) -> tuple[str, tuple[int, ...]]:
    """Rule and step counts; without any, the divisions of N that fit the layout."""
    if not text:
        return "", ()
    rule, counts = parse_counts(text)
    if counts:
        for steps in counts:
            try:
                plan(model, DepthConfig(steps=steps))
            except UserError as error:
                raise UserError(f'objective.{key} = "{text}": {error}') from None
        return rule, counts
    return rule, tuple(sorted(default_steps(model, DIVISORS)))


def _check(model: ModelConfig, depth: DepthConfig, objective: ObjectiveConfig) -> None:
    """Refuse an objective that needs what the model or the solver lacks."""
    own = objective.resolved
    require(
        model.sharing != "none" or own == ObjectiveConfig().resolved,
        f'objective.name = "{objective.name}" with model.sharing = "none": an unshared model has one depth only; leave '
        "every setting of objective as it is",
    )
    require(
        objective.name != "loopformer" or model.conditioning in ("step", "loopformer"),
        f'objective.name = "loopformer" with model.conditioning = "{model.conditioning}": its blocks are told t and '
        'the step; set model.conditioning = "loopformer", or "step"',
    )
    require(
        model.loop.start == "noise" or (depth.start, depth.start_seed) == ("model", 0),
        f'depth.start = "{depth.start}", depth.start_seed = {depth.start_seed} with model.loop.start = '
        f'"{model.loop.start}": this model begins at no noise; leave them out',
    )
    taught = own.teacher == "init"
    if model.head == "vocabulary" or model.labels_texts:
        require(
            not taught or own.distil + own.match > 0,
            f'objective.teacher = "init" with objective.distil = {own.distil:g}, objective.match = {own.match:g}: '
            "give one of them a weight, or leave the teacher out",
        )
    else:
        require(
            taught,
            f'model.head = "{model.head}" with objective.teacher = "{own.teacher}": an encoder predicts nothing and '
            'can learn only from the model that it began with; set objective.teacher = "init"',
        )
        require(
            own.distil == 0 and not own.exits,
            f'model.head = "{model.head}" with objective.distil = {own.distil:g}, objective.exits = "{own.exits}": an '
            "encoder predicts nothing; leave them out",
        )
    draws = own.spacing not in ("even", "unit")
    require(
        not (draws and bool(own.steps)) or depth.solver == "euler",
        f'objective.spacing = "{own.spacing}" with depth.solver = "{depth.solver}": schedules are drawn for "euler"',
    )
    require(
        not own.steps or depth.schedule in ("even", "auto"),
        f'objective.steps = "{own.steps}" with depth.schedule = "{depth.schedule}": objective.spacing chooses the '
        "schedules; leave depth.schedule even",
    )
    for key in ("steps", "short"):
        _, counts = parse_counts(getattr(own, key))
        for steps in counts:
            require(
                not draws or steps <= model.steps,
                f'objective.{key} = "{getattr(own, key)}" with objective.spacing = "{own.spacing}": schedules of whole '
                f"steps have at most N = {model.steps} of them",
            )


@dataclass
class Spent:
    """What the updates so far have cost; a function of their number, so a resumed run goes on counting."""

    config: Config
    curriculum: Curriculum
    read: Callable[[int], int]
    """Tokens of an update, counted from 0: padding among them, for it is computed as well."""
    updates: int = 0
    tokens: int = 0
    block_evaluations: float = 0.0
    """Applications of a block to a token, in forward solves."""
    flops: float = 0.0

    def upto(self, step: int) -> tuple[float, int, int]:
        """Count on to `step`; returns the FLOPs, tokens and updates that this adds."""
        before = self.flops, self.tokens, self.updates
        for update in range(self.updates, step):
            one, tokens = self._cost(self.curriculum.at(update)), self.read(update)
            self.tokens += tokens
            self.block_evaluations += one.block_evaluations * tokens
            self.flops += one.flops * tokens
        self.updates = step
        return self.flops - before[0], self.tokens - before[1], self.updates - before[2]

    def _cost(self, solves: Solves) -> Cost:
        return cost(self.config.model, self.config.depth, self.config.objective, solves)
