"""A run folder: resolved config, tokenizer, checkpoints. Training writes it; inference needs nothing else.

An exported model is such a folder with the file weights.safetensors in the place of the checkpoints.

RUN/config.toml          every knob, with the tokenizer's vocabulary filled in
RUN/tokenizer/           tokenizer.json and the roles of its special tokens
RUN/checkpoints/STEP/    parameters, optimizer state, data position (Orbax: a step appears whole or not at all), and
                         fingerprints of the three, compared when they are read
RUN/metrics.jsonl, summary.json, sweep.csv, sweep.png
"""

from jaxode.checkpoint.folder import RUNS, RunFolder, new_folder, newest_run
from jaxode.checkpoint.model_arguments import takes_model, takes_params, takes_tokenizer
from jaxode.checkpoint.steps import Checkpoints, Restored
from jaxode.checkpoint.trained import Task, TrainedModel, load_run

__all__ = [
    "RUNS",
    "Checkpoints",
    "Restored",
    "RunFolder",
    "Task",
    "TrainedModel",
    "load_run",
    "new_folder",
    "newest_run",
    "takes_model",
    "takes_params",
    "takes_tokenizer",
]
