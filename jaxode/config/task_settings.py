"""Which tasks of `InferConfig` read which of its settings: the others refuse it, where it is not at its default."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from jaxode.config.checks import require

if TYPE_CHECKING:
    from jaxode.config.inference import InferConfig

LABELLED = ("classify", "sweep", "report", "calibrate")
"""Tasks that read texts of a table; the last one without their labels."""

MEASURED = ("score", "classify", "encode", "sweep", "report", "calibrate")
"""Tasks that read a file."""

DRAWN = ("generate", "bench")
CHOSEN = ("generate", "fill", "score", "classify", "encode", "bench")
SOLVED = (*CHOSEN, "sweep", "report")
"""Tasks that solve by what is named; before the last two, by what is chosen for them."""

DECODING: dict[str, tuple[str, ...]] = {
    "chat": DRAWN,
    "temperature": DRAWN,
    "top_k": DRAWN,
    "top_p": DRAWN,
    "min_p": DRAWN,
    "repetition_penalty": DRAWN,
    "sampling": DRAWN,
    "max_new_tokens": DRAWN,
    "context": DRAWN,
    "cache": DRAWN,
    "cache_share": DRAWN,
    "prefix": DRAWN,
    # bench tries drafts always
    "speculative": ("generate",),
    "compare": ("generate",),
}
"""What a continuation is drawn by."""

COLUMNS: dict[str, tuple[str, ...]] = {
    "text": LABELLED,
    "pair": LABELLED,
    "label": LABELLED[:-1],
    "header": LABELLED,
    "quotes": LABELLED,
}
"""Where in a table a classifier's texts and labels stand."""

ROW_FLAGS: dict[str, tuple[str, ...]] = dict.fromkeys(("batch_size", "truncate", "frame"), (*MEASURED, "bench"))
"""What counts where a text a line is read."""

READERS: dict[str, tuple[str, ...]] = {
    "prompt": ("generate", "fill", "bench"),
    "file": MEASURED,
    **COLUMNS,
    **ROW_FLAGS,
    **DECODING,
    "lines": ("score",),
    "stride": ("score",),
    "exit_rule": ("score",),
    "pooling": ("encode",),
    "steps": (*SOLVED, "calibrate"),
    "solver": SOLVED,
    "schedule": SOLVED,
    **dict.fromkeys(("budget", "max_loss_increase", "max_label_flips", "max_error"), CHOSEN),
    # what is fitted begins as the model says
    **dict.fromkeys(("start", "start_seed"), (*CHOSEN, "sweep")),
    "at": ("sweep",),
    "seed": ("generate", "classify", "encode", "sweep", "report", "calibrate", "bench"),
    "top": ("fill",),
    "batches": ("score", "sweep", "report", "calibrate"),
    "adapters": ("calibrate",),
    "updates": ("calibrate",),
    "controls": ("report", "sweep"),
    "tuned": ("report",),
    "out": ("encode", "sweep", "report", "calibrate", "export"),
    "notes": ("export",),
}
"""Setting -> the tasks that read it. Every task reads what is not here, or a rule of its own says which do."""


def check_settings(config: InferConfig) -> None:
    """Refuse what the task would pass over.

    Raises:
        UserError: a setting that is not at its default, and that another task reads.
    """
    # what it stands for is known with the model, and checked then; a TOML file is read before a flag names the task
    if config.task == "auto":
        return
    for name, readers in READERS.items():
        remedy = f"give --task {readers[0]}, or leave it out" if len(readers) == 1 else "leave it out"
        # a bound is tested on batches, whatever the task
        bounded = name == "batches" and bool(config.bound)
        require(
            config.task in readers or is_default(config, name) or bounded,
            f"{with_task(config, name)}: {only(readers)} it; {remedy}",
        )
    for name in COLUMNS:
        require(
            is_default(config, name) or bool(config.file) or config.task not in LABELLED,
            f"{with_task(config, name)}: names a column of a table, and the run's text is read where --file names "
            "none; name one, or leave it out",
        )


def check_no_decoding(config: InferConfig, model: str) -> None:
    """Refuse what only a continuation reads, of a model that continues nothing.

    Raises:
        UserError: a setting that is not at its default; `model` is what the line calls the model.
    """
    for name in DECODING:
        require(
            is_default(config, name),
            f"{with_task(config, name)}: {model} continues no text; leave it out",
        )


def is_default(config: InferConfig, name: str) -> bool:
    """Whether a setting is as it is where nothing is said."""
    return getattr(config, name) == next(field.default for field in dataclasses.fields(config) if field.name == name)


def only(tasks: tuple[str, ...]) -> str:
    """Subject and verb of who reads."""
    return f"only {', '.join(tasks)} read{'s' if len(tasks) == 1 else ''}"


def with_task(config: InferConfig, name: str) -> str:
    """How a refusal begins."""
    return f"{name} = {_quoted(getattr(config, name))} with task = {config.task}"


def _quoted(value: Any) -> str:
    """As TOML writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else str(value)
