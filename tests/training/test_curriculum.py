"""Curricula: which solves an update makes, and what they cost."""

import dataclasses
from collections import Counter

import pytest

from jaxode.config import (
    ClockConfig,
    Config,
    DepthConfig,
    ModelConfig,
    ObjectiveConfig,
    TrainConfig,
    UserError,
    from_dict,
    parse,
    to_dict,
)
from jaxode.model import block_evaluations, flops_per_token
from jaxode.training.curriculum import Cost, Curriculum, Solves, cost

MODEL = ModelConfig(vocab_size=31, width=16, heads=2, length=8, steps=12)


def config(objective=None, updates=300, depth=None, **model):
    return Config(
        model=dataclasses.replace(MODEL, **model),
        objective=ObjectiveConfig() if objective is None else objective,
        depth=depth or DepthConfig(),
        train=TrainConfig(updates=updates),
    )


def drawn(objective, count=300, **model):
    curriculum = Curriculum(config(objective, count, **model))
    return [curriculum.at(update) for update in range(count)]


ANCHORED = {"conditioning": "step", "clock": ClockConfig(anchored=True)}


class TestCurriculum:
    def test_fixed_is_the_full_depth(self):
        assert set(drawn(ObjectiveConfig())) == {Solves(12)}
        direct = Curriculum(config(depth=DepthConfig(steps=3)))
        assert direct.at(0) == Solves(3)

    def test_depth_grows_in_thirds(self):
        found = [solves.main for solves in drawn(ObjectiveConfig("grow"))]
        assert found == [3] * 100 + [6] * 100 + [12] * 100
        assert [solves.main for solves in drawn(ObjectiveConfig("grow", steps="grow:2,12"), 4)] == [2, 2, 12, 12]
        # of the steps that are the full depth here
        less = Curriculum(config(ObjectiveConfig("grow"), 4, depth=DepthConfig(steps=6)))
        assert [less.at(update).main for update in range(4)] == [3, 3, 6, 6]

    def test_random_draws_every_division_equally_often(self):
        found = Counter(solves.main for solves in drawn(ObjectiveConfig("random"), 3000))
        assert set(found) == {2, 3, 4, 6, 12}
        assert max(found.values()) - min(found.values()) < 150

    def test_inverse_spends_the_same_block_evaluations_on_every_division(self):
        found = Counter(solves.main for solves in drawn(ObjectiveConfig("random", steps="inverse"), 6000))
        spent = [steps * times for steps, times in found.items()]
        assert set(found) == {2, 3, 4, 6, 12}
        assert max(spent) < 1.2 * min(spent)
        short = Counter(solves.short for solves in drawn(ObjectiveConfig("distil", short="inverse:2,6"), 3000))
        assert short[2] > 2.5 * short[6] > 0

    def test_widening_draws_add_a_longer_solve_at_a_time(self):
        found = [solves.main for solves in drawn(ObjectiveConfig("random", steps="widen:2,3,12"), 300)]
        assert set(found[:100]) == {2}
        assert set(found[100:200]) == {2, 3}
        assert set(found[200:]) == {2, 3, 12}
        assert found[200:].count(2) > found[200:].count(12)

    def test_widening_draws_join_in_the_order_given(self):
        found = [solves.main for solves in drawn(ObjectiveConfig("random", steps="widen:3,12,2"), 300)]
        assert set(found[:100]) == {3}
        assert set(found[100:200]) == {3, 12}
        assert set(found[200:]) == {2, 3, 12}

    def test_widening_may_begin_late(self):
        found = [s.main for s in drawn(ObjectiveConfig("random", steps="widen:2,3,12", widen_after=0.8), 500)]
        assert set(found[:400]) == {2}
        assert set(found[400:450]) == {2, 3}
        assert set(found[450:]) == {2, 3, 12}

    def test_late_growth_ends_in_draws_from_all(self):
        found = [solves.main for solves in drawn(ObjectiveConfig("random", steps="late:2,3,6,12"), 1000)]
        assert set(found[:350]) == {2}
        assert found[355:695] == sorted(found[355:695])
        assert set(found[355:460]) == {3}
        assert set(found[475:575]) == {6}
        assert set(found[590:695]) == {12}
        last = Counter(found[700:])
        assert set(last) == {2, 3, 6, 12}
        assert min(last.values()) > 40

    def test_poisson_prefers_the_middle(self):
        found = Counter(solves.main for solves in drawn(ObjectiveConfig("poisson", steps="poisson:2,6,12"), 3000))
        assert found[6] > found[2] > 0
        assert found[6] > found[12] > 0

    def test_a_function_of_seed_and_update(self):
        one = config(ObjectiveConfig("random"))
        other = dataclasses.replace(one, train=dataclasses.replace(one.train, seed=1))
        first, second = ([Curriculum(one).at(update) for update in range(50)] for _ in range(2))
        assert first == second
        assert first != [Curriculum(other).at(update) for update in range(50)]

    def test_the_second_solve_is_shorter_than_the_first(self):
        found = set(drawn(ObjectiveConfig("distil")))
        assert found == {Solves(12, steps) for steps in (2, 3, 4, 6)}
        both = set(drawn(ObjectiveConfig("distil", steps="uniform:2,6,12")))
        assert all(solves.short is None or solves.short < solves.main for solves in both)
        assert Solves(2, None) in both

    def test_step_counts_follow_the_layout(self):
        found = {solves.main for solves in drawn(ObjectiveConfig("random"), sharing="sequence", groups=2)}
        assert found == {2, 4, 6, 12}

    @pytest.mark.parametrize(
        ("objective", "changes", "message"),
        [
            (ObjectiveConfig("loopformer"), {}, r'objective\.name = "loopformer" with model\.conditioning = "none"'),
            (
                ObjectiveConfig("random", steps="uniform:3,12"),
                {"sharing": "cycle", "groups": 2},
                r"steps = 3 .*2 groups",
            ),
            (ObjectiveConfig("random"), {"sharing": "none"}, r'objective\.name = "random".*unshared model'),
            (ObjectiveConfig("distil", short="uniform:12"), {}, r"no step count below the full depth of 12"),
            (ObjectiveConfig("grow", steps="grow:3,6"), {}, r"ends with 6: depth must grow to the full 12"),
            (ObjectiveConfig("random", steps="late:3,6"), {}, r"ends with 6: depth must grow to the full 12"),
            (ObjectiveConfig("random", steps="uniform:6,24"), {}, r"at most N = 12"),
            (
                ObjectiveConfig("random"),
                {"depth": DepthConfig(solver="heun")},
                r'objective\.spacing = "random" with depth\.solver = "heun"',
            ),
            (
                ObjectiveConfig("random", spacing="unit"),
                {"depth": DepthConfig(schedule="geometric:2")},
                r'depth\.schedule = "geometric:2"',
            ),
            (
                ObjectiveConfig(),
                {"depth": DepthConfig(start="zeros")},
                r'depth\.start = "zeros", depth\.start_seed = 0 with model\.loop\.start = "entered": .* no noise',
            ),
            (ObjectiveConfig(), ANCHORED, r'model\.clock\.anchored = true with objective\.steps = ""'),
            (ObjectiveConfig("random", spacing="unit"), ANCHORED, r'anchored = true .* objective\.spacing = "unit"'),
        ],
    )
    def test_refused(self, objective, changes, message):
        with pytest.raises(UserError, match=message):
            Curriculum(config(objective, **changes))

    def test_the_shortest_solve_is_as_updates_make_it(self):
        own = ObjectiveConfig(steps="uniform:4,6", short="uniform:3,4", short_solver="secant", short_loss=1.0)
        assert Curriculum(config(own)).shortest == DepthConfig(steps=3, solver="secant", schedule="even")
        main = ObjectiveConfig("random", steps="uniform:4,12")
        assert Curriculum(config(main, **ANCHORED)).shortest == DepthConfig(steps=4, solver="euler", schedule="even")
        assert Curriculum(config(ObjectiveConfig())).shortest.steps is None


