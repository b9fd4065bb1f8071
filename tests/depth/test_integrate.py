"""integrate() equals each method's textbook loop, in values and in gradients, and compiles once a step count."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxode.config import UserError
from jaxode.depth import SOLVERS, Schedule, integrate

FIXED = [name for name, spec in SOLVERS.items() if not spec.adaptive and name != "calibrated"]
UNEVEN = Schedule((0.0, 0.5, 1.5, 1.75))
UNIT = Schedule.even(3, 3)


def mixing(t, x, args):
    return jnp.tanh(x @ args["mix"] + t * args["drift"])


def pulling(t, x, args):
    return jnp.sin(x) * args["pull"] - 0.1 * t


def whole(t, x, args):
    return mixing(t, x, args) + pulling(t, x, args)


def euler(f, t, h, x, args):
    return x + h * f(t, x, args)


def heun(f, t, h, x, args):
    first = f(t, x, args)
    return x + h / 2 * (first + f(t + h, x + h * first, args))


def midpoint(f, t, h, x, args):
    return x + h * f(t + h / 2, x + h / 2 * f(t, x, args), args)


def rk4(f, t, h, x, args):
    k1 = f(t, x, args)
    k2 = f(t + h / 2, x + h / 2 * k1, args)
    k3 = f(t + h / 2, x + h / 2 * k2, args)
    k4 = f(t + h, x + h * k3, args)
    return x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)


def lie(f, t, h, x, args):
    x = x + h * mixing(t, x, args)
    return x + h * pulling(t, x, args)


STEPS = {"euler": euler, "lie": lie, "heun": heun, "midpoint": midpoint, "rk4": rk4}


def remembered(order, weigh):
    """A loop with a memory of (t, f); `weigh` gives the weights of the newest evaluations, the newest first."""

    def run(schedule, x, args):
        memory = []
        for t, h in zip(schedule.times, schedule.sizes, strict=False):
            memory = [(t, whole(t, x, args)), *memory][:order]
            weights = weigh([s - t for s, _ in memory], h)
            x = x + sum(weight * f for weight, (_, f) in zip(weights, memory, strict=True))
        return x

    return run


def polynomial(nodes, h):
    """Weights that integrate every polynomial through the nodes exactly over [0, h]: the moment equations."""
    powers = np.arange(len(nodes))
    return np.linalg.solve(np.power.outer(np.array(nodes), powers).T, h ** (powers + 1) / (powers + 1))


def golden(nodes, h):
    if len(nodes) == 1:
        return [h]
    c = (h - 1) * h / -nodes[1]
    return [h + c, -c]


MEMORY = {"ab2": remembered(2, polynomial), "ab3": remembered(3, polynomial), "secant": remembered(2, golden)}


def loop(solver, schedule, x, args):
    if solver in MEMORY:
        return MEMORY[solver](schedule, x, args)
    for t, h in zip(schedule.times, schedule.sizes, strict=False):
        x = STEPS[solver](whole, t, h, x, args)
    return x


def solve(solver, schedule, x, args, **kwargs):
    field = (mixing, pulling) if SOLVERS[solver].split else whole
    return integrate(field, x, schedule, solver, args=args, **kwargs).state


@pytest.fixture
def problem():
    keys = dict(zip(("x", "mix", "drift", "pull", "weigh"), jax.random.split(jax.random.key(0), 5), strict=True))
    args = {
        "mix": 0.5 * jax.random.normal(keys["mix"], (4, 4)),
        "drift": jax.random.normal(keys["drift"], (4,)),
        "pull": jax.random.normal(keys["pull"], ()),
    }
    x, weights = jax.random.normal(keys["x"], (3, 4)), jax.random.normal(keys["weigh"], (3, 4))
    return x, args, weights


def value_and_gradients(run, x, args, weights):
    def loss(x, args):
        end = run(x, args)
        return jnp.sum(weights * end), end

    (_, end), gradients = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(x, args)
    return end, gradients


@pytest.mark.broad
@pytest.mark.parametrize(
    ("solver", "adjoint"), [*itertools.product(FIXED, ("recursive", "unroll")), ("lie", "remat"), ("heun", "remat")]
)
def test_a_solve_is_the_methods_own_loop(solver, adjoint, problem):
    x, args, weights = problem
    assert {*STEPS, *MEMORY} == set(FIXED)
    want, slopes = value_and_gradients(functools.partial(loop, solver, UNEVEN), x, args, weights)
    run = functools.partial(solve, solver, UNEVEN, adjoint=adjoint)
    end, gradients = value_and_gradients(run, x, args, weights)
    np.testing.assert_allclose(end, want, rtol=1e-5, atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=1e-5), gradients, slopes)


def test_adaptive_solves_are_differentiable():
    """X' = a x: dx(T) / da = T x(T)."""

    def end(rate):
        return integrate(lambda t, x, a: a * x, jnp.ones(1), Schedule.even(2.0, 1), "tsit5", args=rate, tolerance=1e-5)

    np.testing.assert_allclose(jax.grad(lambda a: end(a).state[0])(-0.5), 2 * np.exp(-1.0), rtol=1e-3)


