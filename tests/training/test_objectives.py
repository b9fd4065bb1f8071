"""Objectives: which solves an update makes, and what it minimises."""

import dataclasses
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from test_step import make_batch

from jaxode.config import (
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
from jaxode.evaluation import forward, kl_divergence
from jaxode.model import block_evaluations, flops_per_token, make_model
from jaxode.model.parameters import split
from jaxode.training import init_state, make_parallel, make_train_step
from jaxode.training.objectives import Cost, Curriculum, Solves, cost, count, objective_terms

MODEL = ModelConfig(vocab_size=31, width=16, heads=2, length=8, steps=12, output_init=0.2)
KEY = jax.random.key(7)


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


def terms(model, objective, solves, batch=None, depth=None, schedule_key=KEY):
    batch = make_batch(3, ragged=True) if batch is None else batch
    counts = count(batch)
    return objective_terms(
        model,
        batch,
        solves,
        objective,
        depth or DepthConfig(),
        counts,
        document_mask=False,
        key=None,
        schedule_key=schedule_key,
    )


@pytest.fixture(scope="module")
def model(lively):
    return lively(make_model(MODEL, seed=0))


class TestCurriculum:
    def test_fixed_is_the_full_depth(self):
        assert set(drawn(ObjectiveConfig())) == {Solves(12)}
        direct = Curriculum(config(depth=DepthConfig(steps=3)))
        assert direct.at(0) == Solves(3)

    def test_depth_grows_in_thirds(self):
        found = [solves.main for solves in drawn(ObjectiveConfig("grow"))]
        assert found == [3] * 100 + [6] * 100 + [12] * 100
        assert [solves.main for solves in drawn(ObjectiveConfig("grow", steps="grow:2,12"), 4)] == [2, 2, 12, 12]

    def test_random_draws_every_division_equally_often(self):
        found = Counter(solves.main for solves in drawn(ObjectiveConfig("random"), 3000))
        assert set(found) == {2, 3, 4, 6, 12}
        assert max(found.values()) - min(found.values()) < 150

    def test_inverse_spends_the_same_flops_on_every_division(self):
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
        ],
    )
    def test_refused(self, objective, changes, message):
        with pytest.raises(UserError, match=message):
            Curriculum(config(objective, **changes))


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
            ({"steps": "often"}, r'objective\.steps = "often": must be grow, widen, uniform, inverse, poisson'),
            ({"steps": "uniform:a"}, r"objective\.steps"),
            ({"steps": "uniform:6,3"}, r"must rise"),
            ({"steps": "uniform:0,3"}, r"objective\.steps"),
            ({"short": "grow", "distil": 1.0}, r"objective\.short"),
            ({"distil": 1.0}, r'objective\.short = "" with .*objective\.distil = 1'),
            ({"short": "uniform"}, r"a second solve and a weight"),
            ({"exits": "0.5"}, r"objective\.exit_loss = 0"),
            ({"exits": "1.5", "exit_loss": 1.0}, r"objective\.exits"),
            ({"exits": "half", "exit_loss": 1.0}, r"objective\.exits"),
            ({"collinear": -1.0}, r"objective\.collinear = -1"),
            ({"name": "distil", "spacing": "unit"}, r"nothing to remember"),
        ],
    )
    def test_refused(self, changes, message):
        with pytest.raises(UserError, match=message):
            ObjectiveConfig(**changes)


