"""Which settings of `InferConfig` go together: what a task reads, what chooses the depth, what is fitted, ranges."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jaxode.config.checks import UserError, at_least, at_most, parse_frame, require
from jaxode.config.decoding import cache_rule, check_penalty
from jaxode.config.fields import Steps, fit
from jaxode.config.mesh import InferMeshConfig
from jaxode.config.named_numbers import named_numbers

if TYPE_CHECKING:
    from jaxode.config.inference import InferConfig

BOUNDS = ("max_loss_increase", "max_label_flips", "max_error")
CHOICES = ("budget", *BOUNDS)
"""What chooses the depth in the place of `steps`."""

ROW_FLAGS = {"batch_size": None, "truncate": False, "frame": ""}
"""What counts where a text a line is read, and what else stands there."""

COLUMNS = {"text": "", "pair": "", "label": "", "header": "auto"}
"""Where in a table a classifier's texts and labels stand, and what is there where nothing is said."""

LABELLED = ("classify", "sweep", "report", "calibrate")
"""Tasks that read such a table; the last one no labels."""

READERS = {
    "prompt": ("generate", "fill", "bench"),
    "file": ("score", "classify", "encode", "sweep", "report", "calibrate"),
}
"""The tasks that read a text of each kind."""


def check_inference(config: InferConfig) -> None:
    """Refuse what is out of range, and settings that contradict each other or that no part of the task reads.

    Raises:
        UserError: one of them; it says which, and what to do.
    """
    for check in (_depth, _fit, _ranges, _named, _devices, _task, _text, _rows, _at, _compare):
        check(config)


def counts(text: str) -> tuple[int, ...]:
    """Whole numbers between commas."""
    return tuple(int(part) for part in text.split(",")) if text else ()


def _depth(config: InferConfig) -> None:
    """What chooses the number of steps."""
    require(
        config.steps is None or config.steps >= 1,
        f"steps = {config.steps}: must be at least 1 (None runs the model's full depth)",
    )
    given = [name for name in ("steps", *CHOICES) if getattr(config, name) is not None]
    require(len(given) <= 1, f"{' and '.join(given)} both choose the depth: give one of them")
    require(
        not config.bound_file or bool(config.bound),
        f"bound_file = {config.bound_file}: tests {', '.join(BOUNDS[:-1])} or {BOUNDS[-1]}; give one of them, "
        "or leave it out",
    )
    for name in given:
        if name != "steps":
            _chosen_depth(config, name)
    require(
        config.task != "calibrate" or config.steps is not None,
        "task = calibrate needs --steps: how many steps to fit",
    )
    require(
        config.budget is None or 0 < config.budget <= 1,
        f"budget = {config.budget}: a share of the block evaluations, above 0 and at most 1",
    )
    require(
        config.max_loss_increase is None or 0 < config.max_loss_increase < 1,
        f"max_loss_increase = {config.max_loss_increase}: nats per token, above 0 and below 1, where increases are cut "
        "off",
    )
    require(
        config.max_label_flips is None or 0 < config.max_label_flips < 1,
        f"max_label_flips = {config.max_label_flips}: a share of the labels, above 0 and below 1",
    )
    require(
        config.max_error is None or 0 < config.max_error < 1,
        f"max_error = {config.max_error}: a relative error, above 0 and below 1",
    )
    require(0 < config.confidence < 1, f"confidence = {config.confidence}: must lie between 0 and 1")
    require(config.loops is None or config.loops >= 1, f"loops = {config.loops}: must be at least 1")


def _chosen_depth(config: InferConfig, name: str) -> None:
    """What names the depth itself cannot stand beside one of `CHOICES`, which choose it."""
    given = f"{name} = {getattr(config, name)}"
    require(
        config.task not in ("sweep", "report", "calibrate", "export"),
        f"{given} with task = {config.task}: it chooses the depth of generate, fill, score, classify "
        "and encode alone; leave it out",
    )
    for knob, free in (("solver", ("auto",)), ("schedule", ("auto", "even"))):
        value = getattr(config, knob)
        require(value in free, f"{given} with {knob} = {value}: both choose the solver; give one of them")


