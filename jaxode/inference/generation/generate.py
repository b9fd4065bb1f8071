"""Continue texts with a causal model, a batch of them at once: every row as if it were alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, SupportsIndex

from tqdm import tqdm

from jaxode.checkpoint import takes_tokenizer
from jaxode.config import DepthConfig, ModelConfig, require
from jaxode.data import Tokenizer
from jaxode.inference.generation.continuation import Generation, Running, Shapes
from jaxode.inference.generation.prompts import Prompt, encode_prompt, encode_prompts, is_whole, plain, row_seeds
from jaxode.inference.generation.sampling import Sampling
from jaxode.inference.generation.settings import Settings
from jaxode.inference.generation.speculation import Speculation
from jaxode.inference.texts.batching import bucket
from jaxode.model import Transformer
from jaxode.model.parameters import Architecture, Parameters


@takes_tokenizer
def generate(
    architecture: Architecture,
    params: Parameters,
    tokenizer: Tokenizer,
    prompt: Prompt,
    *,
    on_token: Callable[[str], None] | None = None,
    seed: SupportsIndex = 0,
    chat: bool = False,
    **settings: Any,
) -> Generation:
    """Continue one prompt, a text or its token ids: `generate_batch` with one row.

    `on_token` is called with each piece of finished text; the pieces join to the text. With `chat` the prompt is what a
    user says, and stands within the chat template of the model's tokenizer.

    Raises:
        UserError: several prompts, and what `generate_batch` refuses.
        Diverged: predictions that are not finite.
    """
    require(on_token is None or callable(on_token), f"on_token = {on_token!r}: must be None or a function")
    ids = encode_prompt(tokenizer, prompt, chat=chat)
    on_text = None if on_token is None else (lambda row, piece: on_token(piece))
    return generate_batch(architecture, params, tokenizer, [ids], seeds=seed, on_text=on_text, **settings)[0]


@takes_tokenizer
def generate_batch(
    architecture: Architecture,
    params: Parameters,
    tokenizer: Tokenizer,
    prompts: Iterable[Prompt],
    *,
    depth: DepthConfig | None = None,
    prefill_depth: DepthConfig | None = None,
    max_new_tokens: int = 128,
    sampling: Sampling | str | None = None,
    seeds: SupportsIndex | Iterable[SupportsIndex] = 0,
    document_mask: bool = False,
    context: str = "slide",
    cache_share: int = 1,
    cache: str = "auto",
    speculation: Speculation | None = None,
    prefix: bool = False,
    chat: bool = False,
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
        prompts: texts, or their token ids; literals such as ``<|endoftext|>`` in a text are special tokens. A text
            stands behind what a Hugging Face model's tokenizer opens texts with, as <s> of Llama's.
        depth: solver, steps and schedule of every new token; full depth when None.
        prefill_depth: those of the prompts; `depth` when None. Slots are filled from the applications nearest in
            depth-time.
        max_new_tokens: at most so many a row.
        sampling: a method or methods by name, "temperature:0.8,top_k:40"; `Temperature(1.0)` when None.
        seeds: one for all rows, or one a row; from 0 to 2^32 - 1.
        document_mask: keep attention within documents.
        context: a token reads the last L tokens at most, itself among them. slide: a text goes on beyond L, a prompt
            may not; window: a longer prompt is read that way as well; refuse: prompt and new tokens must fit into L.
        cache_share: neighbouring applications of a block that share a slot of the cache; 0: all of them.
        cache: loop: each loop reads its own keys and values of earlier tokens, which is exact; last, first, modulo:k:
            those of other loops, in less memory (`jaxode.inference.generation.cache.Layout`); auto: what the model was
            made for.
        speculation: how to draft; None draws token by token.
        prefix: tokens of a prompt read each other both ways, in a model with `attention.prefix`.
        chat: every prompt is a text, what a user says, and stands within the chat template of the tokenizer.
        on_text: called with the row and each piece of its finished text.

    Raises:
        UserError: one string in place of several prompts, none of them, one that is empty, too long or no text, a
            setting of another type or out of range, a masked model, another model's tokenizer, a depth that does not
            fit the layout, or more rows than memory.
        Diverged: predictions that are not finite.
    """
    settings = Settings(
        depth=depth,
        prefill_depth=prefill_depth,
        max_new_tokens=max_new_tokens,
        sampling=sampling,
        document_mask=document_mask,
        context=context,
        cache_share=cache_share,
        cache=cache,
        speculation=speculation,
        prefix=prefix,
    ).resolved(architecture.bind(params))
    require(on_text is None or callable(on_text), f"on_text = {on_text!r}: must be None or a function")
    decoder = settings.decoder(architecture, params, tokenizer)
    ids = encode_prompts(tokenizer, prompts, chat)
    settings.check_length(architecture.bind(params).config, max(map(len, ids)))
    running = Running(decoder, params, tokenizer, ids, int(max_new_tokens), on_text)
    running.prefill(settings.prefill_solve, row_seeds(seeds, len(ids)), document_mask)
    running.run(settings.speculation)
    return running.generations()