class TestTerms:
    def test_the_plain_loss(self, model):
        batch = make_batch(3, ragged=True)
        sums, _ = forward(model, batch, DepthConfig(), document_mask=False)
        found = terms(model, ObjectiveConfig(), Solves(12), batch)
        assert float(found.total) == pytest.approx(float(sums.nats / sums.tokens), rel=1e-5)
        assert found.others == {}

    def test_even_and_unit_solves_are_the_static_ones(self, model):
        batch = make_batch(3)
        for spacing, depth in (("even", DepthConfig(steps=4)), ("unit", DepthConfig(steps=4, schedule="unit"))):
            sums, _ = forward(model, batch, depth, document_mask=False)
            found = terms(model, ObjectiveConfig("random", spacing=spacing), Solves(4), batch)
            assert float(found.loss) == pytest.approx(float(sums.nats / sums.tokens), rel=1e-5)

    @pytest.mark.parametrize("solver", ["euler", "secant"])
    def test_drawn_solves_are_those_of_some_schedule(self, model, solver):
        """Two steps over twelve units have 11 schedules: a drawn loss is that of one of them."""
        batch = make_batch(2)
        own = ObjectiveConfig("distil", short="uniform:2", spacing="random", short_solver=solver, short_loss=1.0)
        keys = [jax.random.key(i) for i in range(6)]
        found = [terms(model, own, Solves(12, 2), batch, schedule_key=key).others["short_loss"] for key in keys]
        depths = [DepthConfig(steps=2, schedule=f"{first},{12 - first}", solver=solver) for first in range(1, 12)]
        sums = [forward(model, batch, depth, document_mask=False)[0] for depth in depths]
        known = np.asarray([each.nats / each.tokens for each in sums])
        distance = np.abs(np.asarray(found)[:, None] - known).min(axis=1)
        assert distance.max() < 1e-5
        assert len({round(float(one), 4) for one in found}) > 1

    def test_distillation_and_match(self, model):
        batch = make_batch(3, ragged=True)
        own = ObjectiveConfig("distil", short_solver="euler", match=0.5, short_loss=0.25)
        _, full = forward(model, batch, DepthConfig(), document_mask=False)
        sums, short = forward(model, batch, DepthConfig(steps=3), document_mask=False)
        found = terms(model, own, Solves(12, 3), batch)
        kl = kl_divergence(jax.nn.log_softmax(full.logits), short.logits, jnp.asarray(batch.weights)) / sums.tokens
        match = jnp.mean(jnp.square(short.state - full.state))
        assert float(found.others["distil"]) == pytest.approx(float(kl), rel=1e-4)
        assert float(found.others["match"]) == pytest.approx(float(match), rel=1e-4)
        assert float(found.others["short_loss"]) == pytest.approx(float(sums.nats / sums.tokens), rel=1e-5)
        total = found.loss + kl + 0.5 * match + 0.25 * sums.nats / sums.tokens
        assert float(found.total) == pytest.approx(float(total), rel=1e-5)

    def test_the_full_solve_learns_nothing_from_the_comparison(self):
        """What is compared moves the short solve alone: its gradient is that with the full logits as constants."""
        architecture, params = split(make_model(MODEL, seed=0))
        batch, own = make_batch(2), ObjectiveConfig("distil", short_solver="euler")
        _, full = forward(architecture.bind(params), batch, DepthConfig(), document_mask=False)
        expected = jax.nn.log_softmax(full.logits)

        def constant(params):
            sums, short = forward(architecture.bind(params), batch, DepthConfig(steps=3), document_mask=False)
            return kl_divergence(expected, short.logits, jnp.asarray(batch.weights)) / sums.tokens

        def term(params):
            return terms(architecture.bind(params), own, Solves(12, 3), batch).others["distil"]

        found, wanted = jax.grad(term)(params), jax.grad(constant)(params)
        for name in params:
            np.testing.assert_allclose(found[name], wanted[name], atol=1e-5, err_msg=name)

    def test_exits_are_truncated_solves(self, model):
        batch = make_batch(3, ragged=True)
        found = terms(model, ObjectiveConfig(exits="0.25,0.5", exit_loss=2.0), Solves(12), batch)
        each = [forward(model, batch, DepthConfig(steps=n, schedule="unit"), document_mask=False)[0] for n in (3, 6)]
        wanted = np.mean([float(sums.nats / sums.tokens) for sums in each])
        assert float(found.others["exit_loss"]) == pytest.approx(wanted, rel=1e-5)
        assert float(found.total) == pytest.approx(float(found.loss) + 2 * wanted, rel=1e-5)

    def test_collinear_is_the_traces_cosine(self, model):
        batch = make_batch(3)
        trace = model(jnp.asarray(batch.tokens), DepthConfig(), trace=True).trace
        found = terms(model, ObjectiveConfig("collinear"), Solves(12), batch)
        assert float(found.others["collinear"]) == pytest.approx(1 - float(jnp.mean(trace.cosine)), abs=1e-4)

    def test_padding_takes_no_part(self, lively):
        own = ObjectiveConfig("distil", match=1.0, collinear=1.0)
        masked = lively(make_model(dataclasses.replace(MODEL, kind="masked"), seed=0))
        batch = make_batch(3)
        segments = np.array(batch.segments)
        segments[:, 5:] = 0
        weights = batch.weights * (segments > 0)
        padded = dataclasses.replace(batch, segments=segments, weights=weights)
        changed = np.array(batch.tokens)
        changed[:, 5:] = 3
        other = dataclasses.replace(padded, tokens=changed)
        one, two = (terms(masked, own, Solves(12, 3), each) for each in (padded, other))
        assert float(one.total) == pytest.approx(float(two.total), rel=1e-5)


