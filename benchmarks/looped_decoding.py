"""Tokens a second of looped models that transformers runs as well, against its `generate` of the same weights.

    pip install -e ".[torch]" && python benchmarks/looped_decoding.py

HRM-Text and Dory shapes of about 100 M parameters with random weights, written by transformers and read here; batches
of 1 and 8, 16 tokens of prompt, 128 new ones, greedy. transformers runs eagerly with its default cache; with --compile
also compiled with a static one, which on 2 cores was not done after 12 minutes for the first of four. Bars: 2 x the
eager and 1.2 x the compiled one.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
from timing import report
from transformers import AutoModelForCausalLM, DoryConfig, HrmTextConfig

import jaxode
from jaxode.data import Tokenizer
from jaxode.evaluation.timing import median_times
from jaxode.inference import Greedy, generate_batch

PROMPT, NEW, VOCAB = 16, 128, 32768
SHAPES = {
    "HRM-Text": HrmTextConfig(
        vocab_size=VOCAB,
        hidden_size=640,
        intermediate_size=1728,
        num_hidden_layers=5,
        num_attention_heads=10,
        head_dim=64,
        max_position_embeddings=512,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    ),
    "Dory": DoryConfig(
        vocab_size=VOCAB,
        hidden_size=640,
        intermediate_size=1792,
        num_hidden_layers=9,
        n_input_layers=2,
        n_output_layers=2,
        num_attention_heads=10,
        num_key_value_heads=2,
        head_dim=64,
        sliding_window=128,
        max_position_embeddings=512,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    ),
}


def theirs(model: Any, prompts: np.ndarray, compiled: bool) -> Callable[[], Any]:
    """Transformers' `generate`."""
    ids = torch.from_numpy(prompts).long()
    settings: dict[str, Any] = {"max_new_tokens": NEW, "min_new_tokens": NEW, "do_sample": False}
    if compiled:
        model.forward = torch.compile(model.forward)
        settings["cache_implementation"] = "static"

    def run() -> list[list[int]]:
        with torch.inference_mode():
            return model.generate(ids, attention_mask=torch.ones_like(ids), **settings)[:, PROMPT:].tolist()

    return run


def ours(loaded: Any, prompts: np.ndarray) -> Callable[[], Any]:
    """The project's own."""
    import tokenizers as hf

    vocabulary = {f"w{index}": index for index in range(VOCAB)}
    tokenizer = Tokenizer(hf.Tokenizer(hf.models.WordLevel(vocabulary)), "words", -7, None, 0)

    def run() -> list[list[int]]:
        done = generate_batch(
            loaded.architecture,
            loaded.params,
            tokenizer,
            prompts.tolist(),
            sampling=Greedy(),
            max_new_tokens=NEW,
        )
        return [list(row.ids) for row in done]

    return run


def main(rounds: int, compile_theirs: bool) -> None:
    """Measure every shape and batch size side by side; all must give the same tokens."""
    rows = []
    for name, config in SHAPES.items():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config).eval()
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(Path(folder) / "model")
            loaded = jaxode.load(Path(folder) / "model")
        parameters = sum(value.size for value in loaded.params.values())
        for batch in (1, 8):
            prompts = np.random.default_rng(0).integers(1, VOCAB, (batch, PROMPT))
            calls = {"jaxode": ours(loaded, prompts), "transformers, eager": theirs(model, prompts, compiled=False)}
            same = np.mean(np.asarray(calls["jaxode"]()) == np.asarray(calls["transformers, eager"]()))
            if compile_theirs:
                try:
                    compiled = theirs(AutoModelForCausalLM.from_config(config).eval(), prompts, compiled=True)
                    compiled()
                    calls["transformers, compiled"] = compiled
                except Exception as error:  # whatever its compiler refuses; the row is then missing
                    print(f"{name}, {batch} rows: transformers cannot compile it ({str(error).splitlines()[0][:120]})")
            times = median_times(calls, rounds)
            rows += [
                {
                    "shape": name,
                    "parameters": parameters,
                    "rows": batch,
                    "candidate": candidate,
                    "tokens_per_second": 1e3 * batch * NEW / ms,
                    "speed_of_jaxode_over_it": ms / times["jaxode"],
                    "same_tokens": same,
                }
                for candidate, ms in times.items()
            ]
            report("bench-looped-decoding", rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3, help="timings of each candidate, of which the median counts")
    parser.add_argument("--compile", action="store_true", help="compile transformers' models too, which takes long")
    given = parser.parse_args()
    main(given.rounds, given.compile)