class TestConfig:
    def test_a_name_fills_what_is_not_set(self):
        own = ObjectiveConfig("loopformer", match=0.5, spacing="even").resolved
        assert (own.short, own.short_loss, own.match, own.spacing) == ("uniform", 0.1, 0.5, "even")
        assert own.resolved == own

    def test_another_name_over_a_config_that_was_read_is_that_names(self):
        """As flags over a TOML file, and variants over a recipe, give it."""
        read = from_dict(Config, {"objective": {"name": "loopformer"}, "model": {"conditioning": "step"}}, "recipe")
        again = from_dict(Config, to_dict(read), "run")
        for config in (read, again, parse(Config, [])):
            changed = dataclasses.replace(config, objective=dataclasses.replace(config.objective, name="random"))
            assert changed.objective.resolved == ObjectiveConfig("random").resolved
        assert parse(Config, ["--objective.name", "random"]).objective.resolved.spacing == "random"

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"steps": "often"}, r'objective\.steps = "often": must be grow, late, widen, uniform, inverse, poisson'),
            ({"steps": "uniform:a"}, r"objective\.steps"),
            ({"steps": "uniform:6,3"}, r"must rise"),
            ({"steps": "widen:3,12,3"}, r"given once"),
            ({"steps": "uniform:0,3"}, r"objective\.steps"),
            ({"steps": "uniform", "widen_after": 0.5}, r'widen_after = 0\.5 with objective\.steps = "uniform"'),
            ({"steps": "widen", "widen_after": 1.0}, r"objective\.widen_after = 1: must be a share"),
            ({"short": "grow", "distil": 1.0}, r"objective\.short"),
            ({"distil": 1.0}, r'objective\.short = "" with .*objective\.distil = 1'),
            ({"short": "uniform"}, r"a second solve and a weight"),
            ({"exits": "0.5"}, r"objective\.exit_loss = 0"),
            ({"exits": "1.5", "exit_loss": 1.0}, r"objective\.exits"),
            ({"exits": "half", "exit_loss": 1.0}, r"objective\.exits"),
            ({"collinear": -1.0}, r"objective\.collinear = -1"),
            ({"name": "distil", "spacing": "unit"}, r"nothing to remember"),
            ({"short_solver": "secant"}, r'short_solver = "secant" with objective\.short = "": there is no second'),
            ({"spacing": "random"}, r'spacing = "random" with objective\.steps = "" .* name step counts'),
        ],
    )
    def test_refused(self, changes, message):
        with pytest.raises(UserError, match=message):
            ObjectiveConfig(**changes)