def _fit(config: InferConfig) -> None:
    """What calibrate fits, and what report sets beside it."""
    require(
        not config.tuned or config.task == "report",
        f"tuned = {config.tuned} with task = {config.task}: only report sets another model beside this one; leave it "
        "out",
    )
    require(
        not config.controls or config.task == "report",
        f"controls = true with task = {config.task}: they belong to report; leave it out",
    )
    for name, free in (("adapters", 0), ("updates", 100)):
        value = getattr(config, name)
        at_least(name, value, 0)
        at_most(name, value, 65_536, "more would not fit in any model or day")
        require(
            value == free or config.task == "calibrate",
            f"{name} = {value} with task = {config.task}: only calibrate fits them; leave it out",
        )
    require(
        not config.adapters or config.updates > 0,
        f"adapters = {config.adapters} with updates = 0: they are fitted by updates; give some, or leave them out",
    )


def _ranges(config: InferConfig) -> None:
    """Numbers that stand alone."""
    for name in ("max_new_tokens", "top", "batches"):
        at_least(name, getattr(config, name), 1)
    at_least("temperature", config.temperature, 0.0)
    for name in ("top_k", "cache_share", "seed", "start_seed"):
        at_least(name, getattr(config, name), 0)
    require(0 < config.top_p <= 1, f"top_p = {config.top_p}: must lie in (0, 1]")
    require(0 <= config.min_p <= 1, f"min_p = {config.min_p}: must lie in [0, 1]")
    check_penalty(config.repetition_penalty)
    cache_rule(config.cache, config.cache_share)


def _named(config: InferConfig) -> None:
    """What names a part, whose names are known once plug-ins are loaded."""
    named_numbers("sampling", config.sampling, "typical:0.9")
    named_numbers("exit_rule", config.exit_rule, "state_change:0.03")
    for name, tasks in (("sampling", ("auto", "generate", "bench")), ("exit_rule", ("score",))):
        value = getattr(config, name)
        require(
            not value or config.task in tasks,
            f'{name} = "{value}" with task = {config.task}: counts for {", ".join(tasks)}; leave it out',
        )
    require(
        not config.exit_rule or not config.lines,
        f'exit_rule = "{config.exit_rule}" with lines: a file is scored as a whole with it; leave one of them out',
    )
    require(
        not config.sampling or config.temperature > 0,
        f'sampling = "{config.sampling}" with temperature = 0: the most likely token is taken, and nothing is left '
        "to choose from; leave one of them out",
    )


def _devices(config: InferConfig) -> None:
    """What runs on several."""
    if config.mesh == InferMeshConfig():
        return
    require(
        config.task in ("auto", "generate", "score") and not config.exit_rule,
        f"mesh of {' x '.join(map(str, config.mesh.sizes))} devices with task = {config.task}"
        f"{f', exit_rule = {config.exit_rule}' if config.exit_rule else ''}: only generate and plain score run on "
        "several; leave it out",
    )
    require(
        not config.speculative,
        "mesh with speculative: drafts are checked on one device; leave one of them out",
    )


def _task(config: InferConfig) -> None:
    """What a task needs, and what it has no use for."""
    require(
        config.task not in ("calibrate", "report") or (config.start, config.start_seed) == ("model", 0),
        f"start = {config.start} and start_seed = {config.start_seed} with task = {config.task}: what is fitted begins "
        "as the model says; leave them out",
    )
    require(config.task != "export" or bool(config.out), "task = export needs --out: the folder to write")
    require(
        not config.notes or config.task == "export",
        f"notes = {config.notes} with task = {config.task}: only export writes a card; leave it out",
    )
    require(config.task != "score" or bool(config.file), "task = score needs --file: the text file to score")
    for task in ("classify", "encode"):
        require(config.task != task or bool(config.file), f"task = {task} needs --file: texts, one a line")
    require(
        config.task in ("auto", "encode") or config.pooling == "mean",
        f"pooling = {config.pooling} with task = {config.task}: only encode pools states; leave it out",
    )
    require(
        config.task != "encode" or config.out.endswith(".npz"),
        f'out = "{config.out}" with task = encode: name the file for the vectors, such as --out vectors.npz',
    )


