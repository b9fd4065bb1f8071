"""Does a public looped model predict here what its own published code predicts? For a machine that has both.

    pip install -e ".[torch]" && python benchmarks/remote_parity.py FOLDER --loops 4

FOLDER holds a release with its remote code (or is a name in the Hugging Face cache). That code is run: use only what
you trust. Prints the largest difference of logits and of log-probabilities over the tokens of a text, and whether the
likeliest tokens agree. Both run in float32.
"""

from __future__ import annotations

import argparse
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch  # pyright: ignore[reportMissingImports]
from transformers import AutoModelForCausalLM, AutoTokenizer

from jaxode import DepthConfig
from jaxode.interop import from_pretrained

TEXT = "The quick brown fox jumps over the lazy dog. In the beginning was the word, and two and two are"


def main(name: str, loops: int | None, settings: dict[str, Any]) -> None:
    """Compare on one text."""
    ids = AutoTokenizer.from_pretrained(name, trust_remote_code=True)(TEXT, return_tensors="pt").input_ids
    model: Any = AutoModelForCausalLM.from_pretrained(name, trust_remote_code=True, dtype=torch.float32, **settings)
    model.eval()
    with torch.inference_mode():
        theirs = model(ids).logits[0].float().numpy()
    loaded = from_pretrained(name, dtype="float32")
    tokens = jnp.asarray(ids.numpy().astype(np.int32))
    # a random start differs by its generator: zeros on both sides where the release allows it
    out: Any = loaded.model(tokens, DepthConfig(steps=loops, start="zeros"))
    ours = np.asarray(out.logits[0])
    log_p, log_q = (np.asarray(jax.nn.log_softmax(logits, axis=-1)) for logits in (ours, theirs))
    print(f"{name}: {out.block_evaluations} block evaluations, {len(ours)} tokens")
    print(f"largest difference of logits             {np.abs(ours - theirs).max():.3g}")
    print(f"largest difference of log-probabilities  {np.abs(log_p - log_q).max():.3g}")
    print(f"likeliest tokens that agree              {np.mean(ours.argmax(-1) == theirs.argmax(-1)):.1%}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="folder, or name in the Hugging Face cache")
    parser.add_argument("--loops", type=int, help="steps here; set the release's own field below to the same")
    parser.add_argument(
        "--set", action="append", default=[], metavar="FIELD=NUMBER", help="of its config, as in total_ut_steps=2"
    )
    arguments = parser.parse_args()
    fields = dict(pair.split("=", 1) for pair in arguments.set)
    main(arguments.name, arguments.loops, {field: int(value) for field, value in fields.items()})
