"""Task export of infer.py: a finished run as a folder that is small, loads fast and says what it is.

FOLDER/config.toml           every knob of the run, without its places on disk
FOLDER/tokenizer/
FOLDER/weights.safetensors   the parameters by name
FOLDER/calibration-n.json    as the run holds them
FOLDER/MODEL_CARD.md
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping
from pathlib import Path

from jaxode.calibration import Calibration
from jaxode.checkpoint import RunFolder, TrainedModel, new_folder
from jaxode.config import require
from jaxode.inference.loading.names import with_own
from jaxode.inference.tasks.card import model_card
from jaxode.inference.tasks.measured_text import read_text
from jaxode.weights import WEIGHTS, Weights, write_weights


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
    require(
        trained.step == updates,
        f"{run.path}: is unfinished, at update {trained.step} of train.updates = {updates}; "
        "finish it with train.py --resume before exporting it",
    )
    with_own(trained, calibrations)  # refuses one of other weights
    data = dataclasses.replace(trained.config.data, root="", cache="")
    config = dataclasses.replace(trained.config, data=data, out="")
    card = model_card(trained, calibrations, folder, read_text(notes) if notes else "", notes)
    with new_folder(folder) as aside:
        RunFolder(aside).create(config, trained.tokenizer)
        write_weights(aside / WEIGHTS, Weights(trained.params, trained.step))
        for steps in calibrations:
            name = f"calibration-{steps}.json"
            shutil.copyfile(run.path / name, aside / name)
        (aside / "MODEL_CARD.md").write_text(card, encoding="utf-8")
    return folder
