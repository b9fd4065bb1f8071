"""How long does a fit take? `calibrate` with its defaults, D 256, L 256, N = 12, V 4096, random weights and text.

    python benchmarks/calibration_time.py

Bar: 60 s on 2 cores.
"""

from __future__ import annotations

import numpy as np
from timing import report

from jaxode import ModelConfig, calibrate, make_model
from jaxode.data import Batch
from jaxode.model.parameters import split

CONFIG = ModelConfig(vocab_size=4096, width=256, heads=4, length=256, steps=12)
BATCHES, ROWS = 20, 8  # as `calibration_batches` makes them


def batches() -> list[Batch]:
    """Random text of the size that a fit reads."""
    rng = np.random.default_rng(0)
    made = []
    for _ in range(BATCHES):
        tokens = rng.integers(0, CONFIG.vocab_size, (ROWS, CONFIG.length + 1)).astype(np.int32)
        ones = np.ones((ROWS, CONFIG.length), np.int32)
        made.append(Batch(tokens[:, :-1], tokens[:, 1:], ones.astype(np.float32), ones))
    return made


def main() -> None:
    """Time one fit for each number of steps, compilation included."""
    architecture, params = split(make_model(CONFIG))
    # a fresh model's increments are too small to need any care
    model = architecture.bind({name: 2 * value for name, value in params.items()})
    rows = [{"steps": steps, "seconds": calibrate(model, batches(), steps).seconds} for steps in (6, 4, 3, 2)]
    report("bench-calibration-time", rows)


if __name__ == "__main__":
    main()
