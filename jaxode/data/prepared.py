"""From a DataConfig to batches: documents, tokenizer and packed rows, each kept in the cache under its fingerprint."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jaxode.config import DataConfig, UserError, require
from jaxode.config.mixture import Share
from jaxode.config.places import cache_root
from jaxode.data.batches import Batches, BatchSpec, Kind, ValidationBatches
from jaxode.data.components import corpora_of, naming
from jaxode.data.corpora import Corpus, open_corpus
from jaxode.data.encoding import Counter, encoded
from jaxode.data.identity import Identity, IdentityCounter, SplitIdentity, of_mixture
from jaxode.data.mixture import Mixture, Together
from jaxode.data.notices import notice
from jaxode.data.packing import Answered, Row, pack, pack_texts
from jaxode.data.pretrained_tokenizers import find_tokenizer
from jaxode.data.stats import SplitStats, added
from jaxode.data.stores import FORMAT, SPLITS, hold, make_folder, read, write_rows
from jaxode.data.streams import StreamRows, write_stream
from jaxode.data.tasks import asked
from jaxode.data.tokenizers import Tokenizer, require_unicode
from jaxode.data.vocabulary import own_tokenizer

_STATS_FILE = "stats.json"
_IDENTITY_FILE = "identity.json"
_STREAM_FILE = "{}.tokens"


@dataclass(frozen=True)
class PreparedData:
    """A corpus ready to train on."""

    corpus: str
    tokenizer: Tokenizer
    length: int
    spec: BatchSpec
    stats: Mapping[str, SplitStats]
    """By split: train, validation."""
    train_rows: Sequence[Mapping[str, Any]]
    validation_rows: Sequence[Mapping[str, Any]]
    identity: Identity
    """Which text it is, by split."""
    edited: bool = False
    """Whether a run may go on over another text than it began with."""

    def bytes_per_token(self, split: str) -> float | None:
        """Turns nats per token into bits per byte; None where a part of the text only is predicted: by a masked model,
        of answers alone, or of texts that were cut.
        """
        stats = self.stats[split]
        whole = self.spec.kind == "causal" and not self.spec.answer_after and not stats.cut
        return 1.0 / stats.tokens_per_byte if whole else None

    def train(self, batch_size: int, seed: int, part: tuple[int, int] = (0, 1)) -> Batches:
        """Endless shuffled batches, or of each a `part`.

        Raises:
            UserError: the training split does not fill one batch.
        """
        rows, needed = len(self.train_rows), batch_size * self.length
        require(
            rows >= batch_size,
            f"{self.corpus}: the training split has {self.stats['train'].tokens} tokens = {rows} rows of length "
            f"{self.length}, one batch of {batch_size} rows needs {needed} tokens: lower train.batch_size or "
            "model.length, or give more text",
        )
        held = self.train_rows
        held = Mixture(held.shares, list(map(hold, held.parts))) if isinstance(held, Mixture) else hold(held)
        return Batches(held, self.spec, batch_size, seed, self.identity, self.edited, part)

    def validation(self, batch_size: int, limit: int | None = None, seed: int = 0) -> ValidationBatches:
        """One pass over the validation split, or over its first `limit` batches; iterate it as often as needed."""
        return ValidationBatches(self.validation_rows, self.spec, batch_size, limit, seed)


def cache_folder(data: DataConfig) -> Path:
    """Where prepared data lives: `data.cache`, else the cache folder of this machine."""
    return Path(data.cache).expanduser() if data.cache else cache_root()


def prepare(
    data: DataConfig, length: int, kind: Kind, progress: bool = True, tokenizer: Tokenizer | None = None
) -> PreparedData:
    """Read, tokenise and pack the corpus that `data` names into rows of `length` + 1 tokens; of whole texts the last
    one of a row is padding. A stream of tokens is kept once for rows of any length.

    The first call works and fills the cache; later ones open it. A given `tokenizer` (that of a finished run, say)
    takes the place of `data.tokenizer`. `progress` shows bars where standard error is a terminal.

    Raises:
        UserError: whatever in `data`, its files or its tokenizer cannot be used.
    """
    cache = cache_folder(data)
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"data.cache = {cache}: cannot be made ({error.strerror}); choose another folder") from None
    if tokenizer is None and data.tokenizer not in ("bpe", "bytes"):
        # before the corpus is read: a wrong name should not cost minutes
        tokenizer = find_tokenizer(data.tokenizer)
    if tokenizer is not None:
        BatchSpec.of(data, tokenizer, kind, length)
    components = corpora_of(data)
    corpora = []
    for share, alone in components:
        with naming(share, data):
            corpora.append(open_corpus(alone, cache, progress))
    if tokenizer is None:
        weights = [share.weight for share, _ in components]
        tokenizer = own_tokenizer(data, list(zip(corpora, weights, strict=True)), cache, progress)
    spec = BatchSpec.of(data, tokenizer, kind, length)
    parts = []
    for corpus, (share, alone) in zip(corpora, components, strict=True):
        with naming(share, data):
            parts.append(_of_corpus(alone, corpus, spec, length, cache, progress))
    return _mixed(data, [share for share, _ in components], parts) if data.mixture else parts[0]


def _mixed(data: DataConfig, shares: Sequence[Share], parts: Sequence[PreparedData]) -> PreparedData:
    identity = {
        of_mixture(split, number): part.identity[split]
        for number, part in enumerate(parts, start=1)
        for split in part.identity
    }
    return PreparedData(
        corpus=data.corpus,
        tokenizer=parts[0].tokenizer,
        length=parts[0].length,
        spec=parts[0].spec,
        stats={split: added([part.stats[split] for part in parts]) for split in SPLITS},
        train_rows=Mixture(shares, [part.train_rows for part in parts]),
        validation_rows=Together([part.validation_rows for part in parts]),
        identity=identity,
        edited=data.edited,
    )


def _of_corpus(
    data: DataConfig, corpus: Corpus, spec: BatchSpec, length: int, cache: Path, progress: bool
) -> PreparedData:
    """The rows of one corpus, from the cache where it has them."""
    tokenizer = spec.tokenizer
    if data.asks:
        for one in asked(data):
            longest = max(map(len, tokenizer.encode_batch(one.texts)))
            require(
                longest <= length,
                f"data.task, difficulty {one.difficulty}: a question with its answer has {longest} tokens, the model "
                f"reads model.length = {length}: raise that, or leave the difficulty out",
            )

    def fill(folder: Path) -> None:
        texts = {"train": corpus.train, "validation": corpus.validation}
        identities = {split: IdentityCounter(len(texts[split]), texts[split].source) for split in SPLITS}
        counts = {split: Counter(identities[split], spec.around, length) for split in SPLITS}

        def texts_of(split: str) -> Iterator[Answered]:
            return encoded(texts[split], spec, counts[split], split, progress, texts[split].source)

        if spec.around is None:
            for split in SPLITS:
                ids = (text.ids for text in texts_of(split))
                write_stream(folder / _STREAM_FILE.format(split), ids, tokenizer.end_id, tokenizer.vocab_size)
        else:
            rows = ((split, row) for split in SPLITS for row in _packed(texts_of(split), spec, length))
            write_rows(folder, rows, length, bool(spec.answer_after))
        stats = {split: asdict(counts[split].stats()) for split in SPLITS}
        identity = {split: asdict(identities[split].identity()) for split in SPLITS}
        for name, content in ((_STATS_FILE, stats), (_IDENTITY_FILE, identity)):
            (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

    def rows_of(split: str) -> Sequence[Mapping[str, Any]]:
        if spec.around is None:
            path = folder / _STREAM_FILE.format(split)
            return StreamRows(path, length, tokenizer.vocab_size, tokenizer.pad_id)
        return read(folder, split)

    key = f"{data.corpus.replace('/', '-')}-{corpus.fingerprint}-{tokenizer.fingerprint}-{FORMAT}"
    if spec.around is not None:
        before, after = spec.around
        key += f"-{length}-texts-" + "-".join(map(str, [*before, "text", *after]))
    if spec.answer_after:
        key += f"-after-{spec.answer_after.encode().hex()}"
    folder = make_folder(cache / "rows" / key, fill)
    stats, identity = (
        json.loads((folder / name).read_text(encoding="utf-8")) for name in (_STATS_FILE, _IDENTITY_FILE)
    )
    for split in SPLITS:
        for note in SplitStats(**stats[split]).notes(length):
            notice(f"{data.corpus}, {split}: {note}")
    return PreparedData(
        corpus=data.corpus,
        tokenizer=tokenizer,
        length=length,
        spec=spec,
        stats={split: SplitStats(**stats[split]) for split in SPLITS},
        train_rows=rows_of("train"),
        validation_rows=rows_of("validation"),
        identity={split: SplitIdentity.read(identity[split]) for split in SPLITS},
        edited=data.edited,
    )


@dataclass(frozen=True)
class ScoredText:
    """One text packed as the corpora are, for scoring."""

    batches: ValidationBatches
    stats: SplitStats


def text_batches(
    text: str | Sequence[str], spec: BatchSpec, length: int, batch_size: int, limit: int | None = None, seed: int = 0
) -> ScoredText:
    """Pack a text, or several documents, in memory, without the cache.

    Raises:
        UserError: the text is empty.
    """
    texts = [text] if isinstance(text, str) else text
    require(any(part.strip() for part in texts), "the text to score is empty")
    require_unicode(texts)
    count = Counter(around=spec.around, length=length)
    ids = encoded(texts, spec, count, "text", progress=False, source=lambda i: f"text {i + 1}")
    rows = [row.features for row in _packed(ids, spec, length)]
    return ScoredText(ValidationBatches(rows, spec, batch_size, limit, seed), count.stats())


def _packed(texts: Iterator[Answered], spec: BatchSpec, length: int) -> Iterator[Row]:
    pad_id = spec.tokenizer.pad_id
    if spec.around is None:
        return pack((text.ids for text in texts), length, spec.tokenizer.end_id, pad_id)
    return pack_texts((text if spec.answer_after else text.ids for text in texts if text.ids), length, pad_id)
