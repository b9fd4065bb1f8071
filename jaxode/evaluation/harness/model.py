"""The model that the harness asks: likelihoods of continuations and of texts, and answers of its own."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float
from lm_eval.api.model import TemplateLM  # pyright: ignore[reportMissingImports]
from lm_eval.api.registry import register_model  # pyright: ignore[reportMissingImports]
from lm_eval.utils import (  # pyright: ignore[reportMissingImports]
    get_rolling_token_windows,
    make_disjoint_window,
)

from jaxode.config import DepthConfig, UserError, require
from jaxode.config.decoding import cache_rule
from jaxode.data.chat import ChatTemplate
from jaxode.evaluation.harness.decoding import Decoding
from jaxode.evaluation.harness.likelihood import pair_nats
from jaxode.inference import load
from jaxode.inference.generation.generate import generate_batch
from jaxode.inference.texts.batch_pass import BatchPass
from jaxode.plugins import load as load_plugins

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance  # pyright: ignore[reportMissingImports]

BATCH_SIZE = 32
NEW_TOKENS = 256
"""Of a generation, where its task names no number."""
HARNESS_DEVICE = "cuda:0"
"""What the harness' command line passes on where no device is named; JAX computes where it computes."""
PIECE = 32
"""Tokens between two looks for a stop string."""
Pair = tuple[list[int], list[int]]
"""Ids that are given, and ids that are predicted behind them."""


