"""The families under test: what each one's reference says, and folders as it is released."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from references import dory, hrm_text, huginn, loopformer, nanbeige, ouro, retrofit, retrofit_olmo
from references.folder import write_folder

from jaxode import DepthConfig


@dataclass(frozen=True)
class Case:
    """A family, or a variant of one."""

    name: str
    reference: ModuleType
    changes: dict[str, Any] = field(default_factory=dict)
    """Of the reference's tiny config."""
    more: int = 5
    """Loops beyond those of the config."""
    depth: dict[str, Any] = field(default_factory=dict)
    """What `DepthConfig` needs to begin where the reference does."""

    @property
    def config(self) -> dict[str, Any]:
        """The tiny config.json."""
        return self.reference.CONFIG | self.changes

    def tensors(self) -> dict[str, np.ndarray]:
        """Random, every one of which matters."""
        return self.reference.random_tensors(self.config, 0)

    def write(self, folder: Path, **options: Any) -> Path:
        """As it is released."""
        write_folder(folder, self.config, self.tensors(), **options)
        return folder

    def logits(self, tokens: np.ndarray, **options: Any) -> np.ndarray:
        """What the reference predicts."""
        return self.reference.forward(self.config, self.tensors(), tokens, **options).logits

    def at(self, steps: int | None = None) -> DepthConfig:
        """A depth that begins where the reference does."""
        return DepthConfig(steps=steps, **self.depth)


ZEROS = {"start": "zeros"}
LAST_NORM = {"skip_loop_final_norm": True, "num_key_value_heads": 1, "loop_loss_weights": [0.2, 0.3]}
CORE = {"qk_bias": False, "n_layers": 3, "n_layers_in_prelude": 0, "n_layers_in_coda": 0}
WINDOWED = ("sliding_attention", "mlp")
CASES = {
    case.name: case
    for case in (
        Case("ouro", ouro),
        Case("nanbeige", nanbeige),
        Case("nanbeige-last-norm", nanbeige, LAST_NORM),
        Case("huginn", huginn, depth=ZEROS),
        Case("huginn-core", huginn, CORE, depth=ZEROS),
        Case("recurrent-llama", retrofit, depth=ZEROS),
        Case("recurrent-tinyllama", retrofit, {"rope_scaling": None, "num_key_value_heads": 1}, depth=ZEROS),
        Case("recurrent-olmo", retrofit_olmo, depth=ZEROS),
        Case("loopformer", loopformer),
        Case("dory", dory),
        Case(
            "dory, no prelude or coda, one key head, tied",
            dory,
            {
                "layer_types": [*WINDOWED * 2],
                "n_input_layers": 0,
                "n_output_layers": 0,
                "n_recurrent_layers": 4,
                "n_recurrent_loops": 3,
                "num_hidden_layers": 4,
                "num_key_value_heads": 1,
                "tie_word_embeddings": True,
            },
        ),
        Case("dory, no windows", dory, {"layer_types": ["full_attention", "mlp"] * 5, "n_recurrent_loops": 1}),
        Case("hrm_text", hrm_text, more=3),
        Case(
            "hrm_text, tied",
            hrm_text,
            {
                "H_cycles": 3,
                "L_bp_cycles": [1, 1, 1],
                "L_cycles": 1,
                "embedding_scale": 1.5,
                "num_hidden_layers": 6,
                "num_layers_per_stack": 1,
                "prefix_lm": False,
                "tie_word_embeddings": True,
            },
            more=4,
        ),
    )
}
