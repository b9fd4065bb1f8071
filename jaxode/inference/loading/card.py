"""MODEL_CARD.md of an exported model, from what its run knows: data, size, losses, how to make it again."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxode.calibration import Calibration
from jaxode.checkpoint import TrainedModel
from jaxode.config import DataConfig
from jaxode.data.tasks import MARK, asked
from jaxode.evaluation.figures import read_csv
from jaxode.model.parameters import fingerprint, matmul_type

USES = {
    "causal": "GPT-like, continues text",
    "masked": "BERT-like, fills in [MASK]",
    "encoder": "without a head, gives vectors of texts",
    "classifier": "labels texts",
    "token_classifier": "labels words",
}
CALLS = {
    "causal": '--prompt "Once upon a time"',
    "masked": '--prompt "The [MASK] of the house."',
    "encoder": "--task encode --file TEXT --out vectors.npz",
    "classifier": "--task classify --file TEXT",
    "token_classifier": "--task classify --file TEXT",
}
MEASURED = ("solver", "schedule", "steps", "block_evaluations", "nats_per_token", "perplexity", "bits_per_byte", "rise")
MEASURED += ("error", "cosine")

_KINDS = {"causal": "A causal language model", "masked": "A masked language model", "encoder": "An encoder"}
_KINDS |= {"classifier": "A classifier", "token_classifier": "A classifier of words"}

NO_NOTES = "Nothing was said about the origin of the text and its licence: ask whoever trained the model."
MADE = "The questions and answers are made by the program: nobody's text, and no licence but jaxode's."
ANSWERS = (
    "Share of questions whose answer is right in every token, by difficulty, as the end of the run found it. None of "
    "them was trained on, but where there are too few to keep some back:"
)
NO_SWEEP = "Not measured; `python infer.py --task sweep` does."
SWEEP = "As the run's last sweep found it (by default on the validation split, in nats per token):"
FITS = {
    "rise": "Rise of the loss, and divergence from the full depth's predictions, in nats per {unit}",
    "error": "Error of the states, relative to the full depth's",
    "distance": "Root mean square distance of the numbers from the full depth's",
}
"""By what a calibration measures."""
LIMITS = """\
A small model for experiments with depth. It knows the text above and nothing else, reads {length} tokens at a time,
states falsehoods, and repeats the views of its sources. It was tuned to no instruction and to no standard of safety."""


def model_card(
    trained: TrainedModel, calibrations: Mapping[int, Calibration], folder: Path, notes: str = "", file: str = ""
) -> str:
    """The card as Markdown.

    Args:
        trained: a finished run.
        calibrations: its own.
        folder: where the exported model will lie; the last part is its name.
        notes: where the text comes from and its licence.
        file: that they were read from; empty without.
    """
    name, model = folder.name, trained.config.model
    task = trained.config.data.asks
    call = _question(trained.config.data) if task else CALLS[model.learns]
    sections = {
        f"# {name}": f"{_KINDS[model.learns]} of jaxode: the number of steps over its depth is chosen when it runs.\n\n"
        + _table(_facts(trained)),
        "## Use": _use(name, call, list(calibrations)),
        "## Text and licence": notes.strip() or (MADE if task else NO_NOTES),
        **(
            {"## Answers against depth": _answers(trained.run.path / "answers.csv")}
            if task
            else {"## Loss against depth": _losses(trained.run.path / "sweep.csv")}
        ),
        "## Calibrated steps": _fits(calibrations, "sequence" if model.learns == "classifier" else "token"),
        "## Limits": LIMITS.format(length=model.length),
        "## Make it again": _recipe(name, model.learns, list(calibrations), folder, file),
    }
    return "\n".join(f"{title}\n\n{text}\n" for title, text in sections.items())


def _facts(trained: TrainedModel) -> list[dict[str, str]]:
    model, train = trained.config.model, trained.config.train
    tokens = trained.step * train.batch_size * model.length
    blocks = {"full": "of one shared block", "none": "of a block each"}
    sharing = blocks.get(model.sharing, f"of {model.groups} blocks, shared by {model.sharing}")
    facts = {
        "kind": f"{model.learns} ({USES[model.learns]})",
        "parameters": f"{trained.model.num_parameters:,}, {np.dtype(matmul_type(trained.params)).name}",
        "depth": f"N = {model.steps} steps {sharing}",
        "width, heads, context": f"{model.width}, {model.heads}, {model.length} tokens",
        "tokenizer": f"{trained.own_tokenizer.name}, {trained.own_tokenizer.vocab_size} entries",
        "trained on": f"{_source(trained)}, {tokens:,} tokens in {trained.step} updates",
        "weights": f"fingerprint `{fingerprint(trained.params)}`",
    }
    return [{"": key, " ": value} for key, value in facts.items()]


def _source(trained: TrainedModel) -> str:
    data = trained.config.data
    return f"labelled texts `{Path(data.train).name}`" if data.train else f"corpus `{data.corpus}`"


def _question(data: DataConfig) -> str:
    """One of the task's, of the least difficulty, to be answered."""
    first = next(asked(dataclasses.replace(data, task=dataclasses.replace(data.task, tested=1)))).texts[0]
    question, _, answer = first.partition(MARK)
    return f'--prompt "{question}{MARK}" --max-new-tokens {len(answer)} --temperature 0'


