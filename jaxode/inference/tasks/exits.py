"""score with an exit rule: the loss of a text where every token stops by itself, and how many steps that takes."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from jaxode.config import DepthConfig, require
from jaxode.evaluation.loss import batch_inputs, token_loss
from jaxode.inference.adaptive.exits import make_rule
from jaxode.inference.adaptive.solves import exit_early
from jaxode.inference.loading.loaded_model import LoadedModel
from jaxode.inference.tasks.measured_text import Text


def score_with_exits(loaded: LoadedModel, text: Text, rule: str, depth: DepthConfig) -> dict[str, int | float]:
    """Nats per token, perplexity, and means over predicted tokens of the steps and block evaluations that each used.

    Args:
        loaded: a language model.
        text: to predict.
        rule: by name with its threshold; it stops token by token.
        depth: of a token that the rule does not stop.

    Raises:
        UserError: a rule, a depth or a model that do not fit each other.
    """
    made, nats, tokens, steps, evaluations, exits = make_rule(rule), 0.0, 0.0, 0.0, 0.0, 0.0
    for batch in tqdm(text.batches, desc="score", unit="batch", leave=False, disable=None):
        inputs = batch_inputs(batch, loaded.config.model.kind, loaded.config.data.apart)
        places = inputs.pop("places", None)
        require(
            places is None,
            f'exit_rule = "{rule}" with data.rows = "texts": rows that hold several texts are not solved with exits; '
            "leave it out",
        )
        out = exit_early(loaded, jnp.asarray(batch.tokens), made, depth, **inputs)
        sums = token_loss(out.logits, jnp.asarray(batch.targets), jnp.asarray(batch.weights))
        nats, tokens = nats + float(sums.nats), tokens + float(sums.tokens)
        used, spent, left = jax.device_get((out.steps, out.block_evaluations, out.exited))
        weights = np.asarray(batch.weights)
        steps, evaluations = steps + float(np.sum(used * weights)), evaluations + float(np.sum(spent * weights))
        exits += float(np.sum(left * weights))
    require(tokens > 0, "nothing to evaluate: the text holds no token to predict; give more text")
    mean = nats / tokens
    return {
        "tokens": round(tokens),
        "nats_per_token": mean,
        "perplexity": math.exp(min(mean, 700.0)),
        "steps_per_token": steps / tokens,
        "block_evaluations_per_token": evaluations / tokens,
        "stopped": exits / tokens,
    }
