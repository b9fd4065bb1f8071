"""The task calibrate of infer.py: a solver fitted to the model's own weights, kept beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jaxode.calibration import Fit, calibrate, calibration_batches, save
from jaxode.config import InferConfig
from jaxode.data import Batch
from jaxode.evaluation.figures import table
from jaxode.inference.loading.loaded_model import LoadedModel
from jaxode.inference.tasks.measured_text import file_text, needed_corpus, tell
from jaxode.inference.tasks.output import Write


def fit_calibration(
    loaded: LoadedModel, config: InferConfig, batches: Sequence[Batch] | None, write: Write, note: Write
) -> None:
    assert config.steps is not None  # InferConfig refuses it
    if batches is None and config.file:
        text = file_text(loaded, config.file, config.most_batches)
        tell(text, note)
        batches = list(text.batches)
    elif batches is None:
        counted = {} if config.batches is None else {"batches": config.batches}
        batches = calibration_batches(needed_corpus(loaded), config.seed, **counted)
    # a post-norm network turns along depth: what follows its path starts far from where it ends
    turns = config.adapters > 0 and loaded.config.model.norm_position == "post"
    fit = Fit(form="unit" if turns else "step", adapters=config.adapters, updates=config.updates)
    done = calibrate(loaded, batches, config.steps, fit, progress=True)
    folder = Path(config.out) if config.out else loaded.calibration_folder
    path = save(folder, done, loaded.calibration_origin)
    quality = {name: getattr(done, name) for name in ("kl", "rise", "error", "distance", "plain")}
    row = {"steps": done.steps, "schedule": ",".join(map(str, done.schedule))}
    row |= {name: value for name, value in quality.items() if value is not None}
    row |= {"tokens": done.tokens, "seconds": done.seconds}
    write(table([row], list(row)) + "\n")
    unit = "sequence" if loaded.task == "classifier" else "token"
    what = f"kl and rise in nats per {unit} over"
    if done.error is not None:
        what = "relative error of the states to those of"
    elif done.distance is not None:
        what = "root mean square distance of the numbers from those of"
    kept = ""
    if done.keeps_plain:
        kept = "; plain steps come nearer than what was fitted, and are kept: give more text (--file, --batches)"
    note(
        f"{what} the full depth, on text held out of the fit (plain: of {done.steps} even steps by Euler's method)"
        f"{kept}; written: {path}"
    )
