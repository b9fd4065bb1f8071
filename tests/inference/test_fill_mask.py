"""Fill-mask against the plain forward pass, and on a model whose answer is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers as hf
from tiny_runs import LENGTH, TOKENIZER

from jaxode.config import DepthConfig, UserError
from jaxode.data import Tokenizer
from jaxode.evaluation import Diverged
from jaxode.inference import fill

BIAS = "head.bias"


def letter(character):
    return TOKENIZER.encode(character)[0]


@pytest.fixture(scope="module")
def biased(masked):
    """The letter x is likely, then y, then z; the end token would be likelier than all of them."""
    architecture, params = masked
    bias = params[BIAS]
    for character, value in (("x", 60.0), ("y", 59.0), ("z", 58.0)):
        bias = bias.at[letter(character)].set(value)
    return architecture, params | {BIAS: bias.at[TOKENIZER.end_id].set(59.5)}


def test_candidates_of_a_known_model(masked, biased):
    architecture, params = biased
    flat = {name: jnp.zeros_like(value) for name, value in params.items()} | {BIAS: params[BIAS]}
    done = fill(architecture, flat, TOKENIZER, "a[MASK]b", top=3)
    (found,) = done.fills
    assert found.position == 1
    assert [candidate.token for candidate in found.candidates] == ["x", "y", "z"]
    weights = np.exp([0.0, -1.0, -2.0])
    expected = weights / (weights.sum() + np.exp(-0.5))
    assert [candidate.probability for candidate in found.candidates] == pytest.approx(expected, rel=1e-4)
    assert done.text == "axb"
    assert (done.tokens, done.block_evaluations) == (3, 4)


def test_a_frame_of_named_tokens_stands_around_the_text(masked):
    architecture, params = masked
    end = TOKENIZER.token(TOKENIZER.end_id)
    framed = fill(architecture, params, TOKENIZER, "a[MASK]b", frame=(end, end))
    written = fill(architecture, params, TOKENIZER, f"{end}a[MASK]b{end}")
    assert framed.fills[0].position == written.fills[0].position == 2
    assert framed.fills[0].candidates == written.fills[0].candidates


def test_probabilities_are_those_of_the_plain_forward(masked):
    """Unpadded, without segments; every mask is filled with all masks in place."""
    architecture, params = masked
    text = "the[MASK]fox [MASK]!"
    ids = TOKENIZER.encode(text, allow_special=True)
    logits = jax.jit(lambda tokens: architecture.bind(params)(tokens).logits[0])(jnp.asarray([ids]))
    probabilities = np.asarray(jax.nn.softmax(logits))
    done = fill(architecture, params, TOKENIZER, text, top=4)
    assert [found.position for found in done.fills] == [i for i, token in enumerate(ids) if token == TOKENIZER.mask_id]
    assert len(done.fills) == 2
    for found in done.fills:
        row = probabilities[found.position].copy()
        got = [candidate.probability for candidate in found.candidates]
        assert got == sorted(got, reverse=True)
        assert got == pytest.approx([row[candidate.id] for candidate in found.candidates], rel=1e-3)
        row[list(TOKENIZER.special_ids)] = 0
        assert got == pytest.approx(np.sort(row)[::-1][:4], rel=1e-3)
        ids[found.position] = found.candidates[0].id
    assert done.text == TOKENIZER.decode(ids)


def test_depth_reaches_the_model(masked):
    full, half = (fill(*masked, TOKENIZER, "a[MASK]b", depth=DepthConfig(steps=n)) for n in (4, 2))
    assert (full.block_evaluations, half.block_evaluations) == (4, 2)
    assert full.fills != half.fills


def test_document_mask_keeps_to_the_document(masked):
    alone, after, seen = (
        fill(*masked, TOKENIZER, text, document_mask=mask).fills[0]
        for text, mask in (("a[MASK]b", True), ("xy<|endoftext|>a[MASK]b", True), ("xy<|endoftext|>a[MASK]b", False))
    )
    assert alone.candidates[0].probability == pytest.approx(after.candidates[0].probability, rel=1e-3)
    assert alone.candidates[0].probability != pytest.approx(seen.candidates[0].probability, rel=1e-3)


def test_other_spellings_of_the_mask(masked):
    spelled = hf.Tokenizer.from_str(TOKENIZER._json.replace("[MASK]", "<mask>"))
    other = Tokenizer(spelled, "other", TOKENIZER.end_id, TOKENIZER.mask_id, TOKENIZER.pad_id)
    assert fill(*masked, other, "a[MASK]b") == fill(*masked, other, "a<mask>b") == fill(*masked, TOKENIZER, "a[MASK]b")


def test_a_token_without_a_character_of_its_own_shows_its_entry(masked, biased):
    architecture, params = biased
    (half, _) = TOKENIZER.encode("é")
    done = fill(architecture, params | {BIAS: params[BIAS].at[half].set(1e3)}, TOKENIZER, "[MASK]")
    assert done.fills[0].candidates[0].token == "Ã"


@pytest.mark.parametrize(
    ("text", "change", "message"),
    [
        ("no mask", {}, r"holds no \[MASK\]: write it where"),
        ("", {}, r"holds no \[MASK\]"),
        ("[MASK]" + "a" * LENGTH, {}, rf"{LENGTH + 1} tokens, the model reads at most model\.length = {LENGTH}"),
        ("[MASK]", {"top": 0}, "top = 0"),
        ("[MASK]", {"depth": DepthConfig(solver="magic")}, r"depth\.solver"),
    ],
)
def test_bad_input_is_refused(masked, text, change, message):
    with pytest.raises(UserError, match=message):
        fill(*masked, TOKENIZER, text, **change)


def test_the_longest_text_fits(masked):
    assert fill(*masked, TOKENIZER, "[MASK]" + "a" * (LENGTH - 1)).tokens == LENGTH


def test_a_causal_model_does_not_fill(causal):
    with pytest.raises(UserError, match="use task generate"):
        fill(*causal, TOKENIZER, "a [MASK] b")


def test_a_solve_that_diverges_is_named_instead_of_filled_in(masked):
    """Without kernels f is a constant of 1e19, which a norm cannot square after two steps."""
    architecture, params = masked
    params = {name: jnp.zeros_like(value) if name.endswith("kernel") else value for name, value in params.items()}
    params |= {"stack.looped.0.feed_forward.output.bias": jnp.full((16,), 1e19)}
    with pytest.raises(Diverged, match=r"a prediction is not finite .* after step 2 of 2"):
        fill(architecture, params, TOKENIZER, "a[MASK]", depth=DepthConfig(steps=2))
