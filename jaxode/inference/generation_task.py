"""What infer.py's flags mean for generation, and its task bench."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from jaxode.calibration import Calibration
from jaxode.checkpoint import TrainedModel
from jaxode.config import DepthConfig, InferConfig, ModelConfig, UserError, require
from jaxode.config.places import cache_root
from jaxode.evaluation import default_steps
from jaxode.evaluation.figures import table
from jaxode.inference.generation import Generation, generate_batch
from jaxode.inference.library import is_shipped
from jaxode.inference.sampling import make_sampling
from jaxode.inference.speculation import Speculation
from jaxode.model import block_evaluations

BENCH_PROMPT = "Once upon a time"


def check_prompt(model: ModelConfig, config: InferConfig, task: str) -> None:
    """Refuse what cannot be continued before any weight is read.

    Raises:
        UserError: a masked model, or an empty prompt.
    """
    require(
        model.kind == "causal",
        f'task = {task} with model.kind = "masked": it fills in [MASK] and does not generate; use task fill',
    )
    require(
        bool(config.prompt) or task == "bench",
        'prompt = "": there is nothing to continue; give --prompt (the prompt <|endoftext|> begins a new document)',
    )


def generation_settings(
    trained: TrainedModel, config: InferConfig, depth: DepthConfig, calibrations: Mapping[int, Calibration]
) -> dict[str, Any]:
    """The arguments of `generate` and `generate_batch` that the flags stand for.

    Raises:
        UserError: a draft that nothing is left for.
    """
    return {
        "depth": depth,
        "max_new_tokens": config.max_new_tokens,
        "sampling": make_sampling(
            config.temperature,
            top_k=config.top_k,
            top_p=config.top_p,
            min_p=config.min_p,
            repetition_penalty=config.repetition_penalty,
        ),
        "document_mask": trained.config.data.document_mask,
        "context": config.context,
        "cache_share": config.cache_share,
        "speculation": drafts(trained.config.model, depth, calibrations) if config.speculative else None,
    }


def drafts(model: ModelConfig, depth: DepthConfig, calibrations: Mapping[int, Calibration]) -> Speculation:
    """Drafts in the calibrated depths, or where there are none in Euler's even steps; of half the evaluations at most.

    Raises:
        UserError: no such depth fits the layout.
    """
    known = [one.depth for one in calibrations.values()] or [
        DepthConfig(steps=steps, solver="euler") for steps in default_steps(model)
    ]
    full = block_evaluations(model, depth)
    cheap = tuple(one for one in known if 2 * block_evaluations(model, one) <= full)
    if not cheap:
        raise UserError(
            f"speculative: no depth has half of the {full} block evaluations of what it would draft for; "
            "calibrate fewer steps with --task calibrate, or leave it out"
        )
    return Speculation(cheap)


def bench(
    trained: TrainedModel, config: InferConfig, depth: DepthConfig, calibrations: Mapping[int, Calibration]
) -> str:
    """A table of every way to decode, each run once for its compilation and once for the time."""
    rows = config.batch_size or 1
    prompts = [config.prompt or BENCH_PROMPT] * rows
    settings = generation_settings(trained, config, depth, calibrations)
    ways: list[tuple[DepthConfig, Speculation | None]] = [(depth, None)]
    model = trained.config.model
    full = block_evaluations(model, depth)
    ways += [(one.depth, None) for one in calibrations.values() if block_evaluations(model, one.depth) < full]
    if config.cache_share == 1:
        # one way, which is tried even where it does not pay
        best = max(drafts(model, depth, calibrations).depths, key=lambda one: block_evaluations(model, one))
        ways.append((depth, Speculation((best,), (4,))))
    found = []
    for chosen, speculation in ways:
        own = settings | {"depth": chosen, "speculation": speculation}
        times = [generate_batch(trained.architecture, trained.params, trained.tokenizer, prompts, **own) for _ in "12"]
        found.append(_row(chosen, speculation, times[-1]))
    return table(found, list(found[0])) + "\n"


def _row(depth: DepthConfig, speculation: Speculation | None, done: tuple[Generation, ...]) -> dict[str, Any]:
    one, tokens = done[0], sum(row.new_tokens for row in done)
    later = (one.seconds_per_token or 0.0) * (max(row.new_tokens for row in done) - 1)
    return {
        "steps": "full" if depth.steps is None else depth.steps,
        "solver": depth.solver,
        "drafts": "none"
        if speculation is None
        else f"4 tokens in {speculation.depths[0].steps} steps, {one.acceptance or 0:.0%} accepted",
        "rows": len(done),
        "tokens_per_second": tokens / (one.seconds_first + later),
        "milliseconds_to_first": 1e3 * one.seconds_first,
        "block_evaluations_per_token": one.block_evaluations_per_token,
    }


def keep_compiled(config: InferConfig, path: Path) -> None:
    """Let JAX keep what it compiles, so that the same command starts fast the next time; called once a process.

    `config.compiled` or the variable JAXODE_COMPILED says where, "none" keeps nothing.
    """
    folder = config.compiled or os.environ.get("JAXODE_COMPILED") or ""
    if folder == "none":
        return
    own = cache_root() / "compiled" if is_shipped(path) else path / "compiled"
    jax.config.update("jax_compilation_cache_dir", str(Path(folder) if folder else own))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
