"""Continue texts with a causal model, a batch of them at once: every row as if it were alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

from jaxode.config import DepthConfig, ModelConfig, require
from jaxode.data import Tokenizer
from jaxode.inference.cache import Layout, applications
from jaxode.inference.decoding import Decoder
from jaxode.inference.running import Generation, Running
from jaxode.inference.sampling import Sampling, Temperature
from jaxode.inference.speculation import Speculation
from jaxode.model import Transformer, plan
from jaxode.model.parameters import Architecture, Parameters

Context = Literal["slide", "window", "refuse"]


def generate(
    architecture: Architecture,
    params: Parameters,
    tokenizer: Tokenizer,
    prompt: str,
    *,
    on_token: Callable[[str], None] | None = None,
    seed: int = 0,
    **settings: Any,
) -> Generation:
    """Continue one prompt: `generate_batch` with one row.

    `on_token` is called with each piece of finished text; the pieces join to the text.
    """
    on_text = None if on_token is None else (lambda row, piece: on_token(piece))
    return generate_batch(architecture, params, tokenizer, [prompt], seeds=[seed], on_text=on_text, **settings)[0]


def generate_batch(
    architecture: Architecture,
    params: Parameters,
    tokenizer: Tokenizer,
    prompts: Sequence[str | Sequence[int]],
    *,
    depth: DepthConfig | None = None,
    prefill_depth: DepthConfig | None = None,
    max_new_tokens: int = 128,
    sampling: Sampling | None = None,
    seeds: int | Sequence[int] = 0,
    document_mask: bool = False,
    context: str = "slide",
    cache_share: int = 1,
    speculation: Speculation | None = None,
    on_text: Callable[[int, str], None] | None = None,
) -> tuple[Generation, ...]:
    """Continue prompts, each until its end token or `max_new_tokens`.

    The token at place i of a row is drawn with the key fold_in(key(seed of the row), i), so it depends on the row's
    seed and its text alone, not on its neighbours. With speculation this holds where the sampling is greedy or the
    draft is fixed (one depth, one length); otherwise the draft depends on what the batch accepts.

    Args:
        architecture: a causal model without its numbers.
        params: its numbers.
        tokenizer: the model's own.
        prompts: texts, or their token ids; literals such as ``<|endoftext|>`` in a text are special tokens.
        depth: solver, steps and schedule of every new token; full depth when None.
        prefill_depth: those of the prompts; `depth` when None. Slots are filled from the applications nearest in
            depth-time.
        max_new_tokens: at most so many a row.
        sampling: `Temperature(1.0)` when None.
        seeds: one for all rows, or one a row.
        document_mask: keep attention within documents.
        context: a token reads the last L tokens at most, itself among them. slide: a text goes on beyond L, a prompt
            may not; window: a longer prompt is read that way as well; refuse: prompt and new tokens must fit into L.
        cache_share: neighbouring applications of a block that share a slot of the cache; 0: all of them.
        speculation: how to draft; None draws token by token.
        on_text: called with the row and each piece of its finished text.

    Raises:
        UserError: a masked model, a depth that does not fit its layout, an empty or too long prompt, or more rows than
            memory.
        Diverged: predictions that are not finite.
    """
    bound: Transformer = architecture.bind(params)
    model: ModelConfig = bound.config
    require(
        model.kind == "causal",
        'model.kind = "masked": a masked model fills in [MASK] and does not generate; use task fill',
    )
    require(
        speculation is None or cache_share == 1,
        f"cache_share = {cache_share} with speculation: drafts are checked many tokens at once, which then read other "
        "slots than one by one; leave one of them out",
    )
    require(max_new_tokens >= 1, f"max_new_tokens = {max_new_tokens}: must be at least 1")
    depth = bound.resolve(depth or DepthConfig())
    prefill_depth = depth if prefill_depth is None else bound.resolve(prefill_depth)
    for solve in (depth, prefill_depth, *(speculation.depths if speculation else ())):
        plan(model, solve)
        applications(model, solve)
    ids = [_ids(tokenizer, prompt, number) for number, prompt in enumerate(prompts)]
    _check_context(model, ids, max_new_tokens, context)
    given = [seeds] * len(ids) if isinstance(seeds, int) else list(seeds)
    require(len(given) == len(ids), f"seeds: {len(given)} of them for {len(ids)} prompts; give one, or one a prompt")
    decoder = Decoder(
        architecture,
        depth,
        Layout(depth, cache_share),
        sampling or Temperature(),
        tokenizer.vocab_size,
        tokenizer.end_id,
        model.length,
    )
    running = Running(decoder, params, tokenizer, ids, max_new_tokens, on_text)
    running.prefill(prefill_depth, given, document_mask)
    running.run(speculation)
    return running.generations()


def _ids(tokenizer: Tokenizer, prompt: str | Sequence[int], number: int) -> list[int]:
    ids = tokenizer.encode(prompt, allow_special=True) if isinstance(prompt, str) else [int(one) for one in prompt]
    require(
        len(ids) > 0,
        f"prompt {number} is empty: there is nothing to continue; the prompt <|endoftext|> begins a new document",
    )
    strange = next((one for one in ids if not 0 <= one < tokenizer.vocab_size), None)
    require(
        strange is None,
        f"prompt {number} has the token {strange}: ids of tokenizer {tokenizer.name} are 0 to "
        f"{tokenizer.vocab_size - 1}",
    )
    return ids


def _check_context(model: ModelConfig, ids: Sequence[Sequence[int]], new: int, context: str) -> None:
    require(context in get_args(Context), f'context = "{context}": allowed are {", ".join(get_args(Context))}')
    tokens = max(map(len, ids))
    require(
        context == "window" or tokens <= model.length,
        f"the prompt has {tokens} tokens, more than the {model.length} that the model reads at once: shorten it, or "
        'set context to "window"',
    )
    require(
        context != "refuse" or tokens + new <= model.length,
        f"{tokens} tokens of the prompt and max_new_tokens = {new} exceed the {model.length} that the model reads at "
        'once: ask for fewer, or set context to "slide"',
    )
    require(
        model.positions != "learned" or tokens + new <= model.length,
        f"{tokens} tokens of the prompt and max_new_tokens = {new} exceed the {model.length} positions that this "
        "model has learned: shorten the prompt, or ask for fewer",
    )
