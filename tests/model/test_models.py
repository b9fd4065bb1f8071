"""Whole models: who sees whom, precision, dropout, parameters, compilations and refusals."""

import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxode.config import DepthConfig, UserError
from jaxode.depth import Coefficients
from jaxode.model import CausalLM, Context, Encoder, MaskedLM, SequenceClassifier, make_model
from jaxode.model.parameters import calibration_parameters, split
from jaxode.model.rotary import rotary_angles

TOKENS = jnp.asarray(np.random.default_rng(0).integers(0, 50, (2, 8)))
UNROLL = DepthConfig(adjoint="unroll")  # runs outside jit without a compilation of its own


def model_of(config, lively, **kwargs):
    return lively(make_model(config, **kwargs))


# --- who sees whom --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["causal", "masked"])
def test_causality_by_gradient(kind, tiny, lively):
    """|d logits[l] / d x(0)[m]| is 0 for m > l in a causal model, and nowhere else."""
    model = model_of(tiny(kind=kind), lively)
    context = Context(rotary=rotary_angles(8, 8, 10_000.0))

    def logits(x):
        x = model.stack(x[None], DepthConfig(), context).state
        return jnp.sum(jnp.sin(model.head(x, model.embedding)[0]), axis=-1)

    jacobian = jax.jacrev(logits)(jax.random.normal(jax.random.key(0), (8, 32)))
    felt = np.linalg.norm(jacobian, axis=-1) > 0
    np.testing.assert_array_equal(felt, np.tril(np.ones((8, 8), bool)) if kind == "causal" else np.ones((8, 8), bool))


SEGMENTS = jnp.array([[1, 1, 1, 2, 2, 2, 0, 0]])


@pytest.mark.broad
@pytest.mark.parametrize("kind", ["causal", "masked"])
def test_segments_isolate_documents_and_padding(kind, tiny, lively):
    model = model_of(tiny(kind=kind), lively)
    row = TOKENS[:1]
    logits = model(row, UNROLL, segments=SEGMENTS).logits
    assert bool(jnp.isfinite(logits).all())
    first = model(row.at[0, 0].add(1), UNROLL, segments=SEGMENTS).logits
    np.testing.assert_array_equal(first[:, 3:], logits[:, 3:])
    assert float(jnp.abs(first - logits)[0, 1:3].max()) > 0
    padded = model(row.at[0, 6].add(1), UNROLL, segments=SEGMENTS).logits
    np.testing.assert_array_equal(padded[:, :6], logits[:, :6])
    unmasked = model(row, UNROLL).logits
    assert float(jnp.abs(unmasked - logits)[0, 3:6].max()) > 1e-3


@pytest.mark.broad
@pytest.mark.parametrize("kind", ["causal", "masked"])
def test_a_packed_document_reads_as_if_alone(kind, tiny, lively):
    """Rotary positions are relative, so the second document may start anywhere."""
    model = model_of(tiny(kind=kind), lively)
    packed = model(TOKENS[:1], UNROLL, segments=SEGMENTS).logits[:, 3:6]
    np.testing.assert_allclose(packed, model(TOKENS[:1, 3:6], UNROLL).logits, rtol=1e-3, atol=1e-4)


def test_one_segment_equals_no_segments(tiny, lively):
    model = model_of(tiny(kind="masked"), lively)
    ones = jnp.ones_like(TOKENS)
    np.testing.assert_allclose(
        model(TOKENS, UNROLL, segments=ones).logits, model(TOKENS, UNROLL).logits, rtol=1e-5, atol=1e-5
    )


# --- output, precision, dropout -------------------------------------------------------------------------------------


@pytest.mark.broad
@pytest.mark.parametrize("position", ["pre", "post"])
@pytest.mark.parametrize("kind", ["causal", "masked"])
def test_bfloat16_stays_close_with_float32_parameters_state_and_logits(kind, position, tiny):
    config = tiny(kind=kind, norm_position=position, tied=kind == "causal")
    half, exact = make_model(config, dtype=jnp.bfloat16), make_model(config)
    assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(half, nnx.Param))} == {jnp.dtype("float32")}
    found, want = half(TOKENS, UNROLL), exact(TOKENS, UNROLL)
    assert found.logits.dtype == found.state.dtype == jnp.float32
    for name in ("logits", "state"):
        error = jnp.linalg.norm(getattr(found, name) - getattr(want, name)) / jnp.linalg.norm(getattr(want, name))
        assert 0 < float(error) < 0.03, name


def test_the_output_names_its_parts(tiny):
    model = make_model(tiny(prelude=1))
    out = model(TOKENS, DepthConfig(steps=2, adjoint="unroll"), trace=True)
    assert (out.logits.shape, out.state.shape, out.block_evaluations) == ((2, 8, 50), (2, 8, 32), 3)
    assert out.trace.states.shape == (3, 2, 8, 32)
    assert model(TOKENS, UNROLL).trace is None


