"""A long text has the ids that it has as a whole."""

import pytest
import tokenizers as hf
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from jaxode.data import BatchSpec, Tokenizer, byte_tokenizer, encoding, text_batches
from jaxode.data.encoding import encode_texts

TEXT = "".join(
    f"The quick brown fox no. {i} jumps over 3.{i} lazy dogs;  while{' ' * (i % 4)}\n{'漢字 é' * (i % 3)} it's dark.\n"
    for i in range(60)
)


def metaspace() -> Tokenizer:
    model = hf.Tokenizer(models.Unigram())
    model.pre_tokenizer = pre_tokenizers.Metaspace()
    model.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=150, special_tokens=["<e>", "<u>"], unk_token="<u>", show_progress=False
    )
    model.train_from_iterator([TEXT], trainer)
    return Tokenizer(model, "metaspace", 0, None, 0)


def whole_text() -> Tokenizer:
    """A text as one word, with a mark in front: a part of it would get a mark too."""
    model = hf.Tokenizer(models.BPE(unk_token="<u>"))
    model.normalizer = normalizers.Sequence([normalizers.Prepend("_"), normalizers.Replace(" ", "_")])
    trainer = trainers.BpeTrainer(vocab_size=120, special_tokens=["<e>", "<u>"], show_progress=False)
    model.train_from_iterator([TEXT[:500]], trainer)
    return Tokenizer(model, "whole", 0, None, 0)


@pytest.mark.parametrize("kind", ["bpe", "bytes", "metaspace", "whole"])
def test_parts_have_the_ids_of_the_whole(bpe: Tokenizer, monkeypatch: pytest.MonkeyPatch, kind: str):
    tokenizer = {"bpe": lambda: bpe, "bytes": byte_tokenizer, "metaspace": metaspace, "whole": whole_text}[kind]()
    want = tokenizer.encode_batch(["short", TEXT, "a b"])
    monkeypatch.setattr(encoding, "LONG", 200)
    parts = list(encoding._parts(tokenizer, TEXT))
    assert "".join(parts) == TEXT
    assert (len(parts) > 10) == (kind != "whole")
    assert [list(ids) for ids in encode_texts(tokenizer, ["short", TEXT, "a b"])] == want


def test_a_text_without_words_stays_whole(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(encoding, "LONG", 200)
    (ids,) = encode_texts(byte_tokenizer(), ["x" * 1000])
    assert len(ids) == 1000


def knows(*words: str) -> Tokenizer:
    """A vocabulary of whole words."""
    model = hf.Tokenizer(models.WordLevel({word: i for i, word in enumerate(("<e>", "<u>", *words))}, unk_token="<u>"))
    model.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return Tokenizer(model, "words", 0, None, 0)


@pytest.mark.parametrize("long", [10, 10_000])
def test_what_the_vocabulary_has_not_is_counted_and_told(monkeypatch: pytest.MonkeyPatch, long: int):
    monkeypatch.setattr(encoding, "LONG", long)
    texts = ["a b c", "c d a a a e", "a b a b a b"]
    stats = text_batches(texts, BatchSpec(knows("a", "b"), "causal"), length=4, batch_size=1).stats
    assert (stats.tokens, stats.unknown) == (18, 4)
    (note,) = stats.notes(4)
    assert note.startswith("4 of 18 tokens stand for pieces of text that the tokenizer does not know")
    known = text_batches(texts, BatchSpec(byte_tokenizer(), "causal"), length=4, batch_size=1).stats
    assert known.unknown == 0
    assert not list(known.notes(4))
