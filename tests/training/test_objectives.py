"""Objectives: what an update minimises."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from test_step import make_batch

from jaxode.config import (
    Config,
    DepthConfig,
    LoopConfig,
    ModelConfig,
    ObjectiveConfig,
    TrainConfig,
    UserError,
)
from jaxode.evaluation import forward, kl_divergence
from jaxode.model import make_model
from jaxode.model.parameters import split
from jaxode.training import init_state, make_parallel, make_train_step
from jaxode.training.curriculum import Curriculum, Solves
from jaxode.training.objectives import count, objective_terms

MODEL = ModelConfig(vocab_size=31, width=16, heads=2, length=8, steps=12, output_init=0.2)
KEY = jax.random.key(7)


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

    @pytest.mark.broad
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

    @pytest.mark.parametrize(
        "changes", [{"prelude": 1, "coda": 1}, {"loop": LoopConfig(streams=2)}], ids=["coda", "streams"]
    )
    def test_exits_are_read_as_an_exit_reads(self, changes, lively):
        """Through the coda, from the one stream that leaves."""
        model, batch = lively(make_model(dataclasses.replace(MODEL, steps=4, **changes), seed=0)), make_batch(3)
        found = terms(model, ObjectiveConfig(exits="0.5", exit_loss=1.0), Solves(4), batch)
        sums, _ = forward(model, batch, DepthConfig(steps=2, schedule="unit"), document_mask=False)
        assert float(found.others["exit_loss"]) == pytest.approx(float(sums.nats / sums.tokens), rel=1e-5)

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


@pytest.mark.deep
def test_micro_batches_share_the_schedule_and_add_up():
    whole, metrics = train_step(EVERYTHING, Solves(6, 3))
    parts, part_metrics = train_step(EVERYTHING, Solves(6, 3), accumulate=4)
    for name, value in metrics.others.items():
        assert float(part_metrics.others[name]) == pytest.approx(float(value), rel=1e-4, abs=1e-6), name
    for name, value in whole.params.items():
        np.testing.assert_allclose(parts.params[name], value, atol=2e-5, err_msg=name)


@pytest.mark.deep
def test_devices_share_the_schedule_and_add_up():
    single, _ = train_step(EVERYTHING, Solves(6, 3))
    ways = make_parallel(TrainConfig(batch_size=8, devices=4, parallel="pmap"))
    architecture, params = split(make_model(MODEL, seed=0))
    optimizer, depth = optax.sgd(0.01), DepthConfig(adjoint="remat")
    state = ways.place_state(init_state(params, optimizer))
    step = ways.compile(
        lambda spread: make_train_step(
            architecture, depth, optimizer, objective=EVERYTHING, solves=Solves(6, 3), spread=spread
        ),
        state,
    )
    for seed in range(2):
        state, _ = step(state, ways.place_batch(make_batch(8, seed, ragged=True)), jax.random.key(0))
    for name, value in single.params.items():
        np.testing.assert_allclose(state.params[name], value, atol=2e-5, err_msg=name)


class TestTeacher:
    """The model that a run began with, frozen, at full depth."""

    def objective(self, **changes):
        return ObjectiveConfig(
            **({"steps": "uniform:4,12", "distil": 1.0, "teacher": "init", "main_loss": 0.0} | changes)
        )

    def test_the_main_solve_learns_from_it(self, model, lively):
        teacher, batch = lively(make_model(MODEL, seed=3)), make_batch(3, ragged=True)
        found = objective_terms(
            model,
            batch,
            Solves(4),
            self.objective(match=0.5),
            DepthConfig(),
            count(batch),
            document_mask=False,
            key=None,
            schedule_key=KEY,
            teacher=teacher,
        )
        tokens = jnp.asarray(batch.tokens)
        want, have = teacher(tokens), model(tokens, DepthConfig(steps=4, solver="euler"))
        counts = count(batch)
        kl = kl_divergence(jax.nn.log_softmax(want.logits), have.logits, jnp.asarray(batch.weights)) / counts.tokens
        distance = jnp.mean(jnp.square(have.state - want.state), axis=-1)
        match = jnp.sum(jnp.where(jnp.asarray(batch.segments) > 0, distance, 0.0)) / counts.positions
        assert float(found.others["distil"]) == pytest.approx(float(kl), rel=1e-4)
        assert float(found.others["match"]) == pytest.approx(float(match), rel=1e-4)
        assert float(found.total) == pytest.approx(float(kl + 0.5 * match), rel=1e-4)

    def test_so_does_the_second_one_and_nothing_reaches_the_teacher(self, model):
        architecture, params = split(model)
        batch = make_batch(3)
        objective = self.objective(steps="", short="uniform:4", short_solver="euler")

        def total(params, teacher):
            return objective_terms(
                architecture.bind(params),
                batch,
                Solves(12, 4),
                objective,
                DepthConfig(adjoint="remat"),
                count(batch),
                document_mask=False,
                key=None,
                schedule_key=KEY,
                teacher=architecture.bind(teacher),
            ).total

        own, theirs = jax.jit(jax.grad(total, (0, 1)))(params, params)
        assert all(not np.any(value) for value in theirs.values())
        assert any(np.any(value) for value in own.values())
        # the full depth is its own teacher: half of the mean is of the short solve
        alone = kl_divergence(
            jax.nn.log_softmax(model(jnp.asarray(batch.tokens)).logits),
            model(jnp.asarray(batch.tokens), DepthConfig(steps=4, solver="euler")).logits,
            jnp.asarray(batch.weights),
        ) / jnp.sum(batch.weights)
        assert float(total(params, params)) == pytest.approx(float(alone) / 2, rel=1e-3, abs=1e-5)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"teacher": "main", "main_loss": 1.0}, 'objective.short = "" with objective.short_loss'),
            ({"short_loss": 1.0}, 'objective.short = "" with objective.short_loss = 1'),
            ({"teacher": "main", "distil": 0.0}, "objective.main_loss = 0: nothing is left to minimise"),
        ],
    )
    def test_refusals(self, changes, message):
        with pytest.raises(UserError, match=message):
            self.objective(**changes)

    def test_who_predicts_is_compared_by_something(self):
        objective = self.objective(distil=0.0, main_loss=1.0)
        with pytest.raises(UserError, match=r'objective\.teacher = "init" with objective\.distil = 0'):
            Curriculum(Config(objective=objective, init="a model"))