@pytest.mark.broad
@pytest.mark.parametrize("jitted", [True, False], ids=["jit", "eager"])
@pytest.mark.parametrize("adjoint", ["recursive", "unroll"])
def test_a_second_solve_compiles_nothing(adjoint, jitted, problem, compilations):
    x, args, _ = problem
    run = functools.partial(solve, "euler", adjoint=adjoint)
    run = jax.jit(run, static_argnums=0) if jitted else run
    other = x + 1
    jax.block_until_ready(run(UNIT, x, args))
    before = compilations()
    # An equal schedule, not the same object.
    jax.block_until_ready(run(Schedule.even(3, 3), other, args))
    assert compilations() == before


def test_another_step_count_compiles_once(problem, compilations):
    x, args, _ = problem
    run = jax.jit(functools.partial(solve, "euler"), static_argnums=0)
    jax.block_until_ready(run(Schedule.even(3, 3), x, args))
    before = compilations()
    jax.block_until_ready(run(Schedule.even(3, 2), x, args))
    assert compilations() == before + 1


DERIVATIVES = {
    "grad": lambda end: jax.grad(end)(2.0),
    "jvp": lambda end: jax.jvp(end, (2.0,), (1.0,))[1],
    "jacfwd": lambda end: jax.jacfwd(end)(2.0),
    "grad of grad": lambda end: jax.grad(jax.grad(end))(2.0),
    "jvp of grad": lambda end: jax.jvp(jax.grad(end), (2.0,), (1.0,))[1],
    "hessian": lambda end: jax.hessian(end)(2.0),
}
SECOND = {"grad of grad", "jvp of grad", "hessian"}


def decay(adjoint):
    """The sum of x(1) for x' = -a x from three ones in four Euler steps: 3 (1 - a / 4)^4."""

    def end(rate):
        field, schedule = (lambda t, x, a: -a * x), Schedule.even(1.0, 4)
        return integrate(field, jnp.ones(3), schedule, "euler", args=rate, adjoint=adjoint).state.sum()

    return end


@pytest.mark.broad
@pytest.mark.parametrize("jitted", [True, False], ids=["jit", "eager"])
@pytest.mark.parametrize(
    ("adjoint", "derivative"),
    [
        *itertools.product(("remat", "unroll"), DERIVATIVES),
        *itertools.product(("recursive",), ("grad", "jvp of grad", "hessian")),
    ],
)
def test_derivatives_that_an_adjoint_allows(adjoint, derivative, jitted):
    """At a = 2: d/da = -3 (1/2)^3, d2/da2 = 9/4 (1/2)^2."""
    end = jax.jit(decay(adjoint)) if jitted else decay(adjoint)
    want = 0.5625 if derivative in SECOND else -0.375
    np.testing.assert_allclose(DERIVATIVES[derivative](end), want, rtol=1e-5)


@pytest.mark.parametrize("derivative", ["jvp", "jacfwd"])
def test_the_recursive_adjoint_refuses_forward_mode(derivative):
    with pytest.raises(UserError, match=r'"recursive" allows no forward mode .*: use "remat" or "unroll"'):
        DERIVATIVES[derivative](decay("recursive"))


def test_the_recursive_adjoint_has_no_reverse_mode_over_reverse_mode():
    with pytest.raises(ValueError, match="Reverse-mode differentiation does not work"):
        DERIVATIVES["grad of grad"](decay("recursive"))


def test_an_adaptive_solve_refuses_forward_mode():
    def end(rate):
        return integrate(lambda t, x, a: -a * x, jnp.ones(3), Schedule.even(1.0, 1), "tsit5", args=rate).state

    with pytest.raises(UserError, match=r'"tsit5" chooses its own steps, which allow no forward mode'):
        jax.jvp(end, (2.0,), (1.0,))


def test_an_error_of_the_field_stays_what_it_is(problem):
    x, args, _ = problem
    with pytest.raises(TypeError, match="of the field"):
        integrate(lambda t, x, args: (_ for _ in ()).throw(TypeError("of the field")), x, UNIT, args=args)


@pytest.mark.parametrize(
    ("field", "kwargs", "message"),
    [
        (whole, {"solver": "eulr"}, 'depth.solver = "eulr": allowed are euler, lie'),
        ((mixing, pulling), {"solver": "euler"}, 'solver "euler" needs one field, not a tuple'),
        (whole, {"solver": "lie"}, 'solver "lie" needs a tuple of fields, one a part'),
        (whole, {"solver": "tsit5", "trace": True}, 'solver "tsit5" chooses its own steps: a trace needs a fixed-step'),
        (whole, {"adjoint": "direct"}, 'depth.adjoint = "direct": allowed are recursive, remat, nested, unroll'),
    ],
)
def test_refusals(field, kwargs, message, problem):
    x, args, _ = problem
    with pytest.raises(UserError, match=message):
        integrate(field, x, UNIT, args=args, **kwargs)