@takes_tokenizer
def warm_up(
    architecture: Architecture,
    params: Parameters,
    tokenizer: Tokenizer,
    *,
    lengths: Iterable[SupportsIndex] | None = None,
    batch_size: int = 1,
    **settings: Any,
) -> None:
    """Compile ahead what `generate` and `generate_batch` of the same settings will need, so that none of them waits.

    Programs belong to a bucket of prompt lengths, a batch size, a depth and what else is set, `max_new_tokens` among
    it. They live as long as the process. A bar shows on standard error where that is a terminal.

    Args:
        architecture: a causal model without its numbers.
        params: its numbers; others of the same shapes need the same programs.
        tokenizer: the model's own.
        lengths: tokens of the prompts to come, each of which stands for its bucket (16, 32, 48, 64, 80, ..); all that
            the model reads when None.
        batch_size: prompts at once.
        **settings: of `generate_batch`: depth, prefill_depth, max_new_tokens, sampling, document_mask, context,
            cache_share, cache, speculation, prefix.

    Raises:
        UserError: what `generate_batch` refuses with these settings, or a length below 1.
        Diverged: predictions that are not finite.
    """
    require(is_whole(batch_size) and batch_size >= 1, f"batch_size = {batch_size!r}: must be a whole number from 1 on")
    chosen = Settings(**settings).resolved(architecture.bind(params))
    decoder = chosen.decoder(architecture, params, tokenizer)
    bound: Transformer = architecture.bind(params)
    rows, new = int(batch_size), int(chosen.max_new_tokens)
    listed = _prompt_lengths(lengths, chosen, bound.config)
    shapes = (Shapes.of(decoder, bound, rows, length, new) for length in listed)
    # a prompt length for every set of programs
    distinct = {(shape.width, shape.sizes): shape.longest for shape in shapes}
    for length in tqdm(distinct.values(), desc="warm-up", unit="shape", leave=False, disable=None):
        prompts = [[tokenizer.ordinary_ids[0]] * length] * rows
        running = Running(decoder, params, tokenizer, prompts, new, None)
        running.prefill(chosen.prefill_solve, [0] * rows, chosen.document_mask)
        running.rehearse(chosen.speculation)


def _prompt_lengths(lengths: Iterable[SupportsIndex] | None, settings: Settings, model: ModelConfig) -> list[int]:
    """Every length of the buckets that these lie in; all that the model reads when None."""
    if lengths is None:
        settings.check_length(model, 1)
        return list(range(1, (settings.longest_prompt(model) or model.length) + 1))
    require(isinstance(lengths, Iterable), f"lengths = {lengths!r}: must be None or a list of whole numbers")
    buckets = set()
    for length in plain(lengths):
        require(is_whole(length) and length >= 1, f"lengths: {length!r} is none; give whole numbers of at least 1")
        settings.check_length(model, int(length))
        buckets.add(bucket(int(length)))
    require(bool(buckets), "no lengths: give at least one, or None for all")
    last = min(max(buckets), settings.longest_prompt(model) or max(buckets))
    return [length for length in range(1, last + 1) if bucket(length) in buckets]