def _use(name: str, call: str, steps: Sequence[int]) -> str:
    lines = [f"python infer.py --checkpoint {name} {call}"]
    if steps:
        lines.append(f"{lines[0]} --steps {steps[len(steps) // 2]}")
    return _code(lines)


def _losses(sweep: Path) -> str:
    rows = read_csv(sweep) if sweep.is_file() else []
    known = MEASURED if not rows or "nats_per_token" in rows[0] or "error" in rows[0] else tuple(rows[0])
    columns = [name for name in known if any(row.get(name) is not None for row in rows)]
    return f"{SWEEP}\n\n{_table([{name: row.get(name) for name in columns} for row in rows])}" if rows else NO_SWEEP


def _answers(sweep: Path) -> str:
    """A row a depth, a column a difficulty."""
    rows = read_csv(sweep) if sweep.is_file() else []
    lines: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in rows:
        depth = {name: row[name] for name in ("solver", "schedule", "steps", "block_evaluations")}
        lines.setdefault(tuple(depth.values()), depth)[f"{row['difficulty']}"] = float(row["exact"])
    return f"{ANSWERS}\n\n{_table(list(lines.values()))}" if lines else NO_SWEEP


def _fits(calibrations: Mapping[int, Calibration], unit: str) -> str:
    rows = [
        {
            "steps": one.steps,
            "schedule": " ".join(map(str, one.schedule)),
            "rise": one.rise,
            "divergence": one.kl,
            "error": one.error,
            "distance": one.distance,
        }
        for one in calibrations.values()
    ]
    if not rows:
        return "None."
    told = [name for name in rows[0] if any(row[name] is not None for row in rows)]
    said = next(FITS[name] for name in told if name in FITS).format(unit=unit)
    return f"{said}, on text not fitted on:\n\n{_table([{name: row[name] for name in told} for row in rows])}"


def _recipe(name: str, kind: str, steps: Sequence[int], folder: Path, file: str) -> str:
    run, text = f"runs/{name}", " --file TEXT" if kind == "classifier" else ""
    commands = [
        f"python train.py --config {folder}/config.toml --out {run}  # --data.root FOLDER where a named corpus lies",
        *(f"python infer.py --checkpoint {run} --task calibrate --steps {n}{text}" for n in steps),
        f"python infer.py --checkpoint {run} --task export --out {folder}{f' --notes {file}' if file else ''}",
    ]
    return f"`config.toml` holds every setting.\n\n{_code(commands)}"


def _code(lines: Sequence[str]) -> str:
    return "\n".join(["```bash", *lines, "```"])


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    columns = list(rows[0])
    lines = [columns, ["---"] * len(columns), *([_cell(row[name]) for name in columns] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: object) -> str:
    return "" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)
