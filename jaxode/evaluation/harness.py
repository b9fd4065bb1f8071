"""A causal model in EleutherAI's evaluation harness (Gao et al. 2024, lm-evaluation-harness), at any number of steps.

    python -m jaxode.evaluation.harness --model_args checkpoint=books-causal,steps=6 --tasks NAMES --include_path DIR

takes what `lm_eval` takes, with `--model jaxode` where none is named. From Python, importing this module registers the
model: `lm_eval.simple_evaluate(model="jaxode", model_args={"checkpoint": "books-causal", "steps": 6}, ..)`. Needs the
extra `eval`. An entrance, like infer.py: the only module of this room that knows `inference`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxode.config import DepthConfig, UserError, require
from jaxode.data.chat import ChatTemplate
from jaxode.evaluation.loss import row_loss
from jaxode.inference import load
from jaxode.inference.generation.generate import generate_batch
from jaxode.inference.generation.sampling import Chain, Greedy, Sampling, Temperature, TopK, TopP
from jaxode.inference.texts.batch_pass import BatchPass
from jaxode.inference.texts.batching import RowBatch, padded, real_tokens
from jaxode.model.parameters import Architecture, Parameters
from jaxode.plugins import load as load_plugins
from jaxode.types import Segments, Tokens

# Its error bars fork the process by default, which deadlocks where JAX has started threads.
os.environ.setdefault("DISABLE_MULTIPROC", "1")
try:
    from lm_eval.api.model import TemplateLM  # pyright: ignore[reportMissingImports]
    from lm_eval.api.registry import register_model  # pyright: ignore[reportMissingImports]
    from lm_eval.models.utils import normalize_gen_kwargs  # pyright: ignore[reportMissingImports]
    from lm_eval.utils import (  # pyright: ignore[reportMissingImports]
        get_rolling_token_windows,
        make_disjoint_window,
    )
except ImportError:
    raise UserError('the evaluation harness is not installed: pip install "jaxode[eval]"') from None

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


@partial(jax.jit, static_argnames=("architecture", "depth"))
def continuation_nats(
    params: Parameters,
    tokens: Tokens,
    segments: Segments,
    places: Int[Array, "B K"],
    targets: Int[Array, "B K"],
    *,
    architecture: Architecture,
    depth: DepthConfig,
) -> Float[Array, "B 2"]:
    """Of each row the sum of -log p over its targets from 0 on, and how many of them are not the likeliest token.

    The head reads the states at the places before them alone: most of a row is context.
    """
    model = architecture.bind(params)
    states = model.hidden(tokens, depth, segments=segments).state
    logits = model.read_out(jnp.take_along_axis(states, places[..., None], axis=1))
    predicted = targets >= 0
    nats = row_loss(logits, jnp.maximum(targets, 0), predicted.astype(jnp.float32))[0]
    missed = jnp.sum(predicted & (jnp.argmax(logits, axis=-1) != targets), axis=1)
    return jnp.stack([nats, missed.astype(jnp.float32)], axis=1)


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
        apart = self.loaded.config.data.document_mask
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
        """-log p of the second ids of each pair behind the first, and how many a greedy choice would miss.

        Pairs that are the same go through the model once, and one without predicted ids not at all.
        """
        length, answers = self.max_length, np.zeros((len(pairs), 2))
        places: dict[tuple[tuple[int, ...], int], list[int]] = {}
        for number, (given, predicted) in enumerate(pairs):
            given = given or [self.prefix_token_id]
            if len(predicted) > length:
                raise UserError(
                    f"{name}: a continuation has {len(predicted)} tokens, and the model reads {length}: nothing of its "
                    "context would be left; leave that task out"
                )
            if predicted:
                row = (*given, *predicted)[-length - 1 :]
                places.setdefault((row, min(len(predicted), len(row) - 1)), []).append(number)
        rows = list(places)
        if not rows:
            return answers

        # one number for all batches: each compiles
        most = 1 << (max(count for _, count in rows) - 1).bit_length()

        def inputs(batch: RowBatch) -> tuple[np.ndarray, ...]:
            here = [rows[i] for i in batch.rows]
            read = [row[:-1] for row, _ in here]
            places = np.zeros((batch.size, min(most, batch.length)), np.int32)
            wanted = np.full_like(places, -1)
            for line, target, (row, count) in zip(places, wanted, here, strict=False):
                line[:count] = np.arange(len(row) - 1 - count, len(row) - 1)
                target[:count] = row[len(row) - count :]
            return padded(read, batch, self._text.pad_id), real_tokens(read, batch), places, wanted

        lengths = np.asarray([len(row) - 1 for row, _ in rows], np.int64)
        solve = self._pass(None if quiet else name)
        solved = solve(continuation_nats, inputs, lengths, texts=len(rows), predicted=None)
        for row, values in zip(rows, solved.values, strict=True):
            answers[places[row]] = values
        return answers

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


@dataclass(frozen=True)
class Decoding:
    """How a task wants its answers."""

    until: tuple[str, ...]
    """Texts that end an answer, and do not belong to it."""
    new_tokens: int
    sampling: Sampling

    @classmethod
    def read(cls, given: Mapping[str, Any], most: int, length: int) -> Decoding:
        """From a task's generation_kwargs.

        Raises:
            UserError: a setting that does not exist here, or tokens that leave no room for a context.
        """
        settings = dict(normalize_gen_kwargs(dict(given), most))
        new_tokens, until = settings.pop("max_gen_toks"), settings.pop("until")
        sampled, value = (
            settings.pop("do_sample"),
            settings.pop("temperature", 1.0 if settings.get("do_sample") else 0.0),
        )
        top_k, top_p = settings.pop("top_k", None), settings.pop("top_p", None)
        for name, other in settings.items():
            raise UserError(
                f"generation_kwargs {name} = {other!r}: there is no such setting here; allowed are until, "
                "max_gen_toks, do_sample, temperature, top_k, top_p"
            )
        require(
            0 < new_tokens < length,
            f"max_gen_toks = {new_tokens}: must be at least 1 and leave room for a context in the {length} tokens that "
            "the model reads",
        )
        if not sampled or float(value) == 0:
            return cls(tuple(filter(None, until)), new_tokens, Greedy())
        methods: list[Sampling] = [Temperature(float(value))]
        methods += [TopK(int(top_k))] if top_k else []
        methods += [TopP(float(top_p))] if top_p is not None else []
        return cls(tuple(filter(None, until)), new_tokens, Chain(tuple(methods)))


def _count(name: str, value: Any) -> int:
    require(
        isinstance(value, int) and not isinstance(value, bool) and value >= 1,
        f"{name} = {value!r}: must be a whole number of at least 1",
    )
    return int(value)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the harness' own command line with this model.

    Raises:
        SystemExit: with one line, where something cannot be used.
    """
    from lm_eval.__main__ import cli_evaluate  # pyright: ignore[reportMissingImports]

    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] not in (["ls"], ["validate"]):
        given = ["run", *(given[1:] if given[:1] == ["run"] else given)]
        told = [argument.partition("=")[0] for argument in given]
        if not {"--config", "-C"} & set(told):
            given += [] if {"--model", "-M"} & set(told) else ["--model", "jaxode"]
            given += [] if {"--batch_size", "-b"} & set(told) else ["--batch_size", "auto"]  # the harness says 1
    kept = sys.argv
    sys.argv = ["jaxode.evaluation.harness", *given]
    try:
        cli_evaluate()
    except UserError as error:
        raise SystemExit(f"error: {error}") from None
    finally:
        sys.argv = kept


if __name__ == "__main__":
    main()
