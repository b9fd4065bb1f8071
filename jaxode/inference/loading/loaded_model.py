"""One object for a shipped model, a run, an exported model and a Hugging Face folder."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path

from jaxode.calibration import Calibration, load_all, with_calibrations
from jaxode.calibration import Origin as CalibrationOrigin
from jaxode.calibration import save as save_calibration
from jaxode.checkpoint import TrainedModel, load_run
from jaxode.config import InferMeshConfig, require
from jaxode.config.places import cache_root
from jaxode.data.checksums import read_checksums
from jaxode.data.notices import notice
from jaxode.inference.loading.card import model_card
from jaxode.inference.loading.export import CARD, export, write
from jaxode.inference.loading.names import ModelFolder, Origin, resolve
from jaxode.inference.mesh import on_mesh
from jaxode.interop import from_pretrained, save_pretrained
from jaxode.model.parameters import fingerprint

CALIBRATIONS = "calibrations"
"""Folder in the cache."""


@dataclass(frozen=True)
class LoadedModel(TrainedModel):
    """A model by name, with its tokenizer and its calibrations, ready to run.

    `generate`, `score_texts`, `classify_texts`, `fill`, `evaluate`, `calibrate` and the rest take it as it is, in the
    place of architecture, parameters and tokenizer; `model(tokens, DepthConfig(steps=4))` is the network itself.
    """

    origin: Origin = "run"
    """Where it comes from."""
    trained_steps: int | None = None
    """N of a Hugging Face model's files, where `config.model.steps` is another that was asked for."""
    calibrations: Mapping[int, Calibration] = field(default_factory=dict)
    """By number of steps, the fewest first: what solver "calibrated" can be asked for."""

    def calibrated(self, *calibrations: Calibration) -> LoadedModel:
        """The same model with calibrations of `calibrate` besides its own; those of the same steps take their place.

        Raises:
            UserError: one that was read from a file and made for another model, tokenizer or other weights.
        """
        found = dict(self.calibrations) | {calibration.steps: calibration for calibration in calibrations}
        found = {steps: found[steps] for steps in sorted(found)}
        origin = self.calibration_origin if found and self.tokenizer is not None else None
        params = with_calibrations(self.params, found, origin)
        bound = self.architecture.bind(params)
        return dataclasses.replace(self, params=params, model=bound, calibrations=found)

    def on_mesh(self, mesh: InferMeshConfig) -> LoadedModel:
        """The same model on several devices: `generate` and `score_texts` run there.

        Raises:
            UserError: fewer devices, or heads or hidden units that the mesh does not divide.
        """
        params = on_mesh(self.params, self.config.model, mesh)
        return dataclasses.replace(self, params=params, model=self.architecture.bind(params))

    @property
    def calibration_origin(self) -> CalibrationOrigin:
        """What a calibration of this model is made for."""
        return CalibrationOrigin.of(self.config.model, self.own_tokenizer, self.params)

    @property
    def calibration_folder(self) -> Path:
        """Where `infer.py` keeps its calibrations: beside the weights, or where jaxode did not make the folder, in the
        cache, under the fingerprint of the weights.
        """
        if self.origin != "huggingface":
            return self.folder
        folder = cache_root() / CALIBRATIONS / fingerprint(self.params)
        return folder if self.trained_steps is None else folder / f"loops-{self.config.model.steps}"

    def save(self, folder: Path | str) -> Path:
        """Write the model with its tokenizer and calibrations into a new folder, which `load` reads.

        A Hugging Face model stays one, for transformers to read; any other becomes an exported model with a card.

        Raises:
            UserError: the folder holds something or cannot be written, or the run is unfinished.
        """
        folder = Path(folder).expanduser()
        if self.origin == "run":
            return export(self, self.calibrations, folder)
        if self.origin != "huggingface":
            card = self.folder / CARD
            text = card.read_text(encoding="utf-8") if card.is_file() else model_card(self, self.calibrations, folder)
            return write(self, self.calibrations, folder, text)
        save_pretrained(self, folder)
        for calibration in self.calibrations.values():
            save_calibration(folder, calibration, self.calibration_origin)
        return folder


def load(
    name: Path | str, task: str | None = None, *, dtype: str | None = None, loops: int | None = None
) -> LoadedModel:
    """A model with its calibrations, ready to run: `jaxode.load("books-causal")`.

    ``loaded.model(tokens, DepthConfig(steps=4))`` runs it in 4 steps, those of a calibration in `loaded.calibrations`.

    Args:
        name: the path of a run folder, an exported model or a Hugging Face folder; or the name of a shipped model or of
            a Hugging Face model in the cache or on the hub.
        task: of a Hugging Face model: masked, classifier, token_classifier, question_answering or encoder; None takes
            it from its config.json.
        dtype: of a Hugging Face model's weights and matmuls: float32 or bfloat16; None is the default of its family.
            Calibrations hold for weights of one type; those of another are left out, and standard error says so.
        loops: N of a Hugging Face looped language model, in place of its config.json's: what counts as its full depth,
            for which calibrations of its own are kept. (`DepthConfig(steps=n)` runs n of them.)

    Raises:
        UserError: an unknown name, a type or loops for what is no such Hugging Face model, or a folder that is damaged
            or holds a calibration of other weights.
    """
    return load_folder(resolve(name, task, loops), dtype=dtype)


def load_folder(folder: ModelFolder, *, calibrations: bool = True, dtype: str | None = None) -> LoadedModel:
    """The model of a folder that `resolve` has found, with its calibrations or without.

    Raises:
        UserError: it is damaged, holds a calibration of other weights, or is not read in another type.
    """
    theirs = folder.origin == "huggingface"
    require(
        dtype is None or theirs,
        f'{folder.path}: dtype = "{dtype}" is for a Hugging Face model; what jaxode wrote is read in its own type',
    )
    loops = None if folder.trained_steps is None else folder.config.steps
    read = from_pretrained(folder.path, folder.task, dtype=dtype, loops=loops) if theirs else load_run(folder.path)
    values = {item.name: getattr(read, item.name) for item in fields(read)}
    loaded = LoadedModel(**values, origin=folder.origin, trained_steps=folder.trained_steps)
    kept = load_all(folder.path)  # refuses a damaged file, wanted or not
    for name in read_checksums(folder.path):
        if name.startswith("calibration-") and not (folder.path / name).exists():
            notice(f"{folder.path / name}: missing, though it was exported with the model; copy it again")
    if folder.trained_steps is not None:
        kept = {}  # they end where another number of loops ends
    if not calibrations:
        return loaded
    if dtype is not None and kept:
        kept = _of_these_weights(kept, loaded, dtype)
    if theirs and (cache_root() / CALIBRATIONS).is_dir():  # the fingerprint of large weights takes seconds
        # what was kept for these very weights goes before what somebody left beside them
        kept |= load_all(loaded.calibration_folder)
    return loaded.calibrated(*kept.values())


def _of_these_weights(kept: dict[int, Calibration], loaded: LoadedModel, dtype: str) -> dict[int, Calibration]:
    """Those that hold for the weights in this type; a line on standard error names the others."""
    weights = fingerprint(loaded.params)
    others = [steps for steps, one in kept.items() if one.origin is not None and one.origin.weights != weights]
    for steps in others:
        notice(f"{loaded.folder}: calibration-{steps}.json was made for other weights than these in {dtype}: left out")
    return {steps: one for steps, one in kept.items() if steps not in others}
