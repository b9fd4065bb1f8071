"""A causal model in EleutherAI's evaluation harness (Gao et al. 2024, lm-evaluation-harness), at any number of steps.

    python -m jaxode.evaluation.harness --model_args checkpoint=books-causal,steps=6 --tasks NAMES --include_path DIR

takes what `lm_eval` takes, with `--model jaxode` where none is named. From Python, importing this package registers the
model: `lm_eval.simple_evaluate(model="jaxode", model_args={"checkpoint": "books-causal", "steps": 6}, ..)`. Needs the
extra `eval`. An entrance, like infer.py: the only part of this room that knows `inference`.
"""

import os
import sys

from jaxode.config import UserError

# Its error bars fork the process by default, which deadlocks where JAX has started threads.
os.environ.setdefault("DISABLE_MULTIPROC", "1")
try:
    import lm_eval  # noqa: F401  # pyright: ignore[reportMissingImports]
except ImportError:
    missing = 'the evaluation harness is not installed: pip install "jaxode[eval]"'
    if sys.argv[:1] == ["-m"]:  # as Python has it while it looks for the command of a package
        raise SystemExit(f"error: {missing}") from None
    raise UserError(missing) from None

from jaxode.evaluation.harness.command_line import main
from jaxode.evaluation.harness.model import HarnessModel

__all__ = ["HarnessModel", "main"]
