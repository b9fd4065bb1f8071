"""What infer.py's flags mean for generation."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from jaxode.calibration import Calibration
from jaxode.config import DepthConfig, InferConfig, ModelConfig, UserError, require
from jaxode.evaluation import default_steps
from jaxode.inference.generation.cache import applications
from jaxode.inference.generation.prompts import encode_prompt
from jaxode.inference.generation.sampling import make_sampling
from jaxode.inference.generation.settings import Settings
from jaxode.inference.generation.speculation import Speculation
from jaxode.inference.loading.loaded_model import LoadedModel
from jaxode.inference.tasks.depths import asked_depth
from jaxode.model import block_evaluations, plan


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


def check_request(loaded: LoadedModel, prompt: str, settings: Mapping[str, Any], chat: bool = False) -> None:
    """Refuse what `generate` would, before its prompt is shown.

    Raises:
        UserError: a prompt or a depth that does not fit.
    """
    chosen = Settings(**settings).resolved(loaded.model)
    chosen.decoder(loaded.architecture, loaded.params, loaded.own_tokenizer)
    chosen.check_length(loaded.config.model, len(encode_prompt(loaded.own_tokenizer, prompt, chat=chat)))


def chat_note(loaded: LoadedModel, config: InferConfig) -> str | None:
    """What becomes of the prompt of a model that has a chat template."""
    template = loaded.own_tokenizer.chat_template
    if template is None:
        return None
    if config.chat:
        return "chat: the prompt stands within the chat template of the model's tokenizer"
    return "the model's tokenizer has a chat template, and the prompt is read without it: --chat applies it"


def compared_depths(
    model: ModelConfig, config: InferConfig, calibrations: Mapping[int, Calibration]
) -> tuple[DepthConfig, ...]:
    """The depths that `compare` lists, each by the solver that `--steps` would take.

    Raises:
        UserError: a masked model, or a depth that does not fit.
    """
    require(
        not config.compare or model.kind == "causal",
        f'compare = "{config.compare}" with model.kind = "masked": compares continuations, which a causal model writes',
    )
    alone = (dataclasses.replace(config, steps=steps, compare="") for steps in config.compare_steps)
    depths = tuple(asked_depth(one, model, calibrations) for one in alone)
    for depth in depths:
        plan(model, depth)
        applications(model, depth)
    return depths


def generation_settings(loaded: LoadedModel, config: InferConfig, depth: DepthConfig) -> dict[str, Any]:
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
            further=config.sampling,
        ),
        "context": config.context,
        "cache_share": config.cache_share,
        "prefix": config.prefix,
        "cache": config.cache,
        "speculation": drafts(loaded.config.model, depth, loaded.calibrations) if config.speculative else None,
    }


def draft_depths(
    model: ModelConfig, depth: DepthConfig, calibrations: Mapping[int, Calibration]
) -> tuple[DepthConfig, ...]:
    """Depths to draft in: the calibrated ones, or where there are none Euler's even steps; of half the evaluations at
    most, so there may be none.
    """
    known = [one.depth for one in calibrations.values()] or [
        DepthConfig(steps=steps, solver="euler") for steps in default_steps(model)
    ]
    known = [dataclasses.replace(one, start=depth.start, start_seed=depth.start_seed) for one in known]
    full = block_evaluations(model, depth)
    return tuple(one for one in known if 2 * block_evaluations(model, one) <= full)


def drafts(model: ModelConfig, depth: DepthConfig, calibrations: Mapping[int, Calibration]) -> Speculation:
    """Drafts in `draft_depths`.

    Raises:
        UserError: there are none.
    """
    cheap = draft_depths(model, depth, calibrations)
    if not cheap:
        raise UserError(
            f"speculative: no depth has half of the {block_evaluations(model, depth)} block evaluations of what it "
            "would draft for; calibrate fewer steps with --task calibrate, or leave it out"
        )
    return Speculation(cheap)
