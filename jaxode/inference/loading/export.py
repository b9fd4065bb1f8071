"""A finished run as a folder that is small, loads fast and says what it is.

FOLDER/config.toml           every knob of the run, without its places on disk
FOLDER/tokenizer/
FOLDER/weights.safetensors   the parameters by name
FOLDER/calibration-n.json
FOLDER/checksums.json        of all these
FOLDER/MODEL_CARD.md
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from jaxode.calibration import Calibration, Origin, save, with_calibrations
from jaxode.checkpoint import RunFolder, TrainedModel, new_folder
from jaxode.checkpoint.best import read_best
from jaxode.checkpoint.made_by import read_record, write_record
from jaxode.config import require
from jaxode.data import documents
from jaxode.data.checksums import CHECKSUMS, files_below, write_checksums
from jaxode.inference.loading.card import model_card
from jaxode.model.parameters import without_calibrations
from jaxode.weights import WEIGHTS, Weights, write_weights

CARD = "MODEL_CARD.md"


def export(trained: TrainedModel, calibrations: Mapping[int, Calibration], folder: Path, notes: str = "") -> Path:
    """Write a finished run as an exported model, which `load` and `load_run` read as they read the run.

    Args:
        trained: as `load_run` gives it.
        calibrations: those of the run's folder.
        folder: where to; it appears whole or not at all.
        notes: a text file for the card: where the text of the run comes from and its licence.

    Raises:
        UserError: an unfinished run, a calibration of other weights, notes that cannot be read, or a folder that holds
            something or cannot be written.
    """
    run, updates = trained.run, trained.config.train.updates
    require(not run.exported, f"{run.path}: is an exported model already; copy its folder")
    best = read_best(run)
    require(
        trained.step == updates or (best is not None and best.ended and best.step == trained.step),
        f"{run.path}: is unfinished, at update {trained.step} of train.updates = {updates}; "
        "finish it with train.py --resume before exporting it",
    )
    card = model_card(trained, calibrations, folder, read_notes(notes) if notes else "", notes)
    return write(trained, calibrations, folder, card)


def write(trained: TrainedModel, calibrations: Mapping[int, Calibration], folder: Path, card: str) -> Path:
    """Write an exported model with its card.

    Raises:
        UserError: a calibration of other weights, or a folder that holds something or cannot be written.
    """
    tokenizer = trained.own_tokenizer
    origin = Origin.of(trained.config.model, tokenizer, trained.params)
    with_calibrations({}, calibrations, origin)  # refuses one of other weights
    data = dataclasses.replace(trained.config.data, root="", cache="")
    config = dataclasses.replace(trained.config, data=data, out="")
    with new_folder(folder) as aside:
        RunFolder(aside).create(config, tokenizer)
        # also those that only training needs; without their places on disk
        made_by = read_record(trained.folder)
        write_record(aside, (dataclasses.replace(one, source=Path(one.source).name) for one in made_by))
        write_weights(aside / WEIGHTS, Weights(without_calibrations(trained.params), trained.step))
        for calibration in calibrations.values():
            save(aside, calibration, origin)
        write_checksums(aside, {name: path for name, path in files_below(aside).items() if name != CHECKSUMS})
        (aside / CARD).write_text(card, encoding="utf-8")
    return folder


def read_notes(file: str) -> str:
    """The text for a card.

    Raises:
        UserError: it cannot be read, or is no UTF-8.
    """
    return documents.read_text(Path(file).expanduser())
