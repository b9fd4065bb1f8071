"""What an update minimises, composed of small pieces; names stand for the compositions that are known."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal

from jaxode.config.checks import UserError, at_least, require
from jaxode.config.fields import HUGE, Steps, check_fields, fit
from jaxode.config.named_numbers import named_numbers

PRESETS: dict[str, dict[str, Any]] = {
    "fixed": {},
    "grow": {"steps": "grow"},
    "random": {"steps": "uniform", "spacing": "random"},
    "poisson": {"steps": "poisson", "spacing": "random"},
    "exits": {"exits": "0.25,0.5,0.75", "exit_loss": 1.0},
    "loopformer": {"short": "uniform", "spacing": "coarse-early", "short_loss": 0.1, "match": 0.1},
    "distil": {"short": "uniform", "short_solver": "secant", "distil": 1.0},
    "collinear": {"collinear": 0.1},
}
WEIGHTS = ("main_loss", "short_loss", "distil", "match", "exit_loss", "collinear")
"""The built-in terms, each a field that holds its weight."""


@dataclass(frozen=True)
class ObjectiveConfig:
    """main_loss loss(main) + short_loss loss(short) + distil KL(main || short) + match |x_short - x_main|^2 + others.

    Each update solves a batch once (`steps`), and a second time in fewer steps where `short` says so. What compares the
    two sends no gradient into the main solve. With a `teacher` both are compared with that.
    """

    name: Literal["fixed", "grow", "random", "poisson", "exits", "loopformer", "distil", "collinear"] = "fixed"
    """A known composition; what is set beside it (to more than nothing) changes it. fixed: the loss at depth.steps.
    grow: N/4, N/2, N steps, a third of the updates each (Lan et al. 2020, appendix A.1). random: other steps in each
    update. poisson: the same, their number drawn as by Geiping et al. 2025. exits: loss at several depths of one
    solve. loopformer: Jeddi et al. 2026, for model.conditioning = "loopformer". distil: a short multistep solve learns
    from the full depth. collinear: consecutive increments that point the same way."""
    steps: str = ""
    """Steps of the main solve: empty: depth.steps | grow | late | widen | uniform | inverse | poisson, each over the
    divisions of N that fit the layout (N/6, N/4, N/3, N/2, N), or over your own: "grow:3,6,12", "uniform:4,6,12". late:
    the first of them for 35% of the updates, from there to 70% the others one after another, then all of them equally
    often (after arXiv 2609.19107). inverse: n as often as 1/n, the same block evaluations for each. widen: inverse over
    the first of them, then over the first two, and so on, equally many updates each; in the order given,
    "widen:3,2,4,6,12"."""
    widen_after: float = 0.0
    """widen only: the first step count is alone for this share of the updates, the others join over the rest.
    0: equally many updates for each set."""
    spacing: Literal["auto", "even", "unit", "random", "coarse-early", "fine-early"] = "auto"
    """Schedule of every solve with fewer steps than N. auto: the name's, or even; even: rescaled steps; unit: steps of
    size 1, truncated; random: every whole-number schedule equally often; coarse-early: as LoopFormer's sampler draws;
    fine-early: its mirror."""
    short: str = ""
    """Steps of the second solve: empty: there is none | uniform | inverse | poisson, or over your own:
    "uniform:3,4,6"."""
    short_solver: Literal["auto", "euler", "secant"] = "auto"
    """Of the second solve. auto: the name's, or euler; secant remembers the evaluation before."""
    main_loss: float = 1.0
    """Weight of the main solve's own loss."""
    short_loss: float = 0.0
    """Weight of the second solve's own loss."""
    teacher: Literal["main", "init"] = "main"
    """Whom `distil` and `match` compare with. main: the second solve with the main one. init: every solve with the
    model that the run began with (`init`), frozen, at its full depth. An encoder predicts nothing: its own loss is the
    distance of `match` from init."""
    distil: float = 0.0
    """Weight of KL(main || short) between the predictions, nats per token."""
    match: float = 0.0
    """Weight of the mean square distance of x(N) between both."""
    exits: str = ""
    """Shares of the main solve's steps after which it is read out as well, "0.25,0.5"."""
    exit_loss: float = 0.0
    """Weight of the mean loss of these read-outs."""
    collinear: float = 0.0
    """Weight of 1 - cosine of consecutive increments of the main solve, averaged along depth."""
    terms: str = ""
    """Further terms of the main solve that plug-ins bring (`--plugins`), each with its weight, "z_loss:1e-4"."""

    def __post_init__(self) -> None:
        check_fields(self, "objective")
        if self.name == "fixed" and "auto" not in (self.spacing, self.short_solver):
            self._check()
        else:
            _ = self.resolved

    @property
    def resolved(self) -> ObjectiveConfig:
        """The composition that the name stands for, with every piece written out."""
        known = {"spacing": "even", "short_solver": "euler"} | PRESETS[self.name]
        own = {one.name: getattr(self, one.name) for one in fields(self) if getattr(self, one.name) != one.default}
        whole: dict[str, Any] = known | own | {"name": "fixed"}
        return ObjectiveConfig(**whole)

    def _check(self) -> None:
        for key in WEIGHTS:
            at_least(f"objective.{key}", getattr(self, key), 0)
        _check_counts("steps", self.steps, ("grow", "late", "widen", "uniform", "inverse", "poisson"))
        _check_counts("short", self.short, ("uniform", "inverse", "poisson"))
        require(
            0 <= self.widen_after < 1,
            f"objective.widen_after = {self.widen_after:g}: must be a share of the updates, at least 0 and below 1",
        )
        require(
            not self.widen_after or parse_counts(self.steps)[0] == "widen",
            f'objective.widen_after = {self.widen_after:g} with objective.steps = "{self.steps}": only "widen" '
            "has sets that step counts join; leave it 0",
        )
        compared, taught = self.distil + self.match, self.teacher == "init"
        require(
            self.main_loss + self.short_loss + (compared if taught or self.short else 0.0) > 0,
            f"objective.main_loss = {self.main_loss:g}: nothing is left to minimise",
        )
        require(
            taught or bool(self.short) == (self.short_loss + compared > 0),
            f'objective.short = "{self.short}" with objective.short_loss = {self.short_loss:g}, objective.distil = '
            f"{self.distil:g}, objective.match = {self.match:g}: a second solve and a weight of it, or neither",
        )
        for name, weight in self.weighted_terms:
            require(
                0 < weight <= HUGE,
                f'objective.terms = "{self.terms}": the weight of {name} must be positive, of a size that float32 '
                "holds; leave a term out that counts nothing",
            )
        require(
            bool(self.short) or self.short_loss == 0,
            f'objective.short = "" with objective.short_loss = {self.short_loss:g}: there is no second solve; name its '
            "steps, or leave the weight 0",
        )
        require(
            bool(self.exits) == (self.exit_loss > 0),
            f'objective.exits = "{self.exits}" with objective.exit_loss = {self.exit_loss:g}: both or neither',
        )
        require(all(0.0 < share < 1.0 for share in self.exit_shares), self._wrong_exits())
        require(
            bool(self.short) or self.short_solver == "euler",
            f'objective.short_solver = "{self.short_solver}" with objective.short = "": there is no second solve; name '
            "its steps, or leave the solver out",
        )
        require(
            bool(self.steps or self.short) or self.spacing == "even",
            f'objective.spacing = "{self.spacing}" with objective.steps = "" and objective.short = "": every update '
            "solves the full depth as depth.schedule says; name step counts, or leave the spacing out",
        )
        require(
            self.short_solver == "euler" or self.spacing != "unit",
            f'objective.short_solver = "{self.short_solver}" with objective.spacing = "unit": at steps of size 1 there '
            'is nothing to remember; use "euler"',
        )

    @property
    def weighted_terms(self) -> tuple[tuple[str, float], ...]:
        """`terms` as names and weights."""
        pairs = named_numbers("objective.terms", self.terms, "z_loss:1e-4")
        for name, weight in pairs:
            require(
                weight is not None,
                f'objective.terms = "{self.terms}": {name} has no weight; give it one, as "{name}:0.1"',
            )
        return tuple((name, float(weight or 0)) for name, weight in pairs)

    @property
    def exit_shares(self) -> tuple[float, ...]:
        """`exits` as numbers."""
        try:
            return tuple(float(part) for part in self.exits.split(",")) if self.exits else ()
        except ValueError:
            raise UserError(self._wrong_exits()) from None

    def _wrong_exits(self) -> str:
        return f'objective.exits = "{self.exits}": must be shares of depth between 0 and 1 such as "0.25,0.5"'


def parse_counts(text: str) -> tuple[str, tuple[int, ...]]:
    """A rule and its step counts: `uniform:4,6,12` is ("uniform", (4, 6, 12)); without numbers the second is empty."""
    rule, _, numbers = text.partition(":")
    return rule, tuple(int(number) for number in numbers.split(",")) if numbers else ()


def _check_counts(key: str, text: str, rules: tuple[str, ...]) -> None:
    if not text:
        return
    wrong = f'objective.{key} = "{text}": must be {", ".join(rules)}, alone or with step counts as "{rules[0]}:3,6,12"'
    try:
        rule, numbers = parse_counts(text)
    except ValueError:
        raise UserError(wrong) from None
    require(rule in rules and all(number >= 1 for number in numbers), wrong)
    for number in numbers:
        fit(Steps, number, f"objective.{key}")
    require(len(set(numbers)) == len(numbers), f'objective.{key} = "{text}": each step count must be given once')
    require(
        rule == "widen" or list(numbers) == sorted(numbers),
        f'objective.{key} = "{text}": step counts must rise; only those of widen join in the order given',
    )
