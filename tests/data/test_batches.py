"""What a batch asks the model for, and that it depends on (seed, step) alone."""

import json

import jax
import numpy as np
import pytest

from jaxode.config import UserError
from jaxode.data import Batch, Batches, BatchSpec, Tokenizer, ValidationBatches, make_batch, pack

LENGTH = 12


def rows_of(tokenizer: Tokenizer, documents: int = 50, words: int = 15) -> list[dict]:
    texts = [f"{i} " + "over the lazy dog " * (words // 4) for i in range(documents)]
    ids = tokenizer.encode_batch(texts)
    packed = pack(ids, LENGTH, tokenizer.end_id, tokenizer.pad_id)
    return [{"tokens": row.tokens, "count": np.int32(row.count)} for row in packed]


def stack(rows: list[dict]) -> dict[str, np.ndarray]:
    return {name: np.stack([row[name] for row in rows]) for name in ("tokens", "count")}


def equal(a: Batch, b: Batch) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def tiny(tokenizer: Tokenizer, tokens: list[int], count: int) -> dict[str, np.ndarray]:
    row = [tokenizer.end_id if t == 0 else tokenizer.ordinary_ids[t] for t in tokens]
    row += [tokenizer.pad_id] * (LENGTH + 1 - len(row))
    return {"tokens": np.array([row], np.int32), "count": np.array([count])}


RNG = np.random.default_rng(0)


def test_causal_targets_are_the_next_tokens(bpe: Tokenizer):
    rows = tiny(bpe, [5, 6, 0, 7, 8], 5)
    batch = make_batch(BatchSpec(bpe), rows, RNG)
    assert batch.tokens.tolist() == rows["tokens"][:, :-1].tolist()
    assert batch.targets.tolist() == rows["tokens"][:, 1:].tolist()
    assert batch.weights.tolist() == [[1, 1, 1, 1] + [0] * (LENGTH - 4)]
    assert batch.segments.tolist() == [[1, 1, 1, 2, 2] + [0] * (LENGTH - 5)]


def test_a_document_mask_drops_targets_across_documents(bpe: Tokenizer):
    batch = make_batch(BatchSpec(bpe, document_mask=True), tiny(bpe, [5, 6, 0, 7, 8], 5), RNG)
    # the end token is predicted by its own document, the 7 by nothing
    assert batch.weights.tolist() == [[1, 1, 0, 1] + [0] * (LENGTH - 4)]


def masked(tokenizer: Tokenizer, tokens: np.ndarray, fraction: float = 0.15) -> Batch:
    rows = {"tokens": tokens, "count": np.full(len(tokens), tokens.shape[1])}
    return make_batch(BatchSpec(tokenizer, "masked", mask_fraction=fraction), rows, np.random.default_rng(1))


def test_masking_chooses_the_exact_share_and_treats_it_80_10_10(bpe: Tokenizer):
    original = np.full((200, 1001), bpe.ordinary_ids[40], np.int32)
    batch = masked(bpe, original)
    chosen = batch.weights == 1
    assert (chosen.sum(axis=1) == 150).all()
    assert np.array_equal(batch.targets, original[:, :-1])
    assert np.array_equal(batch.tokens[~chosen], batch.targets[~chosen])
    seen = batch.tokens[chosen]
    share_masked, share_kept = np.mean(seen == bpe.mask_id), np.mean(seen == original[0, 0])
    # 30,000 draws: 5 standard deviations are 0.012 and 0.009; a random draw keeps the token 1 time in 297
    assert share_masked == pytest.approx(0.8, abs=0.012)
    assert share_kept == pytest.approx(0.1 + 0.1 / len(bpe.ordinary_ids), abs=0.009)
    replaced = set(seen.tolist()) - {bpe.mask_id, original[0, 0]}
    assert len(replaced) > 250
    assert not replaced & bpe.special_ids


def test_special_tokens_and_padding_are_never_chosen(bpe: Tokenizer):
    rows = tiny(bpe, [5, 0, 6, 0, 7, 0], 6)
    batch = make_batch(BatchSpec(bpe, "masked", mask_fraction=0.99), rows, RNG)
    assert batch.weights.tolist() == [[1, 0, 1, 0, 1, 0] + [0] * (LENGTH - 6)]


def test_masking_chooses_at_least_one_token_and_none_where_there_is_none(bpe: Tokenizer):
    assert make_batch(BatchSpec(bpe, "masked"), tiny(bpe, [5, 6, 0], 3), RNG).weights.sum() == 1
    assert make_batch(BatchSpec(bpe, "masked"), tiny(bpe, [0, 0], 2), RNG).weights.sum() == 0


def test_a_masked_model_needs_a_mask_token(bpe: Tokenizer, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(bpe, "mask_id", None)
    with pytest.raises(UserError, match=f"{bpe.name} has no mask token"):
        BatchSpec(bpe, "masked")


@pytest.mark.parametrize("kind", ["causal", "masked"])
def test_a_batch_depends_on_seed_and_step_alone(bpe: Tokenizer, kind):
    rows, spec = rows_of(bpe), BatchSpec(bpe, kind)
    one, same, other = (Batches(rows, spec, 4, seed) for seed in (3, 3, 4))
    walked = [next(one) for _ in range(30)]
    # random access in another order than the walk
    assert all(equal(walked[step], same.at(step)) for step in (29, 0, 17))
    assert not equal(walked[0], other.at(0))
    assert not equal(walked[0], walked[1])
    one.close()


def test_masking_changes_from_epoch_to_epoch(bpe: Tokenizer):
    batches = Batches(rows_of(bpe)[:1], BatchSpec(bpe, "masked"), 1, seed=0)
    assert np.array_equal(batches.at(0).targets, batches.at(1).targets)
    assert any(not np.array_equal(batches.at(0).weights, batches.at(step).weights) for step in range(1, 8))


def test_every_epoch_reads_every_row_in_a_new_order(bpe: Tokenizer):
    rows = rows_of(bpe)[:24]
    batches = Batches(rows, BatchSpec(bpe), 4, seed=0)
    assert batches.steps_per_epoch == 6
    read = [tuple(tokens) for step in range(12) for tokens in batches.at(step).tokens.tolist()]
    epochs = read[:24], read[24:]
    everything = sorted(tuple(row["tokens"][:-1].tolist()) for row in rows)
    assert sorted(epochs[0]) == sorted(epochs[1]) == everything
    assert epochs[0] != epochs[1]


def test_batches_of_one_row_are_read_ahead_too(bpe: Tokenizer):
    rows = rows_of(bpe)[:5]
    batches = Batches(rows, BatchSpec(bpe), 1, seed=0)
    read = [tuple(next(batches).tokens[0].tolist()) for _ in range(10)]
    assert sorted(read) == sorted([tuple(row["tokens"][:-1].tolist()) for row in rows] * 2)


@pytest.mark.parametrize("kind", ["causal", "masked"])
def test_a_restored_position_continues_as_if_never_interrupted(bpe: Tokenizer, kind):
    rows, spec = rows_of(bpe), BatchSpec(bpe, kind)
    whole, first, second = (Batches(rows, spec, 4, seed=1) for _ in range(3))
    expected = [next(whole) for _ in range(20)]
    for _ in range(7):
        next(first)
    state = json.loads(json.dumps(first.get_state()))
    next(second)  # a reader that has already started must move too
    second.set_state(state)
    assert all(equal(next(second), batch) for batch in expected[7:])
    assert second.get_state()["step"] == 20
    for batches in (whole, first, second):
        batches.close()


@pytest.mark.parametrize("change", [{"seed": 2}, {"batch_size": 5}, {"rows": 1}])
def test_a_position_in_another_order_is_refused(bpe: Tokenizer, change: dict):
    batches = Batches(rows_of(bpe), BatchSpec(bpe), 4, seed=1)
    with pytest.raises(UserError, match=next(iter(change))):
        batches.set_state({**batches.get_state(), **change})


def test_validation_reads_every_row_once_and_fills_up_with_weight_zero(bpe: Tokenizer):
    rows = rows_of(bpe)[:10]
    batches = ValidationBatches(rows, BatchSpec(bpe), 4)
    read = list(batches)
    assert len(read) == len(batches) == 3
    assert {batch.tokens.shape for batch in read} == {(4, LENGTH)}
    tokens = np.concatenate([batch.tokens for batch in read])
    assert np.array_equal(tokens[:10], stack(rows)["tokens"][:, :-1])
    weights = np.concatenate([batch.weights for batch in read])
    assert weights.sum() == sum(row["count"] - 1 for row in rows)
    assert weights[10:].sum() == 0
    assert np.concatenate([batch.segments for batch in read])[10:].sum() == 0


def test_validation_repeats_itself_and_can_be_limited(bpe: Tokenizer):
    rows, spec = rows_of(bpe), BatchSpec(bpe, "masked")
    batches = ValidationBatches(rows, spec, 4)
    first, again = list(batches), list(batches)
    assert all(map(equal, first, again))
    limited = ValidationBatches(rows, spec, 4, limit=2)
    assert len(limited) == 2
    assert all(map(equal, list(limited), first[:2]))
    assert len(ValidationBatches(rows, spec, 4, limit=10_000)) == len(batches)


def test_a_batch_is_a_pytree(bpe: Tokenizer):
    batch = make_batch(BatchSpec(bpe), stack(rows_of(bpe)[:2]), RNG)
    doubled = jax.jit(lambda b: jax.tree.map(lambda x: x * 2, b))(batch)
    assert isinstance(doubled, Batch)
    assert np.array_equal(doubled.tokens, batch.tokens * 2)
    # transformations fill the tree with what is no array
    assert jax.tree.map(lambda _: None, batch).tokens is None
    assert [str(path[0]) for path, _ in jax.tree_util.tree_leaves_with_path(batch)] == [
        ".tokens",
        ".targets",
        ".weights",
        ".segments",
    ]


def test_a_seed_has_32_bits(bpe: Tokenizer):
    rows, spec = rows_of(bpe), BatchSpec(bpe)
    Batches(rows, spec, 2, 2**32 - 1).at(0)
    for kind in (Batches, ValidationBatches):
        with pytest.raises(UserError, match="seed = 4294967296: must be at most 4294967295"):
            kind(rows, spec, 2, seed=2**32)
