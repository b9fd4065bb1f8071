"""What an accelerator gives this project: one command, minutes, everything beside its limit or its rival.

    python benchmarks/accelerator.py                  # whatever JAX finds; about 7 minutes on one H100
    python benchmarks/accelerator.py --minutes 3      # the most telling parts alone
    python benchmarks/accelerator.py --tiny           # does it run? seconds, on a CPU
    python benchmarks/accelerator.py --table          # draw docs/accelerators.md from the record

From a bare checkout, without download or data set, with the packages that are there: jax, flax, diffrax, optax. Each
part's figures are printed and appended to docs/results/accelerators.jsonl as they come; a run that was cut off goes on
where it ended, as long as device, JAX and code are the same. Models have random weights and get random tokens: neither
changes how long they take. PyTorch and transformers are measured beside where they are installed.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

if __name__ == "__main__":
    # a bare checkout: jaxode need not be installed
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    # JAX would take most of a GPU's memory, and the rivals need some; it reads this when it is imported
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

    from accelerators.command import main

    main(__doc__ or "")