def train_step(objective, solves, accumulate=1, batches=2):
    architecture, params = split(make_model(MODEL, seed=0))
    optimizer = optax.sgd(0.01)
    step = jax.jit(
        make_train_step(
            architecture, DepthConfig(), optimizer, objective=objective, solves=solves, accumulate=accumulate
        )
    )
    state = init_state(params, optimizer)
    for seed in range(batches):
        state, metrics = step(state, make_batch(8, seed, ragged=True), jax.random.key(0))
    return state, metrics


EVERYTHING = ObjectiveConfig(
    short="uniform", distil=1.0, spacing="random", match=0.5, exits="0.5", exit_loss=0.5, collinear=0.1, short_loss=0.2
)


def test_micro_batches_share_the_schedule_and_add_up():
    whole, metrics = train_step(EVERYTHING, Solves(6, 3))
    parts, part_metrics = train_step(EVERYTHING, Solves(6, 3), accumulate=4)
    for name, value in metrics.others.items():
        assert float(part_metrics.others[name]) == pytest.approx(float(value), rel=1e-4, abs=1e-6), name
    for name, value in whole.params.items():
        np.testing.assert_allclose(parts.params[name], value, atol=2e-5, err_msg=name)


def test_devices_share_the_schedule_and_add_up():
    single, _ = train_step(EVERYTHING, Solves(6, 3))
    ways = make_parallel(TrainConfig(batch_size=8, devices=4, parallel="pmap"))
    architecture, params = split(make_model(MODEL, seed=0))
    optimizer, depth = optax.sgd(0.01), DepthConfig(adjoint="remat")
    step = ways.compile(
        lambda axis: make_train_step(
            architecture, depth, optimizer, objective=EVERYTHING, solves=Solves(6, 3), axis=axis
        )
    )
    state = ways.place_state(init_state(params, optimizer))
    for seed in range(2):
        state, _ = step(state, ways.place_batch(make_batch(8, seed, ragged=True)), jax.random.key(0))
    for name, value in single.params.items():
        np.testing.assert_allclose(state.params[name], value, atol=2e-5, err_msg=name)


def test_cost_counts_every_solve():
    head = flops_per_token(MODEL).head
    block = flops_per_token(MODEL).block
    assert cost(MODEL, DepthConfig(), ObjectiveConfig(), Solves(12)) == Cost(12, 3 * (12 * block + head))
    own = ObjectiveConfig("distil", exits="0.5", exit_loss=1.0)
    assert cost(MODEL, DepthConfig(), own, Solves(12, 3)) == Cost(15, 3 * (15 * block + 3 * head))
    assert block_evaluations(MODEL, DepthConfig(steps=3)) == 3
