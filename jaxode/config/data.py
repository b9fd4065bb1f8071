"""Which text a run learns, and how it becomes rows."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Annotated, Literal

from jaxode.config.checks import parse_frame, require
from jaxode.config.fields import Most, Place, check_fields
from jaxode.config.mixture import parse_mixture
from jaxode.config.task import TASKS_PREFIX, TaskConfig

_OF_PLAIN_TEXT = ("text_key", "separator", "rows", "answer_after", "document_mask", "mask_fraction")
"""Fields that labelled texts are not read by."""


@dataclass(frozen=True)
class DataConfig:
    """Which text, which tokenizer, how it is packed."""

    corpus: str = "stdlib"
    """stdlib (embedded) | files | wikitext-2 | books | tinyshakespeare (folders in root) | tasks/NAME (questions made
    by the program: p-hop, s3, s5, parity, rule-30, addition, reachable; rows are "texts", answers alone are predicted)
    | a TFDS text set by name | the name that a plug-in brings (`--plugins`)."""
    task: TaskConfig = field(default_factory=TaskConfig)
    """Of a corpus tasks/NAME, which questions."""
    files: Place = ""
    """Glob of text files, a file or a folder (.txt .md .py .jsonl, also .gz .xz, and .parquet); giving it selects
    corpus "files". Names that begin with train and validation tell the splits."""
    mixture: tuple[str, ...] = ()
    """Several corpora at once, each with its weight: "stdlib=1" "wiki/*.parquet=2.5". Before the last "=" stands the
    name of a corpus, or files as in `files`; a corpus has its weight's share of the rows, and so of the tokens."""
    root: Place = ""
    """Folder that holds the named corpora; the variable JAXODE_DATA when empty."""
    separator: str = ""
    """A line that ends a document inside a text file; empty: each file is one document."""
    lines: bool = False
    """Each line of a text file is a document; blank ones are passed over."""
    text_key: str = "text"
    """Field of a jsonl line or of a TFDS example, or column of a Parquet file, that holds the text."""
    train: Place = ""
    """Labelled texts of a classifier: a table (.tsv, .csv, .parquet), JSON lines, or the name of a TFDS set
    (glue/sst2); of a token_classifier JSON lines or Parquet with lists of words and labels, a word and its label a line
    as CoNLL has them, or a TFDS set of such (conll2003)."""
    valid: Place = ""
    """The same to measure on; when empty the TFDS set's own validation split, or a part of `train`, as valid_fraction
    says."""
    text: str = ""
    """Column of the texts in both, by name or by number from 1; when empty one of a common name (text, sentence,
    sentence1, premise, ..)."""
    pair: str = ""
    """Column of second texts, of pairs; when empty one of a common name (sentence2, hypothesis, ..)."""
    label: str = ""
    """Column of the labels; when empty one of a common name (label, class, ..)."""
    header: Literal["auto", "yes", "no"] = "auto"
    """Whether their first line names the columns; auto: where it holds a name that is looked for."""
    quotes: Literal["auto", "yes", "no"] = "auto"
    """Whether their cells may stand in quotation marks; auto: in .csv."""
    class_weights: Literal["none", "balanced"] = "none"
    """balanced: a text counts by one over how often its label is in the training texts, 1 in the mean; of a choice of
    one label."""
    valid_fraction: float = 0.05
    """Share of documents held out for validation where the corpus brings no validation split."""
    tokenizer: Place = "bpe"
    """bpe (byte-level, trained on the corpus) | bytes | name or folder of a Hugging Face tokenizer, or the folder
    "tokenizer" of a run or a shipped model."""
    vocab_size: Annotated[int, Most(1_000_000)] = 2048
    """Size of the vocabulary that "bpe" learns; other tokenizers bring their own."""
    rows: Literal["stream", "texts"] = "stream"
    """stream: documents end to end, cut into rows of model.length tokens; texts: documents stay whole (longer ones are
    cut), several in a row, each read as if it stood alone: places from 0, attention within."""
    frame: str = ""
    """With rows "texts", what stands around every document: two entries of the vocabulary such as `[CLS] [SEP]`, or
    "none"; when empty what the model's own tokenizer puts there."""
    answer_after: str = ""
    """With rows "texts": of every text what ends with the first of these marks ("=", "Answer:") is read, and only what
    comes behind it is predicted. Empty: all of it is."""
    document_mask: bool = False
    """Keep attention within a document of a packed row; of rows "texts" it always is."""
    mask_fraction: float = 0.15
    """Masked models: share of tokens to predict (80% [MASK], 10% random, 10% kept; Devlin et al. 2019, section 3.1)."""
    cache: Place = ""
    """Folder for prepared corpora and tokenizers; JAXODE_CACHE or ~/.cache/jaxode when empty."""
    edited: bool = False
    """Resume a run although its text was changed; otherwise that is refused."""

    def __post_init__(self) -> None:
        check_fields(self, "data")
        if self.files and self.corpus == "stdlib":
            object.__setattr__(self, "corpus", "files")
        if self.mixture and self.corpus == "stdlib":
            object.__setattr__(self, "corpus", "mixture")
        require(
            bool(self.mixture) == (self.corpus == "mixture"),
            f'data.mixture = {list(self.mixture)} with data.corpus = "{self.corpus}": a mixture names its corpora '
            "itself; leave data.corpus and data.files out, or the mixture",
        )
        parse_mixture("data.mixture", self.mixture)
        require(
            self.corpus != "files" or bool(self.files), 'data.files is empty: corpus "files" needs a glob of text files'
        )
        require(
            not self.files or self.corpus == "files",
            f'data.files = "{self.files}" together with data.corpus = "{self.corpus}": give one of them',
        )
        require(
            not (self.lines and self.separator),
            f'data.lines = true with data.separator = "{self.separator}": documents are lines, or end at such lines; '
            "give one of them",
        )
        require(
            not self.lines or self.corpus in ("files", "mixture"),
            f'data.lines = true with data.corpus = "{self.corpus}": it belongs to text files of your own (data.files)',
        )
        if self.asks:
            require(
                self.tokenizer != "bpe",
                f'data.tokenizer = "bpe" with data.corpus = "{self.corpus}": a question is digits and letters one by '
                'one; set data.tokenizer = "bytes"',
            )
            require(
                self.answer_after in ("", "="),
                f'data.answer_after = "{self.answer_after}" with data.corpus = "{self.corpus}": an answer stands '
                'behind "=" there; leave it out',
            )
        parse_frame("data.frame", self.frame)
        for name, plain in (
            ("valid", ""),
            ("text", ""),
            ("pair", ""),
            ("label", ""),
            ("header", "auto"),
            ("quotes", "auto"),
        ):
            require(
                bool(self.train) or getattr(self, name) == plain,
                f"data.{name} = {getattr(self, name)} without data.train: it belongs to labelled texts; name them",
            )
        require(
            not self.train or (not self.files and self.corpus == "stdlib"),
            f'data.train = "{self.train}" with data.corpus = "{self.corpus}", data.files = "{self.files}": '
            "labelled texts, or text without labels",
        )
        require(
            bool(self.train) or self.class_weights == "none",
            f'data.class_weights = "{self.class_weights}" without data.train: it belongs to labelled texts',
        )
        for one in fields(self):
            value = getattr(self, one.name)
            require(
                not self.train or one.name not in _OF_PLAIN_TEXT or value == one.default,
                f"data.{one.name} = {value} with data.train: it belongs to text without labels; leave it out",
            )
        require(
            not self.frame or self.whole_texts or bool(self.train),
            f'data.frame = "{self.frame}" with data.rows = "{self.rows}": only whole texts stand within one; set '
            'data.rows = "texts"',
        )
        require(
            not self.answer_after or self.whole_texts,
            f'data.answer_after = "{self.answer_after}" with data.rows = "{self.rows}": only whole texts have a part '
            'that is not predicted; set data.rows = "texts"',
        )
        require(
            self.asks or self.task == TaskConfig(),
            f'data.task with data.corpus = "{self.corpus}": it belongs to a corpus "{TASKS_PREFIX}NAME"; leave it out',
        )
        require(0.0 < self.valid_fraction <= 0.5, f"data.valid_fraction = {self.valid_fraction}: must lie in (0, 0.5]")
        require(0.0 < self.mask_fraction < 1.0, f"data.mask_fraction = {self.mask_fraction}: must lie in (0, 1)")
        require(
            self.vocab_size >= 300,
            f"data.vocab_size = {self.vocab_size}: must be at least 300 (256 bytes and the special tokens); "
            'for raw bytes use data.tokenizer = "bytes"',
        )

    @property
    def asks(self) -> bool:
        """Whether the corpus is questions that the program makes (tasks/NAME)."""
        return self.corpus.startswith(TASKS_PREFIX)

    @property
    def whole_texts(self) -> bool:
        """Whether documents stay whole: as `rows` says, and of questions always."""
        return self.rows == "texts" or self.asks

    @property
    def mark(self) -> str:
        """Behind which only what comes is predicted: `answer_after`, and of questions "="."""
        return "=" if self.asks else self.answer_after

    @property
    def apart(self) -> bool:
        """Whether attention stays within a document: as `document_mask` says, and of whole texts always."""
        return self.document_mask or self.whole_texts
