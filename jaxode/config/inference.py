"""A trained run at work."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from jaxode.config.checks import UserError, at_least, at_most, parse_frame, require, within
from jaxode.config.fields import Place, Seed, Steps, check_fields, fit
from jaxode.config.mesh import InferMeshConfig
from jaxode.config.named_numbers import named_numbers

CHOICES = ("budget", "max_loss_increase", "max_label_flips", "max_error")
"""What chooses the depth in the place of `steps`."""

ROW_FLAGS = {"batch_size": None, "truncate": False, "frame": ""}
"""What counts where a text a line is read, and what else stands there."""

COLUMNS = {"text": "", "pair": "", "label": "", "header": "auto"}
"""Where in a table a classifier's texts and labels stand, and what is there where nothing is said."""

LABELLED = ("classify", "sweep", "report", "calibrate")
"""Tasks that read such a table; the last one no labels."""

MOST_SLOTS = 10_000
"""Slots of one block: more than any model has loops."""

READERS = {
    "prompt": ("generate", "fill", "bench"),
    "file": ("score", "classify", "encode", "sweep", "report", "calibrate"),
}
"""The tasks that read a text of each kind."""


@dataclass(frozen=True)
class InferConfig:
    """A trained run at work. Results go to standard output, everything else to standard error."""

    checkpoint: Place = ""
    """Run folder, exported model, name of a shipped model, or folder of a Hugging Face model with its tokenizer; when
    empty the newest run under runs/, or without one the shipped causal model (for [MASK] the masked one)."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of a Hugging Face model's weights and matmuls; auto: as its files hold them (an ALBERT's in float32)."""
    loops: Steps | None = None
    """N of a Hugging Face looped language model, in place of its config.json's: what counts as its full depth; more
    than it was trained with are allowed. (`steps` runs so many of them.)"""
    task: Literal[
        "auto", "generate", "fill", "score", "classify", "encode", "sweep", "report", "calibrate", "export", "bench"
    ] = "auto"
    """auto: generate (causal), fill (masked), classify or encode, by what the model is; score: perplexity of a file, or
    of each of its lines (`lines`); classify: the label of every line of a file; encode: a vector of every line, into
    `out`; sweep: quality and latency by steps;
    report: the same for every method of solving, at equal block evaluations, with the solves' norms along depth;
    calibrate: fit the solver to the full depth at `steps`, and keep it beside the checkpoint;
    bench: tokens a second (median and quartiles of runs in turn), time to the first token and block evaluations a
    token, at full depth, at every calibrated depth, and with drafts; bytes of the cache a token; of an encoder texts
    of 128 tokens a second;
    export: write a finished run as a small folder, which --checkpoint and jaxode.load read, to `out`."""
    prompt: str = ""
    """Text to continue; for a masked model, text with [MASK] where a token is to be filled in."""
    chat: bool = False
    """The prompt is what a user says: it stands within the chat template of the model's tokenizer."""
    file: Place = ""
    """Text file for score, classify, encode, sweep, report and calibrate; the run's own text when empty (for the last
    three). A classifier and an encoder read a text a line; sweep and report of a classifier a table of labelled texts,
    of one of words a word and its label a line."""
    text: str = ""
    """classify, and sweep, report and calibrate of a classifier, of a table (.tsv, .csv) or JSON lines: the column of
    texts, by name or by number from 1; when empty one of a common name (text, sentence, sentence1, premise, ..)."""
    pair: str = ""
    """The column of second texts, where the model reads pairs; when empty one of a common name (sentence2, ..)."""
    label: str = ""
    """The column of labels, to say how often the model finds them; when empty labels are not looked at, but for sweep
    and report, which then read one of a common name (label, class, ..)."""
    header: Literal["auto", "yes", "no"] = "auto"
    """Whether the table's first line names its columns; auto: where it holds a name that is looked for."""
    lines: bool = False
    """score: each line of the file is a text of its own, blank ones are passed over; a masked model gives its
    pseudo-log-likelihood, each token masked in turn."""
    stride: int = 0
    """score of a whole file, by a causal model: rows of model.length tokens move on by so many, and each predicts what
    is new in it, behind all that it holds before (a sliding window); 0: rows stand end to end (blocks), and the first
    tokens of each follow little."""
    batch_size: int | None = None
    """Rows that go through the model at once, of score with `lines`, classify and encode (32 when absent) and of bench
    (1). Where a model is calibrated by its states, rows of its length, each filled with lines (so many that a batch has
    about 1,024 tokens when absent)."""
    truncate: bool = False
    """Cut lines that are longer than the model reads, instead of refusing them."""
    frame: str = ""
    """What stands around every line: two entries of the vocabulary such as `[CLS] [SEP]`, or "none"; when empty what
    the model's own tokenizer puts there."""
    pooling: Literal["mean", "first", "none"] = "mean"
    """encode: the mean of a line's states, the first one, or the state of every token."""
    steps: Steps | None = None
    """Depth steps n; the model's N when absent."""
    at: str = ""
    """Step counts of a sweep, such as "12,6,4"; N, N/2, N/3, N/4 when empty."""
    compare: str = ""
    """generate: step counts such as "12,4", at each of which the same prompt is continued with the same seed; the
    texts, then block evaluations a token and tokens a second side by side."""
    budget: float | None = None
    """Share of the full depth's block evaluations; chooses the steps."""
    max_loss_increase: float | None = None
    """Nats per token over the full depth's loss; chooses the fewest calibrated steps that keep it with `confidence`."""
    max_label_flips: float | None = None
    """Share of a classifier's labels that may differ from those of the full depth; chooses the fewest calibrated steps
    that keep to it with `confidence`."""
    max_error: float | None = None
    """Relative error of an encoder's states: the root mean square of what they miss of those of the full depth, over
    that of these about their mean; chooses the fewest calibrated steps that keep it with `confidence`."""
    bound_file: Place = ""
    """Text that `max_loss_increase`, `max_label_flips` or `max_error` is tested on: lines for a classifier or an
    encoder, other ones than it was calibrated on; the run's validation text when empty."""
    confidence: float = 0.95
    solver: str = "auto"
    """auto: calibrated where the run holds a calibration for `steps`, else euler; or as depth.solver in training."""
    schedule: str = "auto"
    """auto: even steps, or what the model was made for; or as depth.schedule in training."""
    start: Literal["model", "zeros"] = "model"
    """Where depth begins: as the model says, or at 0 in the place of the noise that Huginn begins at."""
    start_seed: Seed = 0
    """Of that noise."""
    temperature: float = 0.8
    """0 takes the most likely token."""
    top_k: int = 0
    """Draw from the k most likely tokens; 0 from all."""
    top_p: float = 1.0
    """Draw from the fewest tokens that hold this probability together."""
    min_p: float = 0.0
    """Draw from tokens at least this share as likely as the most likely one."""
    repetition_penalty: float = 1.0
    """Makes tokens of the text so far less likely; 1 leaves them."""
    sampling: str = ""
    """Further methods after these, by name with their numbers, "typical:0.9": those of plug-ins, or greedy,
    temperature, top_k, top_p, min_p, repetition_penalty in an order of your own."""
    exit_rule: str = ""
    """score of a whole file: a token stops where a rule says so, by name with its threshold, "state_change:0.03":
    step_error, acceleration, state_change, divergence, confidence, patience, exit_gate, or a plug-in's; its threshold
    is as `jaxode.StateChange` and the others say."""
    speculative: bool = False
    """Draft tokens in few steps of the same model, calibrated where it is, and check them at the depth asked for: the
    same tokens at temperature 0, tokens of the same distribution else."""
    context: Literal["slide", "window", "refuse"] = "slide"
    """A token reads the last model.length tokens. slide: a text goes on beyond them, a prompt must fit; window: longer
    prompts are read that way too; refuse: prompt and new tokens must fit."""
    cache: str = "auto"
    """Keys and values of earlier tokens that a loop reads. loop: its own (exact; a slot each); last: those of the last
    loop; first: those of the first; modulo:k: of the newest loop whose number leaves the same rest by k (k slots);
    auto: what the model was made for, mostly loop. All but loop take less memory, and most models predict otherwise
    with them."""
    cache_share: int = 1
    """Neighbouring steps that share a slot of the cache; 0: all of them. Less memory, other predictions."""
    prefix: bool = False
    """Tokens of the prompt read each other both ways, as models with a prefix mask were trained to read instructions
    (HRM-Text); the text that follows is causal."""
    mesh: InferMeshConfig = field(default_factory=InferMeshConfig)
    """generate and score: the devices that the model lies on."""
    compiled: Place = ""
    """Folder for compiled programs, so that the next start is fast; when empty that of the variable JAXODE_COMPILED, or
    one in the cache folder (JAXODE_CACHE or ~/.cache/jaxode); "none" keeps none."""
    seed: Seed = 0
    max_new_tokens: int = 128
    top: int = 5
    """Candidates listed for each mask."""
    batches: int = 32
    """Batches that a sweep, a report, or a calibration on a file reads."""
    adapters: int = 0
    """calibrate: rank of low-rank changes of the block's matrices in each step, its weights frozen; 0 for none. Of a
    post-norm model the fit then begins at the trained block applied n times."""
    updates: int = 100
    """calibrate: updates by gradient, a batch each in turn."""
    controls: bool = False
    """report: also what k of the N applications give when later ones are left out, repeated or alone, or when the
    read-out is refitted on other text; k are the steps that the report compares."""
    tuned: Place = ""
    """report, of an encoder or a classifier: a run that was trained on from it; its states or labels, in every number
    of steps, beside this model's own at full depth."""
    out: Place = ""
    """Folder for the CSV and PNG files of a sweep or a report; the run folder when empty. Where to export, or to
    keep a calibration: when empty beside the weights, or for a model that jaxode did not make in the cache folder. Of
    encode the file, such as vectors.npz."""
    plugins: tuple[Place, ...] = ()
    """Files of Python (or entry points of installed packages) that bring parts of your own: docs/extending.md."""
    notes: Place = ""
    """Text file for the card of an exported model: where the text of the run comes from, and its licence."""

    def __post_init__(self) -> None:
        check_fields(self)
        require(
            self.steps is None or self.steps >= 1,
            f"steps = {self.steps}: must be at least 1 (None runs the model's full depth)",
        )
        given = [name for name in ("steps", *CHOICES) if getattr(self, name) is not None]
        require(len(given) <= 1, f"{' and '.join(given)} both choose the depth: give one of them")
        require(
            not self.bound_file or bool(self.bound),
            f"bound_file = {self.bound_file}: tests max_loss_increase, max_label_flips or max_error; give one of them, "
            "or leave it out",
        )
        for name in given:
            if name != "steps":
                self._check_chosen_depth(name)
        require(
            self.task != "calibrate" or self.steps is not None,
            "task = calibrate needs --steps: how many steps to fit",
        )
        require(
            self.budget is None or 0 < self.budget <= 1,
            f"budget = {self.budget}: a share of the block evaluations, above 0 and at most 1",
        )
        require(
            self.max_loss_increase is None or self.max_loss_increase > 0,
            f"max_loss_increase = {self.max_loss_increase}: nats per token, above 0",
        )
        require(
            self.max_label_flips is None or 0 < self.max_label_flips < 1,
            f"max_label_flips = {self.max_label_flips}: a share of the labels, above 0 and below 1",
        )
        require(
            self.max_error is None or 0 < self.max_error < 1,
            f"max_error = {self.max_error}: a relative error, above 0 and below 1",
        )
        require(0 < self.confidence < 1, f"confidence = {self.confidence}: must lie between 0 and 1")
        require(self.loops is None or self.loops >= 1, f"loops = {self.loops}: must be at least 1")
        for name in ("max_new_tokens", "top", "batches"):
            at_least(name, getattr(self, name), 1)
        self._check_fit()
        at_least("temperature", self.temperature, 0.0)
        for name in ("top_k", "cache_share"):
            at_least(name, getattr(self, name), 0)
        require(0 < self.top_p <= 1, f"top_p = {self.top_p}: must lie in (0, 1]")
        require(0 <= self.min_p <= 1, f"min_p = {self.min_p}: must lie in [0, 1]")
        check_penalty(self.repetition_penalty)
        self._check_named()
        cache_rule(self.cache, self.cache_share)
        at_least("seed", self.seed, 0)
        at_least("start_seed", self.start_seed, 0)
        require(
            self.task not in ("calibrate", "report") or (self.start, self.start_seed) == ("model", 0),
            f"start = {self.start} and start_seed = {self.start_seed} with task = {self.task}: what is fitted begins "
            "as the model says; leave them out",
        )
        require(
            self.mesh == InferMeshConfig() or (self.task in ("auto", "generate", "score") and not self.exit_rule),
            f"mesh of {' x '.join(map(str, self.mesh.sizes))} devices with task = {self.task}"
            f"{f', exit_rule = {self.exit_rule}' if self.exit_rule else ''}: only generate and plain score run on "
            "several; leave it out",
        )
        require(
            self.mesh == InferMeshConfig() or not self.speculative,
            "mesh with speculative: drafts are checked on one device; leave one of them out",
        )
        require(self.task != "export" or bool(self.out), "task = export needs --out: the folder to write")
        require(
            not self.notes or self.task == "export",
            f"notes = {self.notes} with task = {self.task}: only export writes a card; leave it out",
        )
        require(self.task != "score" or bool(self.file), "task = score needs --file: the text file to score")
        for task in ("classify", "encode"):
            require(self.task != task or bool(self.file), f"task = {task} needs --file: texts, one a line")
        self._check_encode()
        for name, readers in READERS.items():
            value = getattr(self, name)
            require(
                not value or self.task in ("auto", *readers),
                f'{name} = "{value}" with task = {self.task}: only {", ".join(readers)} read it; leave it out',
            )
        require(
            not self.lines or self.task == "score",
            f"lines with task = {self.task}: score alone reads a file line by line or as a whole (classify and encode "
            "read lines always); leave it out",
        )
        for name, plain in COLUMNS.items():
            value = getattr(self, name)
            require(
                value == plain or self.task in ("auto", *(LABELLED if name != "label" else LABELLED[:-1])),
                f"{name} = {value} with task = {self.task}: names a column of what a classifier reads; leave it out",
            )
        at_least("stride", self.stride, 0)
        require(
            not self.stride or (self.task == "score" and not self.lines),
            f"stride = {self.stride} with task = {self.task}{' and lines' if self.lines else ''}: rows overlap where "
            "score reads a file as a whole; leave it out",
        )
        require(
            not self.chat or self.task in ("auto", "generate", "bench"),
            f"chat with task = {self.task}: only generate and bench read a prompt that a chat template is for; leave "
            "it out",
        )
        # what "auto" stands for is checked once the model is known
        batched = self.by_line or self.task in ("auto", "bench", "calibrate", "sweep", "report")
        if not batched:
            for name, free in ROW_FLAGS.items():
                value = getattr(self, name)
                require(
                    value == free,
                    f"{name} = {value} with task = {self.task}: counts for classify, encode, bench, score with "
                    "--lines, and where a classifier or an encoder is measured; leave it out",
                )
        if self.batch_size is not None:
            at_least("batch_size", self.batch_size, 1)
            if self.task == "bench":
                at_most(
                    "batch_size", self.batch_size, 65_536, "each is a prompt, where other tasks have so many at most"
                )
        if self.at:
            self._check_at()
        if self.compare:
            self._check_compare()

    @property
    def bound(self) -> str:
        """The name of the bound that chooses the depth; empty without one."""
        return next((name for name in CHOICES[1:] if getattr(self, name) is not None), "")

    @property
    def by_line(self) -> bool:
        """Whether each line of `file` is a text of its own."""
        return self.task in ("classify", "encode") or self.lines

    @property
    def text_frame(self) -> bool | tuple[str, str] | None:
        """`frame` as functions on texts take it."""
        return parse_frame("frame", self.frame)

    def _check_encode(self) -> None:
        encodes = self.task in ("auto", "encode")
        require(
            encodes or self.pooling == "mean",
            f"pooling = {self.pooling} with task = {self.task}: only encode pools states; leave it out",
        )
        require(
            self.task != "encode" or self.out.endswith(".npz"),
            f'out = "{self.out}" with task = encode: name the file for the vectors, such as --out vectors.npz',
        )
        parse_frame("frame", self.frame)

    @property
    def at_steps(self) -> tuple[int, ...]:
        """`at` as numbers."""
        return _counts(self.at)

    @property
    def compare_steps(self) -> tuple[int, ...]:
        """`compare` as numbers."""
        return _counts(self.compare)

    def _check_named(self) -> None:
        """What names a part, whose names are known once plug-ins are loaded."""
        named_numbers("sampling", self.sampling, "typical:0.9")
        named_numbers("exit_rule", self.exit_rule, "state_change:0.03")
        for name, tasks in (("sampling", ("auto", "generate", "bench")), ("exit_rule", ("score",))):
            value = getattr(self, name)
            require(
                not value or self.task in tasks,
                f'{name} = "{value}" with task = {self.task}: counts for {", ".join(tasks)}; leave it out',
            )
        require(
            not self.exit_rule or not self.lines,
            f'exit_rule = "{self.exit_rule}" with lines: a file is scored as a whole with it; leave one of them out',
        )
        require(
            not self.sampling or self.temperature > 0,
            f'sampling = "{self.sampling}" with temperature = 0: the most likely token is taken, and nothing is left '
            "to choose from; leave one of them out",
        )

    def _check_fit(self) -> None:
        require(
            not self.tuned or self.task == "report",
            f"tuned = {self.tuned} with task = {self.task}: only report sets another model beside this one; leave it "
            "out",
        )
        require(
            not self.controls or self.task == "report",
            f"controls = true with task = {self.task}: they belong to report; leave it out",
        )
        for name, free in (("adapters", 0), ("updates", 100)):
            value = getattr(self, name)
            at_least(name, value, 0)
            at_most(name, value, 65_536, "more would not fit in any model or day")
            require(
                value == free or self.task == "calibrate",
                f"{name} = {value} with task = {self.task}: only calibrate fits them; leave it out",
            )
        require(
            not self.adapters or self.updates > 0,
            f"adapters = {self.adapters} with updates = 0: they are fitted by updates; give some, or leave them out",
        )

    def _check_at(self) -> None:
        name = f'at = "{self.at}"'
        require(
            self.task == "sweep",
            f"{name} with task = {self.task}: lists the steps of a sweep; give --task sweep, or one number as --steps",
        )
        require(self.steps is None, f"{name} and steps = {self.steps} both choose the depth: give one of them")
        self._check_counts("at")

    def _check_compare(self) -> None:
        name = f'compare = "{self.compare}"'
        require(
            self.task in ("auto", "generate"),
            f"{name} with task = {self.task}: compares continuations of a prompt; leave it out"
            + (", or list the steps of a sweep with --at" if self.task == "sweep" else ""),
        )
        for other in ("steps", "budget", "max_loss_increase"):
            value = getattr(self, other)
            require(value is None, f"{name} and {other} = {value} both choose the depth: give one of them")
        require(
            not self.speculative,
            f"{name} with speculative: drafts are in few steps, and would be compared too; leave one of them out",
        )
        self._check_counts("compare")
        require(
            len(self.compare_steps) > 1,
            f"{name}: one count has nothing beside it; name another, or give it as --steps",
        )

    def _check_counts(self, field: str) -> None:
        name = f'{field} = "{getattr(self, field)}"'
        try:
            counts = _counts(getattr(self, field))
        except ValueError:
            raise UserError(f'{name}: must be whole numbers such as "12,6,4"') from None
        require(
            min(counts) >= 1 and len(set(counts)) == len(counts),
            f'{name}: must be different numbers of at least 1, such as "12,6,4"',
        )
        for count in counts:
            fit(Steps, count, field)

    def _check_chosen_depth(self, name: str) -> None:
        """What names the depth itself cannot stand beside one of `CHOICES`, which choose it."""
        given = f"{name} = {getattr(self, name)}"
        require(
            self.task not in ("sweep", "report", "calibrate", "export"),
            f"{given} with task = {self.task}: it chooses the depth of generate, fill, score, classify "
            "and encode alone; leave it out",
        )
        for knob, free in (("solver", ("auto",)), ("schedule", ("auto", "even"))):
            value = getattr(self, knob)
            require(value in free, f"{given} with {knob} = {value}: both choose the solver; give one of them")