def _text(config: InferConfig) -> None:
    """Where the text comes from, and how it is read."""
    parse_frame("frame", config.frame)
    for name, readers in READERS.items():
        value = getattr(config, name)
        require(
            not value or config.task in ("auto", *readers),
            f'{name} = "{value}" with task = {config.task}: only {", ".join(readers)} read it; leave it out',
        )
    require(
        not config.lines or config.task == "score",
        f"lines with task = {config.task}: score alone reads a file line by line or as a whole (classify and encode "
        "read lines always); leave it out",
    )
    for name, plain in COLUMNS.items():
        value = getattr(config, name)
        require(
            value == plain or config.task in ("auto", *(LABELLED if name != "label" else LABELLED[:-1])),
            f"{name} = {value} with task = {config.task}: names a column of what a classifier reads; leave it out",
        )
    at_least("stride", config.stride, 0)
    require(
        not config.stride or (config.task == "score" and not config.lines),
        f"stride = {config.stride} with task = {config.task}{' and lines' if config.lines else ''}: rows overlap where "
        "score reads a file as a whole; leave it out",
    )
    require(
        not config.chat or config.task in ("auto", "generate", "bench"),
        f"chat with task = {config.task}: only generate and bench read a prompt that a chat template is for; leave "
        "it out",
    )


def _rows(config: InferConfig) -> None:
    """Batches of rows; what "auto" stands for is checked once the model is known."""
    if not config.by_line and config.task not in ("auto", "bench", "calibrate", "sweep", "report"):
        for name, free in ROW_FLAGS.items():
            value = getattr(config, name)
            require(
                value == free,
                f"{name} = {value} with task = {config.task}: counts for classify, encode, bench, score with "
                "--lines, and where a classifier or an encoder is measured; leave it out",
            )
    if config.batch_size is not None:
        at_least("batch_size", config.batch_size, 1)
        if config.task == "bench":
            at_most("batch_size", config.batch_size, 65_536, "each is a prompt, where other tasks have so many at most")


def _at(config: InferConfig) -> None:
    """Step counts of a sweep."""
    if not config.at:
        return
    name = f'at = "{config.at}"'
    require(
        config.task == "sweep",
        f"{name} with task = {config.task}: lists the steps of a sweep; give --task sweep, or one number as --steps",
    )
    require(config.steps is None, f"{name} and steps = {config.steps} both choose the depth: give one of them")
    _counts("at", config.at)


def _compare(config: InferConfig) -> None:
    """Step counts of continuations."""
    if not config.compare:
        return
    name = f'compare = "{config.compare}"'
    require(
        config.task in ("auto", "generate"),
        f"{name} with task = {config.task}: compares continuations of a prompt; leave it out"
        + (", or list the steps of a sweep with --at" if config.task == "sweep" else ""),
    )
    for other in ("steps", "budget", "max_loss_increase"):
        value = getattr(config, other)
        require(value is None, f"{name} and {other} = {value} both choose the depth: give one of them")
    require(
        not config.speculative,
        f"{name} with speculative: drafts are in few steps, and would be compared too; leave one of them out",
    )
    _counts("compare", config.compare)
    require(
        len(config.compare_steps) > 1,
        f"{name}: one count has nothing beside it; name another, or give it as --steps",
    )


def _counts(field: str, text: str) -> None:
    name = f'{field} = "{text}"'
    try:
        numbers = counts(text)
    except ValueError:
        raise UserError(f'{name}: must be whole numbers such as "12,6,4"') from None
    require(
        min(numbers) >= 1 and len(set(numbers)) == len(numbers),
        f'{name}: must be different numbers of at least 1, such as "12,6,4"',
    )
    for number in numbers:
        fit(Steps, number, field)
