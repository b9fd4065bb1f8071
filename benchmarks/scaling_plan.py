"""What large models would cost on real machines, by layout: a plan on paper, nothing is run or timed.

    python benchmarks/scaling_plan.py

Causal models of one shared block, D 2048 and 8192, N = 24, L 2048, 16,384 tokens a device, AdamW, parameters and the
state in float32, products in bfloat16; beside each the same model with 24 blocks of its own, dealt out as usual: every
block put together where it is applied, forward and backward. Multiplications at half of the chip's peak and four times
the forward ones (the adjoint computes each step again); messages at the rate of the makers' figures, one after another
and beside no multiplication, so that their share is an upper bound. "Tokens a device for a tenth": as many make
messages a tenth of the multiplications. What moves is `jaxode.training.traffic`, which benchmarks/collectives.py holds
against compiled programs. Keeps docs/results/scaling-plan.csv.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from timing import report

from jaxode.config import AttentionConfig, ModelConfig
from jaxode.model.cost import flops_per_token
from jaxode.model.partition import AXES
from jaxode.training.chips import chip
from jaxode.training.traffic import traffic


@dataclass(frozen=True)
class Machine:
    """Equal chips and what joins them."""

    name: str
    kind: str
    """As JAX calls the chip."""
    chips: int
    bytes_a_second: float
    """Out of one chip, to all its neighbours together."""
    memory: float
    """Bytes of one chip."""
    source: str


MACHINES = (
    Machine("8 x H100", "NVIDIA H100", 8, 450e9, 80e9, "NVIDIA: NVLink 900 GB/s, both directions together"),
    Machine("v5p-256", "TPU v5", 128, 600e9, 95e9, "Google: 128 chips (256 cores), 4,800 Gb/s, 95 GB"),
)
WIDTHS, STEPS, LENGTH, VOCABULARY, ROWS = (2048, 8192), 24, 2048, 50304, 8


def model_of(width: int) -> ModelConfig:
    """Heads of 128."""
    return ModelConfig(
        vocab_size=VOCABULARY, width=width, heads=width // 128, length=LENGTH, steps=STEPS, attention=AttentionConfig()
    )


def shapes_of(model: ModelConfig, blocks: int) -> dict[str, tuple[int, ...]]:
    """Matrices alone, under the names that say where they are cut."""
    width = model.width
    found: dict[str, tuple[int, ...]] = {"embedding.tokens.embedding": (model.vocab_size, width)}
    for block in range(blocks):
        found |= {
            f"stack.looped.{block}.attention.qkv.kernel": (width, 3 * width),
            f"stack.looped.{block}.attention.output.kernel": (width, width),
            f"stack.looped.{block}.feed_forward.inner.kernel": (width, 4 * width),
            f"stack.looped.{block}.feed_forward.output.kernel": (4 * width, width),
        }
    return found


def sent(model: ModelConfig, blocks: int, sizes: dict[str, int], rows: int) -> float:
    """Bytes that leave a device in an update, in rings: a sum whole passes twice."""
    moved = traffic(model, shapes_of(model, blocks), sizes, rows)
    shares = sizes["data"] * sizes["fsdp"]
    again = 2 if blocks > 1 else 1  # forward and backward
    return (
        again * moved.gathered * (1 - 1 / sizes["fsdp"])
        + moved.scattered * (sizes["fsdp"] - 1)
        + moved.summed * 2 * (1 - 1 / shares)
        + moved.steps * moved.a_step * 2 * (1 - 1 / sizes["tensor"])
    )


def main() -> None:
    """A row a machine, model and layout."""
    rows: list[dict[str, Any]] = []
    for machine in MACHINES:
        described = chip(machine.kind)
        assert described is not None
        count = machine.chips
        for width in WIDTHS:
            model = model_of(width)
            for sizes in dict.fromkeys([(count, 1, 1), (1, count, 1), (count // 8, 8, 1), (count // 8, 1, 8)]):
                axes: dict[str, int] = dict(zip(AXES, sizes, strict=True))
                tokens = ROWS * LENGTH
                multiplying = 4 * flops_per_token(model).total * tokens / (described.peak / 2)
                row = {"machine": machine.name, "width": width, "layout": " x ".join(map(str, sizes))}
                row |= {"seconds of multiplications": multiplying}
                for name, blocks in (("shared", 1), ("24 blocks", STEPS)):
                    parameters = sum(math.prod(shape) for shape in shapes_of(model, blocks).values())
                    cut = axes["fsdp"] * axes["tensor"]
                    # weights and two moments where they lie, and the gradient
                    held = 16 * parameters / cut
                    seconds = sent(model, blocks, axes, ROWS * count) / machine.bytes_a_second
                    row |= {
                        f"{name}: billion parameters": parameters / 1e9,
                        f"{name}: GB a device": held / 1e9,
                        f"{name}: fits": held < machine.memory,
                        f"{name}: seconds of messages": seconds,
                        f"{name}: share": seconds / multiplying,
                        # what "tensor" sends grows with the rows as the multiplications do
                        f"{name}: tokens a device for a tenth": ""
                        if axes["tensor"] > 1
                        else round(tokens * seconds / multiplying / 0.1),
                    }
                rows.append(row)
    report("scaling-plan", rows)


if __name__ == "__main__":
    main()
