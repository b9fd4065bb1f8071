"""A trained run at work."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from jaxode.config.checks import parse_frame
from jaxode.config.fields import Place, Seed, Steps, check_fields
from jaxode.config.inference_rules import BOUNDS, check_inference, counts
from jaxode.config.mesh import InferMeshConfig


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
    """classify, and sweep, report and calibrate of a classifier, of a table (.tsv, .csv, .parquet) or JSON lines: the
    column of texts, by name or by number from 1; when empty one of a common name (text, sentence, sentence1, premise,
    ..)."""
    pair: str = ""
    """The column of second texts, where the model reads pairs; when empty one of a common name (sentence2, ..)."""
    label: str = ""
    """The column of labels, to say how often the model finds them; when empty labels are not looked at, but for sweep
    and report, which then read one of a common name (label, class, ..)."""
    header: Literal["auto", "yes", "no"] = "auto"
    """Whether the table's first line names its columns; auto: where it holds a name that is looked for."""
    quotes: Literal["auto", "yes", "no"] = "auto"
    """Whether the table's cells may stand in quotation marks; auto: in .csv."""
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
    """Nats per token over the full depth's loss, below 1, where increases are cut off; chooses the fewest calibrated
    steps that keep it with `confidence`."""
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
    """Of the bound that chooses the depth."""
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
    batches: int | None = None
    """Batches that a sweep, a report, a calibration, or the test of a bound reads (32 when absent; a calibration on the
    run's text 20), and score of a whole file (all when absent)."""
    adapters: int = 0
    """calibrate: rank of low-rank changes of the block's matrices in each step, its weights frozen; 0 for none. Of a
    post-norm model the fit then begins at the trained block applied n times."""
    updates: int = 100
    """calibrate: updates by gradient, a batch each in turn."""
    controls: bool = False
    """report, sweep: also what k of the N applications give when later ones are left out, repeated or alone, or when
    the read-out is refitted on other text; k are the steps that are compared."""
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
        check_inference(self)

    @property
    def bound(self) -> str:
        """The name of the bound that chooses the depth; empty without one."""
        return next((name for name in BOUNDS if getattr(self, name) is not None), "")

    @property
    def most_batches(self) -> int:
        """`batches`, after resolving None: 32."""
        return 32 if self.batches is None else self.batches

    @property
    def by_line(self) -> bool:
        """Whether each line of `file` is a text of its own."""
        return self.task in ("classify", "encode") or self.lines

    @property
    def text_frame(self) -> bool | tuple[str, str] | None:
        """`frame` as functions on texts take it."""
        return parse_frame("frame", self.frame)

    @property
    def at_steps(self) -> tuple[int, ...]:
        """`at` as numbers."""
        return counts(self.at)

    @property
    def compare_steps(self) -> tuple[int, ...]:
        """`compare` as numbers."""
        return counts(self.compare)
