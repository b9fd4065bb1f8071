"""Tokens a second with the cache over depth, against Hugging Face's GPT-2 of the same shape and the bare matmuls.

    pip install -e ".[torch]" && python benchmarks/decode_speed.py --rounds 3

Shapes: that of the shipped models (D 128, H 4, V 2048) and D 512, H 8, V 8192; N 12; batches of 1 and 8; 16 tokens of
prompt, 256 new ones, greedy. GPT-2 has 12 blocks of its own, so the same arithmetic and 12 times the weights; it runs
eagerly with its default cache, and compiled (`torch.compile`) with its static cache. The floor is the time of one
token's matrix products alone, block 12 times and head once, in one compiled chain. "no steps" leaves the solve out and
keeps the rest, so that what the steps take is told apart. Bars: 3 x the eager and 1.5 x the compiled GPT-2, within
1.3 x of the floor, n/12 of the steps' time at n steps within 1.1 x.
"""

from __future__ import annotations

import argparse
from typing import Any
from unittest import mock

import numpy as np
import tokenizers as hf
import torch  # pyright: ignore[reportMissingImports]
from floor import matrix_products
from timing import report
from transformers import GPT2Config, GPT2LMHeadModel

from jaxode import DepthConfig, ModelConfig, make_model
from jaxode.data import Tokenizer
from jaxode.evaluation.timing import median_times
from jaxode.inference import Greedy, generate_batch
from jaxode.inference.generation import generate as generation
from jaxode.inference.generation.decoding import Decoder
from jaxode.model.parameters import split

PROMPT, NEW = 16, 256
STEPS = (12, 6, 4, 3)
SHAPES = {
    "D 128": ModelConfig(vocab_size=2048, width=128, heads=4, length=512, steps=12),
    "D 512": ModelConfig(vocab_size=8192, width=512, heads=8, length=512, steps=12),
}


class Still(Decoder):
    """Everything but the steps: what is embedded is read out."""

    def hidden(self, model: Any, tokens: Any, places: Any, memory: Any, depth: DepthConfig) -> Any:
        """x(0)."""
        return model.start(tokens, places=places)[0]


def ours(model: ModelConfig, rows: int, depth: DepthConfig, decoder: type[Decoder] = Decoder) -> Any:
    """The project's own decoding; random weights decode as fast as trained ones."""
    architecture, params = split(make_model(model))
    vocabulary = {str(one): one for one in range(model.vocab_size)}
    tokenizer = Tokenizer(hf.Tokenizer(hf.models.WordLevel(vocabulary)), "numbers", -7, None, 0)
    prompts = np.random.default_rng(0).integers(0, model.vocab_size, (rows, PROMPT)).tolist()

    def tokens() -> None:
        with mock.patch.object(generation, "Decoder", decoder):
            done = generate_batch(
                architecture, params, tokenizer, prompts, depth=depth, sampling=Greedy(), max_new_tokens=NEW
            )
        assert all(one.new_tokens == NEW for one in done)

    return tokens


def gpt2(model: ModelConfig, rows: int, compiled: bool) -> Any:
    """Hugging Face's `generate`."""
    torch.manual_seed(0)
    shape = GPT2Config(
        vocab_size=model.vocab_size,
        n_embd=model.width,
        n_head=model.heads,
        n_layer=model.steps,
        n_positions=model.length,
        bos_token_id=0,
        eos_token_id=None,
        pad_token_id=0,
    )
    network = GPT2LMHeadModel(shape).eval()
    ids = torch.from_numpy(np.random.default_rng(0).integers(0, model.vocab_size, (rows, PROMPT)))
    settings: dict[str, Any] = {"max_new_tokens": NEW, "min_new_tokens": NEW, "do_sample": False}
    if compiled:
        network.forward = torch.compile(network.forward)
        settings["cache_implementation"] = "static"

    def tokens() -> None:
        with torch.inference_mode():
            out = network.generate(ids, attention_mask=torch.ones_like(ids), **settings)
        assert out.shape[1] == PROMPT + NEW

    return tokens


def main(rounds: int) -> None:
    """Measure every shape and batch side by side."""
    found = []
    for name, model in SHAPES.items():
        for rows in (1, 8):
            calls = {
                "floor": matrix_products(model, rows, NEW),
                **{f"jaxode, {n} steps": ours(model, rows, DepthConfig(steps=n, solver="euler")) for n in STEPS},
                "jaxode, no steps": ours(model, rows, DepthConfig(steps=1, solver="euler"), Still),
                "GPT-2 eager": gpt2(model, rows, compiled=False),
                "GPT-2 compiled, static cache": gpt2(model, rows, compiled=True),
            }
            taken = median_times(calls, rounds)
            full, rest = taken["jaxode, 12 steps"], taken["jaxode, no steps"]
            shares = {
                f"jaxode, {n} steps": 12 / n * (taken[f"jaxode, {n} steps"] - rest) / (full - rest) for n in STEPS
            }
            for candidate, time_taken in taken.items():
                found.append(
                    {
                        "shape": name,
                        "rows": rows,
                        "candidate": candidate,
                        "ms_a_token": time_taken / NEW,
                        "tokens_per_second": 1e3 * rows * NEW / time_taken,
                        "time_of_full_depth": time_taken / full,
                        "steps_over_their_share": shares.get(candidate),
                        "over_floor": time_taken / taken["floor"],
                    }
                )
            report("bench-decode-speed", found)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3, help="timings of each candidate, of which the median counts")
    main(parser.parse_args().rounds)
