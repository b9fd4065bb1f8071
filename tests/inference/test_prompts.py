"""Prompts as ids, and seeds, in every form that holds them; what only looks like them is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_runs import TOKENIZER

from jaxode.config import UserError
from jaxode.inference import Temperature, generate, generate_batch
from jaxode.inference.generation.prompts import encode_prompts, row_seeds

V = TOKENIZER.vocab_size


@pytest.mark.parametrize("make", [list, tuple, iter, np.array, jnp.asarray, lambda ids: np.array(ids, np.uint8)])
def test_ids_may_come_as_any_numbers(make):
    assert encode_prompts(TOKENIZER, [make([5, 7]), "ab"]) == [[5, 7], TOKENIZER.encode("ab")]


def test_rows_of_an_array_are_prompts():
    assert encode_prompts(TOKENIZER, np.array([[5, 7], [6, 8]])) == [[5, 7], [6, 8]]


def test_special_tokens_of_a_prompt_are_tokens():
    assert encode_prompts(TOKENIZER, ["a<|endoftext|>"]) == [[*TOKENIZER.encode("a"), TOKENIZER.end_id]]


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize(
    ("prompts", "why"),
    [
        ([[1, 2], [3, V]], rf"^prompt 1 has the token {V}: ids of tokenizer bytes are 0 to {V - 1}$"),
        ([[1, -1]], "^prompt 0 has the token -1"),
        ([[1, 2.0]], r"^prompt 0 has the token 2\.0"),
        ([[1, True]], "^prompt 0 has the token True"),
        ([np.array([1.5])], r"^prompt 0 has the token 1\.5"),
        ([np.array([True])], "^prompt 0 has the token True"),
        ([["1", "2"]], "^prompt 0 is a list of several"),
        ([[[1], [2]]], "^prompt 0 is a list of several"),
        ([1, 2], "^prompt 0 is of type int: give a text or a list of token ids$"),
        (np.array([1, 2]), "^prompt 0 is of type int64"),
        (["a", bytearray(b"b")], "^prompt 1 is of type bytearray"),
        (["a", {1: 2}], "^prompt 1 is of type dict"),
        (["a", []], "^prompt 1 is empty"),
    ],
    ids=repr,
)
def test_what_is_neither_text_nor_ids_is_refused(prompts, why):
    with pytest.raises(UserError, match=why):
        encode_prompts(TOKENIZER, prompts)


@pytest.mark.parametrize(
    "seeds", [[3, 4], (3, 4), np.array([3, 4]), jnp.array([3, 4]), np.array([3, 4], np.uint32)], ids=str
)
def test_a_seed_for_every_row(seeds):
    assert row_seeds(seeds, 2) == [3, 4]


@pytest.mark.parametrize("seed", [3, np.int64(3), np.array(3), jnp.array(3)], ids=repr)
def test_one_seed_for_all_rows(seed):
    assert row_seeds(seed, 2) == [3, 3]


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize(
    ("seeds", "why"),
    [
        (True, "^seed True: must be a whole number from 0 to 4294967295$"),
        (1.0, r"^seed 1\.0: must"),
        (-1, "^seed -1: must"),
        (2**32, "^seed 4294967296: must"),
        (None, "^seed None: must"),
        ("12", "^seed '12': must"),
        ([1, "2"], "^seed '2': must"),
        ([1, 2.0], r"^seed 2\.0: must"),
        (np.array([1.0, 2.0]), r"^seed 1\.0: must"),
        ([1], "^seeds: 1 of them for 2 prompts"),
        ([], "^seeds: 0 of them for 2 prompts"),
    ],
    ids=repr,
)
def test_what_is_no_seed_is_refused(seeds, why):
    with pytest.raises(UserError, match=why):
        row_seeds(seeds, 2)


def test_every_bit_of_a_seed_counts(causal):
    rules = {"sampling": Temperature(2.0), "max_new_tokens": 12}
    seeds = [5, 2**31 + 5, 2**32 - 1]
    done = generate_batch(*causal, TOKENIZER, ["abc"] * 3, seeds=seeds, **rules)
    assert len({row.ids for row in done}) == 3
    assert generate(*causal, TOKENIZER, "abc", seed=5, **rules).ids == done[0].ids
    key = jax.random.key(5)
    assert (jax.random.key_data(jax.random.key(np.uint32(5))) == jax.random.key_data(key)).all()
