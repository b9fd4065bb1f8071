"""The masked loop: planted exits, frozen rows, the free error estimate, and a loop that really ends early."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxode.config import UserError
from jaxode.depth import Coefficients, Schedule, StateChange, StepError, StepLimit, integrate, step_until

STEPS, BATCH, LENGTH, WIDTH = 5, 3, 4, 6


def planted(t, x, table):
    """Increments from a table: f(t, x) = table[t], whatever x."""
    return table[jnp.int32(t)]


def coupled(t, x, rate):
    """Every position moves towards the mean of its row, so that it sees the others."""
    return rate * (jnp.mean(x, axis=1, keepdims=True) - x) + jnp.sin(x + t)


@pytest.fixture(scope="module")
def start():
    return jax.random.normal(jax.random.key(0), (BATCH, LENGTH, WIDTH))


@pytest.fixture(scope="module")
def quiet(start):
    """Row b moves by 1 along the first channel until step b + 1, then by 0.001."""
    sizes = np.where(np.arange(STEPS)[:, None] < np.arange(1, BATCH + 1), 1.0, 1e-3)
    table = np.zeros((STEPS, BATCH, LENGTH, WIDTH), np.float32)
    table[..., 0] = sizes[:, :, None]
    return jnp.asarray(table)


def test_rows_exit_where_the_increments_were_made_to_vanish(start, quiet):
    out = step_until(planted, start, Schedule.even(STEPS, STEPS), "euler", StateChange(0.01, "sequence"), args=quiet)
    np.testing.assert_array_equal(out.steps, [2, 3, 4])
    np.testing.assert_array_equal(out.active, [False] * 3)
    assert int(out.loops) == 4
    # frozen to the last bit
    states = [start]
    for increment in quiet:
        states.append(states[-1] + increment)
    for row, steps in enumerate(out.steps):
        np.testing.assert_array_equal(out.state[row], states[int(steps)][row])


def test_the_field_is_not_evaluated_after_the_last_exit(start, quiet):
    calls = []

    def counted(t, x, table):
        jax.debug.callback(lambda t: calls.append(float(t)), t)
        return planted(t, x, table)

    out = step_until(counted, start, Schedule.even(STEPS, STEPS), "euler", StateChange(0.01, "sequence"), args=quiet)
    jax.block_until_ready(out)
    jax.effects_barrier()
    assert sorted(calls) == [0.0, 1.0, 2.0, 3.0]
    assert int(out.loops) == len(calls)


def test_a_stopped_token_stands_still_while_the_others_go_on_seeing_it(start):
    threshold = 0.35
    out = step_until(coupled, start, Schedule.even(STEPS, STEPS), "euler", StateChange(threshold), args=0.3)
    x, active, steps = np.asarray(start), np.ones((BATCH, LENGTH), bool), np.zeros((BATCH, LENGTH), int)
    for i in range(STEPS):
        increment = np.asarray(coupled(float(i), jnp.asarray(x), 0.3))
        change = np.linalg.norm(increment, axis=-1) / np.linalg.norm(x + increment, axis=-1)
        x = np.where(active[..., None], x + increment, x)
        steps += active
        active &= ~(change < threshold)
    assert len(np.unique(steps)) > 2
    np.testing.assert_array_equal(out.steps, steps)
    np.testing.assert_allclose(out.state, x, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("solver", ["euler", "secant", "ab3", "rk4", "lie"])
def test_without_a_rule_it_is_the_solve(start, solver):
    field = (coupled, lambda t, x, args: -0.1 * x) if solver == "lie" else coupled
    schedule = Schedule((0.0, 1.0, 1.5, 3.0))
    out = step_until(field, start, schedule, solver, args=0.3)
    want = integrate(field, start, schedule, solver, args=0.3, adjoint="unroll").state
    np.testing.assert_allclose(out.state, want, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(out.steps, [3] * BATCH)


def relative(part, state):
    return np.linalg.norm(part, axis=-1) / np.linalg.norm(state, axis=-1)


def test_the_error_is_what_memory_added(start):
    """Secant on steps of 2: c = h - 1 = 1; ab2: h / 2 = 1 as well; euler gets ab2's term."""
    table = jax.random.normal(jax.random.key(1), (6, BATCH, LENGTH, WIDTH))
    fields = np.asarray(table)[::2]
    schedule = Schedule.even(6, 3)
    for solver in ("secant", "ab2", "euler"):
        out = step_until(planted, start, schedule, solver, args=table)
        states = integrate(planted, start, schedule, solver, args=table, trace=True).trace.states
        np.testing.assert_array_equal(out.error[0], np.zeros((BATCH, LENGTH)))
        for i in (1, 2):
            np.testing.assert_allclose(out.error[i], relative(fields[i] - fields[i - 1], states[i + 1]), rtol=1e-4)


