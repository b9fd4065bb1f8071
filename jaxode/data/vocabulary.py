"""The vocabulary of a run that brings none: learned from its corpora, kept in the cache. Imports no jax."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from tqdm import tqdm

from jaxode.config import DataConfig
from jaxode.data.byte_level import byte_tokenizer, train_bpe
from jaxode.data.corpora import Corpus, Texts
from jaxode.data.stores import FORMAT, make_folder
from jaxode.data.tokenizers import Tokenizer

TRAINING_CHARACTERS = 50_000_000
"""A BPE vocabulary is learned from about this much text, taken evenly from a larger corpus."""


def own_tokenizer(data: DataConfig, corpora: Sequence[tuple[Corpus, float]], cache: Path, progress: bool) -> Tokenizer:
    """The vocabulary that `data` names, learned from each corpus in the share of its weight."""
    if data.tokenizer == "bytes":
        return byte_tokenizer()
    total = sum(weight for _, weight in corpora)

    def fill(folder: Path) -> None:
        # validation text stays out of the vocabulary
        chosen: list[tuple[Texts, range]] = []
        for corpus, weight in corpora:
            every = max(1, round(_characters(corpus.train) * total / weight / TRAINING_CHARACTERS))
            chosen.append((corpus.train, range(0, len(corpus.train), every)))
        count, off = sum(len(places) for _, places in chosen), None if progress else True
        with tqdm(total=count, desc="training tokenizer", unit="doc", disable=off, leave=False) as bar:

            def sample() -> Iterator[str]:
                for texts, places in chosen:
                    for i in places:
                        yield texts[i]
                        bar.update()

            train_bpe(sample(), data.vocab_size).save(folder)

    name = "-".join(corpus.fingerprint for corpus, _ in corpora)
    if data.mixture:
        weights = [weight / total for _, weight in corpora]
        name = hashlib.sha256(json.dumps([name, weights]).encode()).hexdigest()[:16]
    name = f"{data.corpus.replace('/', '-')}-{name}-bpe-{data.vocab_size}-{FORMAT}"
    return Tokenizer.load(make_folder(cache / "tokenizers" / name, fill))


def _characters(texts: Texts) -> float:
    """Roughly: the mean of 200 documents spread evenly, times their number."""
    sample = texts[:: max(1, len(texts) // 200)]
    return len(texts) * sum(map(len, sample)) / len(sample)
