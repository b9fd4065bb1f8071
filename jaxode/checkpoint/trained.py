"""A trained model, read back from a run's folder or from an exported one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from jaxode.checkpoint.folder import RunFolder
from jaxode.checkpoint.steps import Checkpoints
from jaxode.config import Config, UserError, require
from jaxode.config.checks import parse_frame
from jaxode.data import Tokenizer
from jaxode.data.checksums import check_files
from jaxode.model import CausalLM, Encoder, MaskedLM, SequenceClassifier, TokenClassifier, make_model
from jaxode.model.low_rank import merged, with_low_rank
from jaxode.model.parameters import Architecture, Parameters, matmul_type, split
from jaxode.weights import WEIGHTS, Weights, read_weights

Task = Literal["causal", "masked", "classifier", "token_classifier", "question_answering", "encoder"]
"""What a model predicts: the next token, masked tokens, labels of a sequence or of its tokens, where the answer to a
question begins and ends, or nothing but states."""


@dataclass(frozen=True)
class TrainedModel:
    """A model with its numbers, read back from files: of a run, an exported model or Hugging Face.

    `dataclasses.replace(trained, params=...)` carries other numbers.
    """

    model: CausalLM | MaskedLM | SequenceClassifier | TokenClassifier | Encoder
    architecture: Architecture
    params: Parameters
    config: Config
    """Of the run; of another library's model `config.model` describes it, and the rest holds defaults."""
    tokenizer: Tokenizer | None
    task: Task
    source: Mapping[str, Any] = field(default_factory=dict)
    """config.json of a Hugging Face model as it was; empty for a run."""
    folder: Path = Path()
    step: int = 0
    """Updates of training behind it; 0 where nothing tells."""
    labels: tuple[str, ...] = ()
    """Names of a classifier's labels by number."""

    @property
    def run(self) -> RunFolder:
        """The folder as that of a run."""
        return RunFolder(self.folder)

    @property
    def text_frame(self) -> bool | tuple[str, str] | None:
        """What a model that was trained on whole texts read them within; None: what its tokenizer says."""
        data = self.config.data
        whole = bool(data.train) or (data.whole_texts and self.config.model.kind == "masked")
        return parse_frame("data.frame", data.frame) if whole else None

    @property
    def own_tokenizer(self) -> Tokenizer:
        """The tokenizer, for those who cannot do without.

        Raises:
            UserError: there is none.
        """
        if self.tokenizer is None:
            raise UserError(
                f"{self.folder}: holds no tokenizer; copy tokenizer.json and tokenizer_config.json beside its weights"
            )
        return self.tokenizer


def load_run(path: Path | str, step: int | None = None) -> TrainedModel:
    """Read a run folder: the newest checkpoint, or the best where the run chose it (`train.best`), or the one of
    `step`; or an exported model, which holds one step.

    Where that checkpoint is damaged, the next older one is read and standard error says so.

    Raises:
        UserError: no run, no complete checkpoint, none that can be read or that `step` is damaged, or one that does not
            fit its config or tokenizer.
    """
    run = RunFolder(Path(path))
    config, tokenizer = run.config(), run.tokenizer()
    require(
        tokenizer.vocab_size <= config.model.vocab_size,
        f"{run.path}: tokenizer {tokenizer.name} has {tokenizer.vocab_size} tokens, the model's vocabulary "
        f"{config.model.vocab_size}; the tokenizer belongs to another run",
    )
    # shapes only: fresh parameters would be made to be thrown away
    architecture, shapes = split(nnx.eval_shape(lambda: make_model(config.model)))
    read = _exported if run.exported else _checkpoint
    train, held = config.train, shapes
    if train.trains == "lora" and not run.exported:
        held = with_low_rank(shapes, train.lora_rank, train.lora_matrices)
    weights = read(run, held, step)
    params = weights.params
    if held is not shapes:
        params = jax.tree.map(jnp.asarray, merged(jax.device_get(params)))
    if run.exported:
        # weights in bfloat16 are multiplied so
        dtype = matmul_type(params)
        architecture, _ = split(nnx.eval_shape(lambda: make_model(config.model, dtype=dtype)))
    return TrainedModel(
        model=architecture.bind(params),
        architecture=architecture,
        params=params,
        config=config,
        tokenizer=tokenizer,
        task=config.model.learns,
        folder=run.path,
        step=weights.step,
        labels=config.model.labels,
    )


def _exported(run: RunFolder, shapes: Parameters, step: int | None) -> Weights:
    weights = read_weights(run.path / WEIGHTS, shapes)
    check_files(run.path, [WEIGHTS])  # what stands around the numbers
    require(
        step is None or step == weights.step,
        f"{run.path}: an exported model holds one step, {weights.step}, and not step {step}",
    )
    return weights


def _checkpoint(run: RunFolder, shapes: Parameters, step: int | None) -> Weights:
    require(
        run.checkpoints.is_dir(),
        f"{run.path}: holds no checkpoints yet, nor the {WEIGHTS} of an exported model; train on with --resume",
    )
    with Checkpoints(run) as checkpoints:
        read = partial(checkpoints.restore_params, params=_on_the_first_device(shapes))
        if step is not None:
            require(
                (run.checkpoints / str(step)).is_dir(),
                f"{run.path}: holds no checkpoint of step {step}; the newest is {checkpoints.latest}",
            )
            return Weights(read(step), step)
        found = checkpoints.chosen(read)
        if found is None:
            raise UserError(f"{run.path}: holds no complete checkpoint; continue the run with --resume")
        step, params = found
        return Weights(params, step)


def _on_the_first_device(shapes: Parameters) -> Parameters:
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return {name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place) for name, x in shapes.items()}