def test_the_error_of_uneven_euler_steps_is_the_term_of_adams_bashforth(start):
    table = jax.random.normal(jax.random.key(1), (6, BATCH, LENGTH, WIDTH))
    schedule = Schedule((0.0, 1.0, 4.0, 6.0))
    out = step_until(planted, start, schedule, "euler", args=table)
    fields, sizes = np.asarray(table)[[0, 1, 4]], schedule.sizes
    x = np.asarray(start) + fields[0]
    for i in (1, 2):
        x = x + sizes[i] * fields[i]
        added = sizes[i] ** 2 / (2 * sizes[i - 1]) * (fields[i] - fields[i - 1])
        np.testing.assert_allclose(out.error[i], relative(added, x), rtol=1e-4)


def test_the_error_of_a_calibration_is_memory_and_correction(start):
    rng = np.random.default_rng(0)
    table = jnp.asarray(rng.normal(size=(3, BATCH, LENGTH, WIDTH)), jnp.float32)
    fields, states = np.asarray(table), np.asarray(start)
    for memory in (1, 2):
        shapes = ((3, memory), (3, memory, WIDTH, 2), (3, 2, WIDTH))
        weights, down, up = (rng.normal(size=shape).astype(np.float32) for shape in shapes)
        coefficients = Coefficients(weights, down, up)
        out = step_until(planted, start, Schedule.even(3, 3), "calibrated", args=table, coefficients=coefficients)
        x = states
        for i in range(3):
            seen = [fields[i - j] if i >= j else np.zeros_like(x) for j in range(memory)]
            step = sum(w * f for w, f in zip(weights[i], seen, strict=True))
            step = step + sum(f @ d for f, d in zip(seen, down[i], strict=True)) @ up[i]
            x = x + step
            if i:
                np.testing.assert_allclose(out.error[i], relative(step - weights[i].sum() * fields[i], x), rtol=2e-4)
        np.testing.assert_allclose(out.state, x, rtol=1e-4, atol=1e-4)


def test_no_estimate_where_no_step_was_taken(start, quiet):
    out = step_until(planted, start, Schedule.even(STEPS, STEPS), "euler", StateChange(0.01, "sequence"), args=quiet)
    taken = ~np.isnan(np.asarray(out.error)).any(-1)
    np.testing.assert_array_equal(taken.sum(0), out.steps)
    np.testing.assert_array_equal(taken, np.arange(STEPS)[:, None] < np.asarray(out.steps))


def test_positions_without_weight_hold_nobody_back(start, quiet):
    """Row 2's last position never calms down; with weight 0 neither the loop nor its row's mean minds."""
    restless = quiet.at[:, 2, -1, 0].set(1.0)
    weights = jnp.ones((BATCH, LENGTH)).at[2, -1].set(0.0)
    schedule = Schedule.even(STEPS, STEPS)

    def run(granularity, weights):
        rule = StateChange(0.01, granularity)
        return step_until(planted, start, schedule, "euler", rule, args=restless, weights=weights)

    for granularity in ("token", "sequence"):
        assert int(run(granularity, None).loops) == STEPS
        assert int(run(granularity, weights).loops) == 4


