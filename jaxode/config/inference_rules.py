"""Which settings of `InferConfig` go together: what chooses the depth, what is fitted, what a task needs, ranges."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jaxode.config.checks import UserError, at_least, at_most, parse_frame, require
from jaxode.config.decoding import cache_rule, check_penalty
from jaxode.config.fields import Steps, fit
from jaxode.config.mesh import InferMeshConfig
from jaxode.config.named_numbers import named_numbers
from jaxode.config.task_settings import ROW_FLAGS, check_settings, is_default

if TYPE_CHECKING:
    from jaxode.config.inference import InferConfig

BOUNDS = ("max_loss_increase", "max_label_flips", "max_error")
CHOICES = ("budget", *BOUNDS)
"""What chooses the depth in the place of `steps`."""


def check_inference(config: InferConfig) -> None:
    """Refuse what is out of range, and settings that contradict each other or that no part of the task reads.

    Raises:
        UserError: one of them; it says which, and what to do.
    """
    for check in (check_settings, _depth, _fit, _ranges, _named, _devices, _task, _text, _at, _compare):
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
    require(
        is_default(config, "confidence") or bool(config.bound),
        f"confidence = {config.confidence}: is that of {', '.join(BOUNDS[:-1])} or {BOUNDS[-1]}; give one of them, or "
        "leave it out",
    )
    require(config.loops is None or config.loops >= 1, f"loops = {config.loops}: must be at least 1")


def _chosen_depth(config: InferConfig, name: str) -> None:
    """What names the depth itself cannot stand beside one of `CHOICES`, which choose it."""
    given = f"{name} = {getattr(config, name)}"
    for knob, free in (("solver", ("auto",)), ("schedule", ("auto", "even"))):
        value = getattr(config, knob)
        require(value in free, f"{given} with {knob} = {value}: both choose the solver; give one of them")


def _fit(config: InferConfig) -> None:
    """What calibrate fits."""
    for name in ("adapters", "updates"):
        at_least(name, getattr(config, name), 0)
        at_most(name, getattr(config, name), 65_536, "more would not fit in any model or day")
    require(
        not config.adapters or config.updates > 0,
        f"adapters = {config.adapters} with updates = 0: they are fitted by updates; give some, or leave them out",
    )


def _ranges(config: InferConfig) -> None:
    """Numbers that stand alone."""
    for name in ("max_new_tokens", "top"):
        at_least(name, getattr(config, name), 1)
    if config.batches is not None:
        at_least("batches", config.batches, 1)
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
    """What a task needs."""
    require(
        config.task != "calibrate" or config.steps is not None,
        "task = calibrate needs --steps: how many steps to fit",
    )
    require(config.task != "export" or bool(config.out), "task = export needs --out: the folder to write")
    require(config.task != "score" or bool(config.file), "task = score needs --file: the text file to score")
    for task in ("classify", "encode"):
        require(config.task != task or bool(config.file), f"task = {task} needs --file: texts, one a line")
    require(
        config.task != "encode" or config.out.endswith(".npz"),
        f'out = "{config.out}" with task = encode: name the file for the vectors, such as --out vectors.npz',
    )


def _text(config: InferConfig) -> None:
    """How a text is read; what "auto" stands for is checked once the model is known."""
    parse_frame("frame", config.frame)
    at_least("stride", config.stride, 0)
    for name in ("stride", "batches"):
        require(
            not config.lines or is_default(config, name) or (name == "batches" and bool(config.bound)),
            f"{name} = {getattr(config, name)} with lines: counts where score reads a file as a whole; leave it out",
        )
    for name in ROW_FLAGS:
        require(
            config.task != "score" or config.lines or is_default(config, name),
            f"{name} = {getattr(config, name)} with task = score: counts for it with --lines; leave it out",
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
    require(config.steps is None, f"{name} and steps = {config.steps} both choose the depth: give one of them")
    _counts("at", config.at)


def _compare(config: InferConfig) -> None:
    """Step counts of continuations."""
    if not config.compare:
        return
    name = f'compare = "{config.compare}"'
    for other in ("steps", *CHOICES):
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
