"""How long does reading a model's weights take, beside reading the bytes of their files, and how much memory?

    python benchmarks/reading.py

Writes a folder of Ouro-1.4B's tensors (24 layers, D 2048, H 16, F 5632, V 49152 untied) with random bfloat16 numbers in
shards, reads the parameters as `from_pretrained` does, q/k/v and gate/up fused and kernels transposed, and removes it.
Both timings find the files in the page cache: what is measured is the work beside the disk's. Memory is the highest
that a process of its own holds beyond what it held before. Bars: time <= 2x that of the bytes, memory <= 1.3x the
weights. `--layers 2` is a small model, whose vocabulary is then most of it.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import tempfile
from functools import partial
from pathlib import Path

import jax
import numpy as np
from timing import report

from jaxode.evaluation.figures import table
from jaxode.evaluation.timing import median_times
from jaxode.interop.shard_writer import write_shards
from jaxode.interop.tensor_files import open_tensors
from jaxode.interop.tensor_table import Pair, TensorTable, bias, embedding, kernel, scale

if sys.platform != "win32":
    import resource

WIDTH, HIDDEN, VOCABULARY, LAYERS = 2048, 5632, 49152, 24
SHARD_BYTES = 1_000_000_000
BFLOAT16 = np.dtype(jax.numpy.bfloat16)


def names(layers: int) -> TensorTable:
    """Names of the tensors of an Ouro, against parameters like jaxode's."""
    pairs = [embedding("embedding.tokens", "model.embed_tokens"), kernel("head.own", "lm_head")]
    for index in range(layers):
        ours, theirs = f"stack.looped.{index}", f"model.layers.{index}"
        q, k, v, o = (f"{theirs}.self_attn.{name}_proj" for name in "qkvo")
        gate, up, down = (f"{theirs}.mlp.{name}_proj" for name in ("gate", "up", "down"))
        pairs += [kernel(f"{ours}.attention.qkv", q, k, v), kernel(f"{ours}.attention.output", o)]
        pairs += [kernel(f"{ours}.feed_forward.inner", gate, up), kernel(f"{ours}.feed_forward.output", down)]
        norms = ("input_layernorm", "input_layernorm_2", "post_attention_layernorm", "post_attention_layernorm_2")
        pairs += [scale(f"{ours}.norms.{place}", f"{theirs}.{name}") for place, name in enumerate(norms)]
    pairs += [scale("norm", "model.norm")]
    gate = "model.early_exit_gate"
    return TensorTable((*pairs, kernel("exit_gate", gate), bias("exit_gate", gate)), ignored=("*.inv_freq",))


def shapes(pairs: tuple[Pair, ...]) -> dict[str, jax.ShapeDtypeStruct]:
    """Of the parameters, from their names."""
    sizes = {
        "tokens.embedding": (VOCABULARY, WIDTH),
        "own.kernel": (WIDTH, VOCABULARY),
        "qkv.kernel": (WIDTH, 3 * WIDTH),
        "attention.output.kernel": (WIDTH, WIDTH),
        "inner.kernel": (WIDTH, 2 * HIDDEN),
        "feed_forward.output.kernel": (HIDDEN, WIDTH),
        ".scale": (WIDTH,),
        "norm.scale": (WIDTH,),
        "exit_gate.kernel": (WIDTH, 1),
        "exit_gate.bias": (1,),
    }
    found = {pair.ours: next(size for end, size in sizes.items() if pair.ours.endswith(end)) for pair in pairs}
    return {name: jax.ShapeDtypeStruct(size, BFLOAT16) for name, size in found.items()}


def write(folder: Path, layers: int) -> None:
    """Random finite numbers, made a tensor at a time."""
    made, rng = names(layers), np.random.default_rng(0)
    theirs = made.shapes(shapes(made.pairs))
    # below the largest exponent every pattern of bits is a number
    write_shards(
        folder,
        theirs,
        lambda name: rng.integers(0, 0x7F80, theirs[name].shape, np.uint16).view(BFLOAT16),
        SHARD_BYTES,
    )


def read_bytes(folder: Path) -> list[bytes]:
    """All bytes of all files, held in memory as the parameters are."""
    return [path.read_bytes() for path in sorted(folder.glob("*.safetensors"))]


def read(folder: Path, layers: int) -> dict[str, jax.Array]:
    """The parameters."""
    made = names(layers)
    return jax.block_until_ready(made.read(open_tensors(folder), shapes(made.pairs)))


def peak(folder: Path, layers: int) -> float:
    """Highest memory of this process over the weights' size, beyond what the process held before."""
    unit = 1 if sys.platform == "darwin" else 1024
    jax.block_until_ready(jax.device_put(np.zeros(1)))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    params = read(folder, layers)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return unit * (after - before) / sum(value.nbytes for value in params.values())


def main() -> None:
    """Table and CSV."""
    parser = argparse.ArgumentParser()
    parser.add_argument(
        "--layers", type=int, default=LAYERS, help="another number than the default is printed and not kept"
    )
    parser.add_argument("--rounds", type=int, default=5, help="timings of each, of which the median counts")
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        # a process begins with the highest memory of the one that started it: this one stays small until it has
        with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
            pool.apply(write, (folder, flags.layers))
            memory = pool.apply(peak, (folder, flags.layers))
        size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
        candidates = {"bytes": partial(read_bytes, folder), "parameters": partial(read, folder, flags.layers)}
        times = median_times(candidates, flags.rounds)
    row = {"layers": flags.layers, "gb": size / 1e9, "bytes_ms": times["bytes"], "parameters_ms": times["parameters"]}
    row |= {"time_over_bytes": times["parameters"] / times["bytes"], "peak_memory_over_weights": memory}
    if flags.layers == LAYERS:
        report("bench-reading", [row])
    else:
        print(table([row], list(row)))


if __name__ == "__main__":
    main()