@register_model("jaxode")
class HarnessModel(TemplateLM):
    """Whatever `jaxode.load` opens that predicts the next token.

    Args:
        checkpoint: a shipped model, a run, an exported model or a Hugging Face folder or name.
        steps: n; None is the full depth.
        solver: as `DepthConfig.solver`.
        schedule: as `DepthConfig.schedule`.
        cache: slots of decoding, as of `generate_batch`.
        loops: N of a looped model of Hugging Face, in place of its own.
        dtype: of a Hugging Face model: float32 or bfloat16.
        batch_size: rows at once; "auto" is 32.
        max_length: tokens that a row reads at most; the model's own L when None.
        max_gen_toks: new tokens of a generation whose task names no number.
        plugins: files that bring parts by name, with spaces between them.
        add_bos_token: whether contexts stand behind what opens a text: the tokenizer's own opening token, else the end
            token, which documents follow in training. None: those of Hugging Face as their tokenizer says, and models
            of jaxode behind it, unless they were trained to read documents apart.
        device: the harness passes one on; JAX chooses its own (JAX_PLATFORMS), and any but the default is refused.
        max_batch_size: of the harness; refused.

    Raises:
        UserError: a model that predicts no next token, or a value that is not allowed; an argument that does not exist.
    """

    def __init__(
        self,
        checkpoint: str = "",
        *,
        steps: int | None = None,
        solver: str = "auto",
        schedule: str = "auto",
        cache: str = "auto",
        loops: int | None = None,
        dtype: str | None = None,
        batch_size: int | str | None = None,
        max_length: int | None = None,
        max_gen_toks: int = NEW_TOKENS,
        plugins: str = "",
        add_bos_token: bool | None = None,
        device: str | None = None,
        max_batch_size: int | None = None,
        **unknown: Any,
    ) -> None:
        super().__init__()
        allowed = "checkpoint, steps, solver, schedule, cache, loops, dtype, max_length, max_gen_toks, "
        allowed += "add_bos_token, plugins"
        for name, value in unknown.items():
            raise UserError(f"model_args {name} = {value!r}: there is no such argument; allowed are {allowed}")
        require(bool(checkpoint), 'model_args: checkpoint is missing; name a model, "checkpoint=books-causal"')
        for name, value in (("checkpoint", checkpoint), ("plugins", plugins), ("cache", cache)):
            require(isinstance(value, str), f"model_args {name} = {value!r}: must be a text; quote it")
        cache_rule(cache)
        require(
            device in (None, HARNESS_DEVICE),
            f"device = {device!r}: does not apply here; the variable JAX_PLATFORMS chooses where JAX computes",
        )
        require(max_batch_size is None, f"max_batch_size = {max_batch_size}: does not apply here; give batch_size")
        load_plugins(*plugins.split())
        self.loaded = load(checkpoint, loops=loops, dtype=dtype)
        require(
            self.loaded.task == "causal",
            f"checkpoint = {checkpoint}: is a {self.loaded.task.replace('_', ' ')} model; the harness asks for next "
            "tokens, which causal models predict",
        )
        self.checkpoint, self.cache = checkpoint, cache
        self.depth = self.loaded.model.resolve(DepthConfig(steps=steps, solver=solver, schedule=schedule))
        if isinstance(batch_size, str) and batch_size.isdecimal():
            batch_size = int(batch_size)  # from the command line
        self.batch_size = _count("batch_size", BATCH_SIZE if batch_size in (None, "auto") else batch_size)
        longest = self.loaded.config.model.length
        self.max_length = longest if max_length is None else _count("max_length", max_length)
        require(self.max_length <= longest, f"max_length = {max_length}: the model reads {longest} tokens at most")
        self.max_gen_toks = _count("max_gen_toks", max_gen_toks)
        require(
            add_bos_token is None or isinstance(add_bos_token, bool),
            f"add_bos_token = {add_bos_token!r}: must be true or false",
        )
        self._text = self.loaded.own_tokenizer
        first = self._text.opening or (self._text.end_id,)
        apart = self.loaded.config.data.apart
        usual = bool(self._text.opening) if self.loaded.origin == "huggingface" else not apart
        self._opening = list(first) if (usual if add_bos_token is None else add_bos_token) else []
        self._chat = False
        self._pass().check()

    @property
    def eot_token_id(self) -> int:
        """That ends a text."""
        return self._text.end_id

    @cached_property
    def prefix_token_id(self) -> int:
        """That stands before a text without a context: what opens texts, else the end token."""
        if self._text.opening or self.loaded.origin != "huggingface":
            return (self._text.opening or (self._text.end_id,))[-1]
        from transformers import AutoTokenizer

        first = AutoTokenizer.from_pretrained(self.loaded.folder).bos_token_id
        return self._text.end_id if first is None else first

    @property
    def tokenizer_name(self) -> str:
        """For the harness' own caches."""
        return f"{self._text.name}-{self._text.fingerprint}"

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Ids of a text, behind what opens one unless it is to go without or begins so.

        Literals of special tokens are read as such in a conversation alone; elsewhere they are plain text.
        """
        ids = self._text.encode(string, allow_special=self._chat)
        opening = [] if add_special_tokens is False else self._opening
        return ids if ids[: len(opening)] == opening else opening + ids

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The text that stands for a conversation.

        Raises:
            UserError: a tokenizer without a template, or a conversation that it refuses.
        """
        self._chat = True
        return self._template.render(chat_history, answer=add_generation_prompt)

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The template itself, for the record."""
        require(
            isinstance(chat_template, bool),
            f"apply_chat_template = {chat_template!r}: the tokenizer holds one template, which has no name; ask for it "
            "without one",
        )
        # requests that were cached come without a call to apply it
        self._chat = bool(chat_template)
        return self._template.template if chat_template else ""

    @cached_property
    def _template(self) -> ChatTemplate:
        template = self._text.chat_template
        if template is None:
            raise UserError(f"checkpoint = {self.checkpoint}: its tokenizer {self._text.name} has no chat template")
        return template

    def loglikelihood_rolling(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[float]:
        """Log p of whole texts; longer ones in windows of L tokens, each token predicted once, the last window full."""
        texts = [request.args[0] for request in requests]
        pairs: list[Pair] = []
        owner: list[int] = []
        for number, text in enumerate(texts):
            # where a tokenizer opens texts, the harness predicts what it opens them with, too
            ids = [*self._text.opening, *self._text.encode(text)]
            windows = get_rolling_token_windows(ids, self.prefix_token_id, self.max_length, 1)
            cut = [make_disjoint_window(window) for window in windows]
            pairs += cut
            owner += [number] * len(cut)
        found = self._nats(pairs, "loglikelihood_rolling", disable_tqdm)
        sums = -np.bincount(np.asarray(owner, np.int64), weights=found[:, 0], minlength=len(texts))
        for text, value in zip(texts, sums, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", (text,), float(value))
        return [float(value) for value in sums]

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[tuple[str, str], list[int], list[int]]], disable_tqdm: bool = False, **_: Any
    ) -> list[tuple[float, bool]]:
        """Log p of each continuation behind its context, which loses its first tokens where both are too long."""
        found = self._nats([pair for _, *pair in requests], "loglikelihood", disable_tqdm)
        answers = [(-float(nats), not missed) for nats, missed in found]
        for (texts, *_ids), answer in zip(requests, answers, strict=True):
            self.cache_hook.add_partial("loglikelihood", texts, answer)
        return answers

    def _pass(self, progress: str | None = None) -> BatchPass:
        return BatchPass(self.loaded.architecture, self.loaded.params, self.depth, self.batch_size, progress)

    def _nats(self, pairs: Sequence[Sequence[list[int]]], name: str, quiet: bool) -> Float[np.ndarray, "pairs 2"]:
        solve = self._pass(None if quiet else name)
        ids = {"first_id": self.prefix_token_id, "pad_id": self._text.pad_id}
        return pair_nats(pairs, name, solve, length=self.max_length, **ids)

    def generate_until(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[str]:
        """Continuations, each up to the first of its stop strings; contexts lose their first tokens where too long."""
        answers = [""] * len(requests)
        groups: dict[str, list[int]] = {}
        for number, request in enumerate(requests):
            groups.setdefault(repr(request.args[1]), []).append(number)
        for members in groups.values():
            settings = Decoding.read(requests[members[0]].args[1], self.max_gen_toks, self.max_length)
            room = self.max_length - settings.new_tokens
            contexts = {number: self.tok_encode(requests[number].args[0])[-room:] for number in members}
            order = sorted(members, key=lambda number: -len(contexts[number]))
            for first in range(0, len(order), self.batch_size):
                batch = order[first : first + self.batch_size]
                texts = self._continued([contexts[number] for number in batch], batch, settings)
                for number, text in zip(batch, texts, strict=True):
                    answers[number] = text
                    self.cache_hook.add_partial("generate_until", requests[number].args, text)
        return answers

    def _continued(self, prompts: Sequence[list[int]], seeds: Sequence[int], settings: Decoding) -> list[str]:
        """Some tokens at a time: most answers end long before their last token, which nobody needs to wait for. A token
        is drawn by its row's seed and its place, so pieces change nothing.
        """
        rows, made = [prompt or [self.prefix_token_id] for prompt in prompts], [[] for _ in prompts]
        texts, open_rows, left = [""] * len(rows), set(range(len(rows))), settings.new_tokens
        # special tokens have no text
        ids = {text: self._text.token_id(text) for text in settings.until}
        ends = {i for i in ids.values() if i in self._text.special_ids} | {self.eot_token_id}
        while left and open_rows:
            piece = min(PIECE, left)
            found = generate_batch(
                self.loaded,
                [row + new for row, new in zip(rows, made, strict=True)],
                depth=self.depth,
                max_new_tokens=piece,
                sampling=settings.sampling,
                seeds=seeds,
                cache=self.cache,
            )
            left -= piece
            for number in sorted(open_rows):
                made[number] += found[number].ids
                end = next((place for place, i in enumerate(made[number]) if i in ends), None)
                text = self._text.decode(made[number][:end])
                stop = min((at for at in map(text.find, settings.until) if at >= 0), default=-1)
                texts[number] = text if stop < 0 else text[:stop]
                if end is not None or stop >= 0:
                    open_rows.discard(number)
        return texts


def _count(name: str, value: Any) -> int:
    require(
        isinstance(value, int) and not isinstance(value, bool) and value >= 1,
        f"{name} = {value!r}: must be a whole number of at least 1",
    )
    return int(value)