@pytest.mark.parametrize(
    ("objective", "depth", "only"),
    [
        (ObjectiveConfig(), DepthConfig(), None),
        (ObjectiveConfig(), DepthConfig(steps=12), None),
        (ObjectiveConfig(), DepthConfig(steps=3), 3),
        (ObjectiveConfig("random"), DepthConfig(steps=6), None),
        (ObjectiveConfig("distil"), DepthConfig(steps=6), None),
        (ObjectiveConfig("exits"), DepthConfig(steps=6), 6),
    ],
)
def test_a_run_at_fewer_steps_alone_says_so(objective, depth, only):
    assert config(objective, depth=depth).only_steps == only


def test_cost_counts_every_solve():
    head = flops_per_token(MODEL).head
    block = flops_per_token(MODEL).block
    assert cost(MODEL, DepthConfig(), ObjectiveConfig(), Solves(12)) == Cost(12, 3 * (12 * block + head))
    own = ObjectiveConfig("distil", exits="0.5", exit_loss=1.0)
    assert cost(MODEL, DepthConfig(), own, Solves(12, 3)) == Cost(15, 3 * (15 * block + 3 * head))
    # what is read out on the way goes through the coda as well
    coda = dataclasses.replace(MODEL, coda=1)
    exits = ObjectiveConfig(exits="0.25,0.5", exit_loss=1.0)
    assert cost(coda, DepthConfig(), exits, Solves(12)) == Cost(15, 3 * (15 * block + 3 * head))
    assert block_evaluations(MODEL, DepthConfig(steps=3)) == 3
