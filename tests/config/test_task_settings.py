"""Which task reads which setting of infer.py: what it would pass over is refused, and nothing else is."""

import dataclasses
import typing

import pytest

from jaxode.config import InferConfig, UserError, parse
from jaxode.config.task_settings import READERS

TASKS = typing.get_args(typing.get_type_hints(InferConfig)["task"])
EVERY_TASK = {"checkpoint", "dtype", "loops", "task", "compiled", "plugins"}
RULES = {"bound_file", "confidence", "mesh"}
NEEDS = {
    "score": {"file": "f"},
    "classify": {"file": "f"},
    "encode": {"file": "f", "out": "v.npz"},
    "calibrate": {"steps": 2, "file": "f"},
    "export": {"out": "model"},
    "sweep": {"file": "f"},
    "report": {"file": "f"},
}
VALUES = {
    "out": "v.npz",
    "context": "refuse",
    "cache": "last",
    "sampling": "typical:0.9",
    "exit_rule": "state_change:0.03",
    "header": "yes",
    "quotes": "yes",
    "frame": "none",
    "pooling": "first",
    "start": "zeros",
    "at": "4,2",
    "compare": "4,2",
    "batch_size": 4,
    "batches": 4,
    "steps": 3,
    "adapters": 2,
    "budget": 0.5,
    "max_loss_increase": 0.1,
    "max_label_flips": 0.1,
    "max_error": 0.1,
    "top_p": 0.9,
}


def changed(name):
    default = getattr(InferConfig(), name)
    other = not default if isinstance(default, bool) else default + 1 if isinstance(default, int | float) else "a"
    return {name: VALUES.get(name, other)}


def test_every_setting_is_that_of_some_tasks_or_of_all():
    assert {field.name for field in dataclasses.fields(InferConfig)} == {*READERS, *EVERY_TASK, *RULES}
    assert {task for readers in READERS.values() for task in readers} | {"auto"} == set(TASKS)


@pytest.mark.parametrize("task", TASKS)
def test_a_task_takes_what_it_reads_and_nothing_else(task):
    for name, readers in READERS.items():
        lined = {"lines": True} if task == "score" and name in ("batch_size", "truncate", "frame") else {}
        values = {"task": task} | NEEDS.get(task, {}) | changed(name) | lined
        if task in (*readers, "auto"):
            InferConfig(**values)
            continue
        with pytest.raises(UserError, match=rf"^{name} = .* with task = {task}: only .*{readers[-1]} reads? it; "):
            InferConfig(**values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"task": "classify", "file": "a", "out": "b"},
            'out = "b" with task = classify: only encode, sweep, report, calibrate, export read it; leave it out',
        ),
        (
            {"task": "score", "file": "a", "speculative": True},
            "speculative = true with task = score: only generate reads it; give --task generate, or leave it out",
        ),
        (
            {"task": "fill", "notes": "a.md"},
            'notes = "a.md" with task = fill: only export reads it; give --task export, or leave it out',
        ),
        ({"task": "sweep", "label": "a"}, 'label = "a" with task = sweep: names a column of a table, and the run'),
        ({"task": "calibrate", "steps": 2, "header": "no"}, 'header = "no" with task = calibrate: names a column'),
        ({"confidence": 0.9}, "confidence = 0.9: is that of max_loss_increase, max_label_flips or max_error; give one"),
        ({"confidence": 0.9, "budget": 0.5}, "confidence = 0.9: is that of"),
        (
            {"task": "score", "file": "a", "lines": True, "batches": 2},
            "batches = 2 with lines: counts where score reads",
        ),
        ({"compare": "4,2", "max_error": 0.1}, 'compare = "4,2" and max_error = 0.1 both choose the depth'),
        ({"compare": "4,2", "max_label_flips": 0.1}, 'compare = "4,2" and max_label_flips = 0.1 both choose'),
        ({"task": "sweep", "batches": 0}, "batches = 0: must be at least 1"),
    ],
)
def test_what_is_passed_over_is_refused_in_one_line(values, message):
    with pytest.raises(UserError) as refusal:
        InferConfig(**values)
    assert str(refusal.value).startswith(message)


def test_a_bound_is_tested_on_batches_with_a_confidence():
    InferConfig(max_loss_increase=0.1, batches=4, confidence=0.9)
    InferConfig(task="score", file="a", lines=True, max_loss_increase=0.1, batches=4)


def test_a_setting_at_its_default_is_no_matter_to_any_task():
    plain = dataclasses.asdict(InferConfig())
    for task in TASKS:
        InferConfig(**(plain | NEEDS.get(task, {}) | {"task": task, "mesh": InferConfig().mesh}))


def test_a_file_may_hold_what_a_flag_names_the_task_for(tmp_path):
    path = tmp_path / "infer.toml"
    path.write_text('at = "4,2"\nbatches = 4\n')
    assert parse(InferConfig, ["--config", str(path), "--task", "sweep"]).at_steps == (4, 2)