def test_dropout_needs_a_key_and_follows_it(tiny):
    model = make_model(tiny(dropout=0.2))
    np.testing.assert_array_equal(model(TOKENS, UNROLL).logits, make_model(tiny())(TOKENS, UNROLL).logits)
    first, again, other = (model(TOKENS, UNROLL, key=jax.random.key(seed)).logits for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert float(jnp.abs(first - other).max()) > 1e-3


def test_a_classifier_gives_one_row_of_logits_a_sequence(tiny):
    model = SequenceClassifier(tiny(kind="masked"), 3, rngs=nnx.Rngs(0))
    assert model(TOKENS, UNROLL, segments=jnp.ones_like(TOKENS)).logits.shape == (2, 3)


# --- parameters, compilations ---------------------------------------------------------------------------------------


def linear(inputs, outputs, bias=True):
    return inputs * outputs + (outputs if bias else 0)


def block_parameters(ff=128, norms=4, kv_heads=4, gated=False):
    """A block at D 32, H 4, K 8; `norms` counts vectors of width D (two for LayerNorm, one for RMSNorm)."""
    inner = 2 * ff if gated else ff
    return linear(32, 8 * (4 + 2 * kv_heads)) + linear(32, 32) + linear(32, inner) + linear(ff, 32) + norms * 32


BLOCK = block_parameters()


@pytest.mark.parametrize(
    ("changes", "want"),
    [
        ({}, 50 * 32 + BLOCK + 64),
        ({"steps": 12}, 50 * 32 + BLOCK + 64),
        ({"sharing": "sequence", "groups": 2}, 50 * 32 + 2 * BLOCK + 64),
        ({"sharing": "cycle", "groups": 2}, 50 * 32 + 2 * BLOCK + 64),
        ({"sharing": "none"}, 50 * 32 + 4 * BLOCK + 64),
        ({"prelude": 1, "coda": 2}, 50 * 32 + 4 * BLOCK + 64),
        ({"inject_input": True}, 50 * 32 + BLOCK + 32 + 64),
        ({"tied": False, "positions": "learned"}, (50 + 16) * 32 + BLOCK + 64 + 32 * 50),
        ({"norm_position": "post"}, 50 * 32 + BLOCK),
        (
            {"kv_heads": 2, "feed_forward": "swiglu", "norm": "rms"},
            50 * 32 + block_parameters(ff=88, norms=2, kv_heads=2, gated=True) + 32,
        ),
        (
            {"kind": "masked", "embedding_width": 8, "ff_width": 40},
            50 * 8 + linear(8, 32) + block_parameters(ff=40) + 64 + linear(32, 8) + 16 + 50,
        ),
    ],
)
def test_parameters_are_counted_exactly(changes, want, tiny):
    assert make_model(tiny(**changes)).num_parameters == want


def test_a_seed_names_the_parameters(tiny):
    def table(seed):
        return make_model(tiny(), seed=seed).embedding.tokens.embedding[...]

    np.testing.assert_array_equal(table(3), table(3))
    assert float(jnp.abs(table(3) - table(4)).max()) > 0


def test_a_second_call_compiles_nothing_and_another_depth_once(tiny, compilations):
    graph, params = nnx.split(make_model(tiny()))

    @jax.jit
    def full(params, tokens):
        return nnx.merge(graph, params)(tokens).logits

    forward = jax.jit(lambda params, tokens, depth: nnx.merge(graph, params)(tokens, depth).logits, static_argnums=2)
    other = TOKENS[::-1]
    jax.block_until_ready((full(params, TOKENS), forward(params, TOKENS, DepthConfig())))
    before = compilations()
    jax.block_until_ready((full(params, other), forward(params, other, DepthConfig())))
    assert compilations() == before
    jax.block_until_ready(forward(params, other, DepthConfig(steps=2)))
    assert compilations() == before + 1
    jax.block_until_ready((forward(params, TOKENS, DepthConfig()), forward(params, TOKENS, DepthConfig(steps=2))))
    assert compilations() == before + 1


def test_a_second_call_outside_jit_compiles_nothing(tiny, compilations):
    model = make_model(tiny(sharing="cycle", groups=2))
    jax.block_until_ready(model(TOKENS).logits)
    before = compilations()
    jax.block_until_ready(model(TOKENS).logits)
    assert compilations() == before


# --- the solver -----------------------------------------------------------------------------------------------------


def held(config):
    """A model that holds a made-up calibration for 2 steps."""
    architecture, params = split(make_model(config))
    params = {name: 3 * value for name, value in params.items()}
    made = Coefficients(np.array([[1.5, 0.0], [2.5, -0.5]], np.float32))
    return architecture, params, calibration_parameters(2, made)


@pytest.mark.broad
@pytest.mark.parametrize("jitted", [True, False], ids=["jit", "eager"])
@pytest.mark.parametrize(
    ("depth", "solver"),
    [
        ({}, "euler"),
        ({"steps": 2}, "calibrated"),
        ({"steps": 3}, "euler"),
        ({"steps": 2, "schedule": "unit"}, "euler"),
        ({"steps": 2, "schedule": "1,3"}, "euler"),
        ({"steps": 2, "solver": "euler"}, "euler"),
        ({"steps": 2, "solver": "secant"}, "secant"),
    ],
)
def test_auto_takes_the_models_own_calibration_and_says_so(depth, solver, jitted, tiny):
    architecture, params, own = held(tiny())
    depth = DepthConfig(**depth)

    def run(params, depth):
        return architecture.bind(params)(TOKENS, depth)

    runs = jax.jit(run, static_argnums=1) if jitted else run
    out = runs(params | own, depth)
    assert out.solver == solver
    schedule = "even" if depth.schedule == "auto" else depth.schedule
    named = dataclasses.replace(depth, solver=solver, schedule=schedule)
    assert architecture.bind(params | own).resolve(depth) == named
    np.testing.assert_array_equal(out.logits, runs(params | own, dataclasses.replace(depth, solver=solver)).logits)
    assert run(params, depth).solver == ("euler" if solver == "calibrated" else solver)


def test_coefficients_are_what_auto_takes(tiny):
    architecture, params, _ = held(tiny())
    model, given = architecture.bind(params), Coefficients(np.array([[1.0], [3.0]], np.float32))
    found = model(TOKENS, DepthConfig(steps=2), coefficients=given)
    assert found.solver == "calibrated"
    want = model(TOKENS, DepthConfig(steps=2, solver="euler", schedule="1,3")).logits
    np.testing.assert_allclose(found.logits, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("model", [SequenceClassifier, Encoder])
def test_other_outputs_say_which_solver_ran(model, tiny):
    arguments = (tiny(kind="masked"), 3) if model is SequenceClassifier else (tiny(kind="masked"),)
    assert model(*arguments, rngs=nnx.Rngs(0))(TOKENS, UNROLL).solver == "euler"


# --- derivatives ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("adjoint", ["remat", "unroll"])
@pytest.mark.deep
def test_forward_mode_and_hessian_products_through_a_model(adjoint, tiny, lively):
    """Against central differences, over the input states."""
    model = model_of(tiny(), lively)
    x, context = model.start(TOKENS[:1])
    direction = jax.random.normal(jax.random.key(1), x.shape)

    def loss(x):
        return jnp.sum(jnp.sin(model.read_out(model.stack(x, DepthConfig(adjoint=adjoint), context).state)))

    gradient = jax.grad(loss)(x)
    _, slope = jax.jvp(loss, (x,), (direction,))
    np.testing.assert_allclose(slope, jnp.vdot(gradient, direction), rtol=1e-3)
    _, product = jax.jvp(jax.grad(loss), (x,), (direction,))
    again = jax.grad(lambda x: jnp.vdot(jax.grad(loss)(x), direction))(x)
    assert float(jnp.linalg.norm(product - again)) < 1e-3 * float(jnp.linalg.norm(product))


@pytest.mark.deep
def test_the_recursive_adjoint_allows_hessian_products_and_refuses_forward_mode(tiny, lively):
    model = model_of(tiny(), lively)
    x, context = model.start(TOKENS[:1])

    def loss(x, adjoint="recursive"):
        return jnp.sum(jnp.sin(model.stack(x, DepthConfig(adjoint=adjoint), context).state))

    product, want = (
        jax.jvp(jax.grad(lambda x, adjoint=adjoint: loss(x, adjoint)), (x,), (x,))[1]
        for adjoint in ("recursive", "unroll")
    )
    assert float(jnp.linalg.norm(product - want)) < 1e-3 * float(jnp.linalg.norm(want))
    with pytest.raises(UserError, match=r'depth.adjoint = "recursive" allows no forward mode'):
        jax.jvp(loss, (x,), (x,))


# --- refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "depth", "message"),
    [
        ({}, {"solver": "eulr"}, r'depth.solver = "eulr": allowed are euler, lie'),
        ({}, {"schedule": "odd"}, r'depth.schedule = "odd": allowed are even, unit'),
        (
            {"sharing": "cycle", "groups": 2},
            {"solver": "tsit5", "schedule": "unit", "steps": 3},
            r"depth.steps = 3 does not fit 2 groups \(cycle\): choose a multiple of 2",
        ),
        ({}, {"schedule": "1,2", "steps": 2}, r'"1,2" sums to 3: must reach the end of the interval, 4'),
        (
            {"sharing": "sequence", "groups": 2},
            {"steps": 3},
            r"depth.steps = 3 does not fit 2 groups \(sequence\): choose a multiple of 2",
        ),
        (
            {"sharing": "cycle", "groups": 2},
            {"steps": 3},
            r"depth.steps = 3 does not fit 2 groups \(cycle\): choose a multiple of 2",
        ),
        (
            {"sharing": "sequence", "groups": 2},
            {"schedule": "1,3", "steps": 2},
            r"steps across the boundary between two of 2 groups",
        ),
        ({"sharing": "none"}, {"steps": 2}, r"depth.steps = 2, .* an unshared model has no shared field"),
        ({"sharing": "none"}, {"solver": "heun"}, r'depth.solver = "heun", .* it runs its 4 blocks once each'),
        ({"positions": "learned", "length": 4}, {}, r"sequence of 8 tokens: .* end at model.length = 4; shorten it"),
    ],
)
def test_a_depth_that_does_not_fit_is_refused(changes, depth, message, tiny):
    model = make_model(tiny(**changes))
    with pytest.raises(UserError, match=message):
        model(TOKENS, DepthConfig(**depth))


def test_a_trace_of_an_adaptive_solve_is_refused(tiny):
    with pytest.raises(UserError, match=r'solver "tsit5" chooses its own steps: a trace needs a fixed-step solver'):
        make_model(tiny())(TOKENS, DepthConfig(solver="tsit5"), trace=True)


def test_zero_steps_are_refused():
    with pytest.raises(UserError, match=r"depth.steps = 0: must be at least 1"):
        DepthConfig(steps=0)


def test_traced_steps_are_refused():
    """Told to whoever makes a DepthConfig of them; the type checker of the tests would speak first."""
    with pytest.raises(UserError, match=r"depth.steps is traced.*: steps are static.*static_argnums.*`solve_budgets`"):
        jax.jit(lambda steps: DepthConfig.__post_init__(SimpleNamespace(steps=steps)))(4)


def test_the_class_must_fit_the_kind(tiny):
    with pytest.raises(UserError, match=r'model.kind = "masked": CausalLM needs "causal" \(make_model picks the class'):
        CausalLM(tiny(kind="masked"), rngs=nnx.Rngs(0))
    with pytest.raises(UserError, match=r'model.kind = "causal": MaskedLM needs "masked"'):
        MaskedLM(tiny(), rngs=nnx.Rngs(0))


def test_unusable_sizes_are_refused(tiny):
    with pytest.raises(UserError, match=r"model.vocab_size = 0: set it to the tokenizer's size"):
        make_model(dataclasses.replace(tiny(), vocab_size=0))
    with pytest.raises(UserError, match=r"classes = 1: a classifier needs at least 2"):
        SequenceClassifier(tiny(), 1, rngs=nnx.Rngs(0))
    with pytest.raises(UserError, match=r"classes = 0: must be at least 1"):
        SequenceClassifier(tiny(), 0, problem_type="regression", rngs=nnx.Rngs(0))


def test_a_problem_type_that_is_none_is_refused(tiny):
    with pytest.raises(
        UserError, match=r'problem_type = "ranking": allowed are single_label_classification, multi_lab'
    ):
        SequenceClassifier(tiny(), 2, problem_type="ranking", rngs=nnx.Rngs(0))


def test_a_causal_classifier_does_not_feel_padding(tiny):
    """Rotary positions are relative: padded left, right or not at all, the last token sees the same."""
    model = SequenceClassifier(tiny(), 1, problem_type="regression", rngs=nnx.Rngs(0))
    bare = model(jnp.array([[5, 6, 7]])).logits
    assert bare.shape == (1, 1)
    for tokens, segments in (([5, 6, 7, 0, 0], [1, 1, 1, 0, 0]), ([0, 0, 5, 6, 7], [0, 0, 1, 1, 1])):
        padded = model(jnp.array([tokens]), segments=jnp.array([segments])).logits
        np.testing.assert_allclose(padded, bare, atol=1e-4)


def test_seeds_of_32_bits_give_weights_of_their_own(tiny):
    kernels = [
        np.asarray(make_model(tiny(), seed=seed).stack.looped[0].attention.qkv.kernel[...]).tobytes()
        for seed in (0, 2**31, 2**32 - 1)
    ]
    assert len(set(kernels)) == 3
    for seed in (-1, 2**32 + 5):
        with pytest.raises(UserError, match=f"seed = {seed}: must be at "):
            make_model(tiny(), seed=seed)