def test_a_landing_extrapolates_from_the_last_two_increments(start, quiet):
    """Row i of the landing for a stop in step i; rows that run to the end are left alone."""
    rng = np.random.default_rng(0)
    shapes = ((STEPS, 2), (STEPS, 2, WIDTH, 2), (STEPS, 2, WIDTH))
    landing = Coefficients(*(rng.normal(size=shape).astype(np.float32) for shape in shapes))
    # row 0 never calms down, the others stop in steps 2 and 3
    table = np.array(quiet.at[:, 0, :, 0].set(1.0)) + 1e-4 * rng.normal(size=quiet.shape).astype(np.float32)
    rule = StateChange(0.01, "sequence")
    plain = Coefficients(np.zeros((STEPS, 1), np.float32))
    schedule = Schedule.even(STEPS, STEPS)
    args = jnp.asarray(table)
    frozen = step_until(planted, start, schedule, "euler", rule, args=args, landing=plain)
    # the rule watches where rows would land, so stop by the plain states
    stop = [STEPS, 3, 4]
    np.testing.assert_array_equal(frozen.steps, stop)

    limit = StepLimit(jnp.array([STEPS + 1, 3, 4]))
    out = step_until(planted, start, schedule, "euler", limit, args=args, landing=landing)
    np.testing.assert_array_equal(out.state[0], frozen.state[0])
    for row in (1, 2):
        i = stop[row] - 1
        recent = [table[i, row], table[i - 1, row]]
        want = np.asarray(frozen.state[row]) + sum(w * d for w, d in zip(landing.weights[i], recent, strict=True))
        want = want + sum(d @ p for d, p in zip(recent, landing.down[i], strict=True)) @ landing.up[i]
        np.testing.assert_allclose(out.state[row], want, rtol=1e-4, atol=1e-4)


def test_the_others_see_a_landed_token_where_it_stopped(start):
    """A landing moves the tokens that stop, and nothing else."""
    schedule, landing = Schedule.even(STEPS, STEPS), Coefficients(np.full((STEPS, 1), 7.0, np.float32))
    plain = step_until(coupled, start, schedule, "euler", StepError(0.2), args=0.3)
    out = step_until(coupled, start, schedule, "euler", StepError(0.2), args=0.3, landing=landing)
    assert len(np.unique(plain.steps)) > 1
    np.testing.assert_array_equal(out.steps, plain.steps)
    stopped = ~np.asarray(plain.active)
    assert 0 < stopped.sum() < stopped.size
    np.testing.assert_array_equal(out.state[~stopped], plain.state[~stopped])
    assert (np.abs(np.asarray(out.state - plain.state))[stopped].max(-1) > 0.1).all()


def test_rows_that_have_exited_before_take_no_step(start, quiet):
    active = jnp.array([True, False, True])
    rule = StateChange(0.0, "sequence")
    out = step_until(planted, start, Schedule.even(2, 2), "euler", rule, args=quiet, active=active)
    np.testing.assert_array_equal(out.steps, [2, 0, 2])
    np.testing.assert_array_equal(out.state[1], start[1])


def test_what_cannot_be_stepped_is_refused(start, compilations):
    schedule = Schedule.even(2, 2)
    before = compilations()
    with pytest.raises(UserError, match='"tsit5" chooses its own steps'):
        step_until(coupled, start, schedule, "tsit5", args=0.3)
    with pytest.raises(UserError, match="one field, not a tuple"):
        step_until((coupled, coupled), start, schedule, "euler", args=0.3)
    with pytest.raises(UserError, match="needs the coefficients of a calibration"):
        step_until(coupled, start, schedule, "calibrated", args=0.3)

    with pytest.raises(UserError, match="a landing of 3 rows and memory 1: the schedule has 2 steps"):
        step_until(coupled, start, schedule, args=0.3, landing=Coefficients(np.zeros((3, 1), np.float32)))

    class Curious(StepError):
        observes = True

    with pytest.raises(UserError, match="Curious reads more than the state"):
        step_until(coupled, start, schedule, "euler", Curious(0.1), args=0.3)
    assert compilations() == before
