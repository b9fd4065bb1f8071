"""Parameters and cache of the published looped models, from their configurations alone: nothing is allocated.

    python benchmarks/looped_shapes.py

Bytes of a token in bfloat16 by policy: a slot for every loop, and one for all of them (the last one's, or the first's).
The configurations are those of the tests' references.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from timing import report

from jaxode.config.size import num_parameters
from jaxode.inference.generation.cache import cache_bytes_per_token
from jaxode.interop.families import FAMILIES
from jaxode.interop.families.family import Fields

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "interop"))


def main() -> None:
    """One row a released model."""
    from references import (  # pyright: ignore[reportMissingImports]
        dory,
        hrm_text,
        huginn,
        loopformer,
        nanbeige,
        ouro,
        retrofit,
    )

    rows: list[dict[str, Any]] = []
    for reference in (ouro, nanbeige, huginn, retrofit, loopformer, dory, hrm_text):
        for name in reference.RELEASED:
            raw = reference.CONFIG | reference.RELEASED[name]
            model = FAMILIES[raw["model_type"]].model(Fields(raw, name, frozenset(reference.shapes(raw))))
            found = {cache: cache_bytes_per_token(model, cache=cache) for cache in ("loop", "last")}
            rows.append(
                {
                    "model": name,
                    "parameters": num_parameters(model),
                    "loops": model.steps,
                    "cache_bytes_every_loop": found["loop"],
                    "cache_bytes_last_loop": found["last"],
                    "cache_kib_every_loop": found["loop"] / 1024,
                }
            )
    report("looped-shapes", rows)


if __name__ == "__main__":
    main()