def _counts(text: str) -> tuple[int, ...]:
    """Whole numbers between commas."""
    return tuple(int(part) for part in text.split(",")) if text else ()


def cache_rule(cache: str, share: int = 1) -> tuple[str, int]:
    """The name of a rule for the cache over loops, and its number where it has one; else 0.

    Raises:
        UserError: an unknown rule, or one beside `cache_share`, which is a rule too.
    """
    name, _, number = cache.partition(":")
    plain = cache in ("auto", "loop", "last", "first")
    counted = name == "modulo" and number.isascii() and number.isdecimal() and 1 <= int(number) <= MOST_SLOTS
    require(
        plain or counted,
        f'cache = "{cache}": allowed are auto, loop, last, first and modulo:k with k from 1 to {MOST_SLOTS}, such as '
        '"modulo:2"',
    )
    require(
        cache == "auto" or share == 1,
        f'cache = "{cache}" with cache_share = {share}: both say which loops have a slot together; leave one out',
    )
    return (name, int(number)) if counted else (cache, 0)


def check_penalty(factor: float) -> None:
    """Refuse a repetition penalty with which logits of any model could leave float32.

    Raises:
        UserError: it lies outside [1e-30, 1e30].
    """
    require(factor > 0, f"repetition_penalty = {factor}: must be positive (1: none)")
    within("repetition_penalty", factor, 1e-30, 1e30)
