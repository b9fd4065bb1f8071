"""One tokenizer class over Hugging Face `tokenizers`, with its special ids known by role. Imports no jax.

Two ways in: corpus text, where a literal like ``<|endoftext|>`` is plain text, and prompts, where it is the token.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import tokenizers as hf
from tokenizers import models

from jaxode.config import UserError, require
from jaxode.config.parsing import parse_json
from jaxode.data.chat import ChatTemplate, Messages
from jaxode.data.pairs import PairTemplate, pair_template
from jaxode.data.tokenizer_files import reason

_MODEL_FILE = "tokenizer.json"
ROLES_FILE = "jaxode_tokenizer.json"


Frame = bool | tuple[str, str] | None
"""Whether texts stand within the tokenizer's template, or between which two entries of its vocabulary; None: within
the template where the tokenizer's own model reads them so."""


@dataclass(frozen=True)
class Template:
    """The special tokens that stand before and after a text, as in [CLS] text [SEP]."""

    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()


class Tokenizer:
    """Text to token ids and back.

    Attributes: `name`; `vocab_size` V, with every id < V; `end_id` ends a document; `mask_id` is None where the
    vocabulary has no mask token; `pad_id`; `special_ids`, all ids that plain text never produces; `framed`, whether
    the model that it belongs to was trained on texts within the template, and so reads them best; `chat_template`, for
    a model that was trained on conversations.
    """

    def __init__(
        self,
        model: hf.Tokenizer,
        name: str,
        end_id: int,
        mask_id: int | None,
        pad_id: int,
        framed: bool = False,
        chat_template: ChatTemplate | None = None,
    ):
        self.name = name
        self.framed, self.chat_template = framed, chat_template
        self.end_id, self.mask_id, self.pad_id = end_id, mask_id, pad_id
        # two copies, since whether specials are parsed is a switch on the model that threads share
        self._json = model.to_str()
        self._prompt = hf.Tokenizer.from_str(self._json)
        self._plain = hf.Tokenizer.from_str(self._json)
        self._plain.encode_special_tokens = True
        for copy in (self._prompt, self._plain):
            # packing cuts and pads; a limit stored with a pretrained tokenizer would lose text silently
            copy.no_truncation()
            copy.no_padding()
        ids = model.get_vocab(with_added_tokens=True).values()
        self.vocab_size = max(ids) + 1
        added = model.get_added_tokens_decoder()
        special = {i for i, token in added.items() if token.special} | {end_id, pad_id, mask_id}
        self.special_ids = frozenset(i for i in special if i is not None)

    def encode(self, text: str, allow_special: bool = False, frame: bool = False) -> list[int]:
        """Token ids of `text`; with `allow_special`, literals such as ``[MASK]`` become their special token.

        With `frame` the ids stand within the special tokens of the tokenizer's own template, as in [CLS] text [SEP].

        Raises:
            UserError: `text` holds a lone surrogate.
        """
        require_unicode([text])
        model = self._prompt if allow_special else self._plain
        with self._encoding():
            return model.encode(text, add_special_tokens=frame).ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of several plain texts, in parallel where there are cores.

        Raises:
            UserError: a string in the place of the list, or a text with a lone surrogate.
        """
        require(not isinstance(texts, str), "texts is one string: give a list of texts")
        require_unicode(texts)
        with self._encoding():
            return [e.ids for e in self._plain.encode_batch_fast(list(texts), add_special_tokens=False)]

    def encode_spans(self, texts: Sequence[str]) -> list[tuple[list[int], list[tuple[int, int]]]]:
        """Token ids of several plain texts, and which characters each token stands for, from and up to.

        Raises:
            UserError: a text with a lone surrogate.
        """
        require_unicode(texts)
        with self._encoding():
            return [(e.ids, e.offsets) for e in self._plain.encode_batch(list(texts), add_special_tokens=False)]

    @contextmanager
    def _encoding(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # the Rust side raises bare Exception
            raise UserError(
                f"tokenizer {self.name}: cannot encode a text ({reason(error)}); its files are incomplete: copy them "
                "again"
            ) from None

    def decode(self, ids: Sequence[int], skip_special: bool = True) -> str:
        """Text of `ids`; special tokens are left out unless asked for. Broken UTF-8 shows as U+FFFD."""
        return self._prompt.decode([int(i) for i in ids], skip_special_tokens=skip_special)

    def token(self, i: int) -> str | None:
        """The vocabulary's entry for id `i`; None in a hole of the vocabulary."""
        return self._prompt.id_to_token(int(i))

    def token_id(self, token: str) -> int | None:
        """The id of a vocabulary entry such as ``[CLS]``."""
        return self._prompt.token_to_id(token)

    @cached_property
    def template(self) -> Template:
        """What `encode` with `frame` puts around a text."""
        # a token of another vocabulary: a text's own ids do not matter, and any text may hold none
        token = hf.Tokenizer(models.WordLevel({"a": 0}, unk_token="a")).encode("a")
        framed = self._plain.post_process(token)
        own = [place for place, special in enumerate(framed.special_tokens_mask) if not special]
        return Template(tuple(framed.ids[: own[0]]), tuple(framed.ids[own[-1] + 1 :]))

    def around(self, frame: Frame) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The ids that a frame puts before and after a text.

        Raises:
            UserError: a named token that the vocabulary has not.
        """
        if isinstance(frame, tuple):
            before, after = (self._named(token) for token in frame)
            return (before,), (after,)
        framed = self.framed if frame is None else frame
        return (self.template.before, self.template.after) if framed else ((), ())

    def pair_template(self, frame: Frame) -> PairTemplate:
        """What stands before, between and after two texts: the tokenizer's own template, or with a frame of two named
        tokens the second of them in the middle as well; without either the end token in the middle.

        Raises:
            UserError: a named token that the vocabulary has not, or a template without a second text.
        """
        whole = self.framed if frame is None else frame
        if whole is True and (own := pair_template(self._plain, self.name)) is not None:
            return own
        before, after = self.around(frame)
        between = after if isinstance(frame, tuple) else (self.end_id,)
        return PairTemplate(before, between, after, ((0,) * len(before), 0, (0,) * len(between), 1, (1,) * len(after)))

    def _named(self, token: str) -> int:
        index = self.token_id(token)
        if index is None:
            raise UserError(f'frame: tokenizer {self.name} has no token "{token}": name two that it has')
        return index

    @property
    def opening(self) -> tuple[int, ...]:
        """What stands before a text that goes on, as <s> does in Llama's: the template's beginning, where framed."""
        return self.template.before if self.framed else ()

    def encode_prompt(self, text: str) -> list[int]:
        """Token ids of a text that a model shall continue: behind `opening`, unless the text itself begins so.

        Raises:
            UserError: `text` holds a lone surrogate.
        """
        ids = self.encode(text, allow_special=True)
        opening = list(self.opening)
        return ids if not ids or ids[: len(opening)] == opening else opening + ids

    def chat(self, messages: Messages) -> list[int]:
        """Token ids of a conversation within the chat template, up to where the model's answer begins.

        Args:
            messages: what a user says, or {"role": "user", "content": ".."} and so on.

        Raises:
            UserError: no chat template, or a conversation that it refuses.
        """
        require(
            self.chat_template is not None,
            f"tokenizer {self.name} has no chat template: give the prompt as it is, without chat",
        )
        assert self.chat_template is not None
        return self.encode(self.chat_template.render(messages), allow_special=True)

    @cached_property
    def unknown_id(self) -> int | None:
        """The id that stands for what the vocabulary has not; None where it has everything."""
        model = json.loads(self._json)["model"]
        token = model.get("unk_token")
        return model.get("unk_id") if token is None else self.token_id(token)

    def unknown_ids(self, ids: Sequence[int]) -> int:
        """How many of them stand for what the vocabulary has not, or for the unknown token itself."""
        return 0 if self.unknown_id is None else list(ids).count(self.unknown_id)

    def count_unknown(self, texts: Sequence[str], ids: Sequence[Sequence[int]]) -> int:
        """Tokens of plain texts, whose `ids` these are, that stand for what the vocabulary has not."""
        unknown, count = self.unknown_id, 0
        if unknown is None:
            return 0
        for text, own in zip(texts, ids, strict=True):
            if unknown in own:
                # the text may hold the unknown token itself
                found = self._plain.encode(text, add_special_tokens=False)
                places = [place for place, index in enumerate(found.ids) if index == unknown]
                pieces = (text[slice(*found.offsets[place])] for place in places)
                count += sum(piece.strip() != self.token(unknown) for piece in pieces)
        return count

    @cached_property
    def ordinary_ids(self) -> tuple[int, ...]:
        """All ids that plain text can produce, in order: what a random replacement is drawn from."""
        return tuple(sorted(set(self._prompt.get_vocab(with_added_tokens=True).values()) - self.special_ids))

    @cached_property
    def fingerprint(self) -> str:
        """Hash of everything that decides the ids; neither the name counts, nor `framed`, nor the chat template."""
        roles = json.dumps([self.end_id, self.mask_id, self.pad_id])
        return hashlib.sha256((self._json + roles).encode()).hexdigest()[:16]

    def save(self, folder: Path | str) -> None:
        """Write tokenizer.json and the roles into `folder`."""
        folder = Path(folder)
        self.save_model(folder)
        roles: dict[str, Any] = {"name": self.name, "end_id": self.end_id, "mask_id": self.mask_id}
        roles |= {"pad_id": self.pad_id, "framed": self.framed}
        if self.chat_template is not None:
            roles["chat_template"] = self.chat_template.written()
        (folder / ROLES_FILE).write_text(json.dumps(roles, indent=2) + "\n", encoding="utf-8")

    def save_model(self, folder: Path | str) -> None:
        """Write tokenizer.json alone into `folder`, for other libraries."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / _MODEL_FILE).write_text(self._json, encoding="utf-8")

    @classmethod
    def load(cls, folder: Path | str) -> Tokenizer:
        """Read what `save` wrote.

        Raises:
            UserError: a file is missing or damaged.
        """
        for file in (path := Path(folder)) / _MODEL_FILE, path / ROLES_FILE:
            require(file.is_file(), f"{file}: missing; {folder} holds no saved tokenizer")
        try:
            roles = parse_json((path / ROLES_FILE).read_text(encoding="utf-8"))
            model = hf.Tokenizer.from_str((path / _MODEL_FILE).read_text(encoding="utf-8"))
            framed = bool(roles.get("framed", False))
            ids = roles["end_id"], roles["mask_id"], roles["pad_id"]
            return cls(model, str(roles["name"]), *ids, framed, ChatTemplate.read(roles.get("chat_template")))
        except Exception as error:  # the Rust side raises bare Exception
            raise UserError(f"{folder}: damaged tokenizer files ({reason(error)}); copy them again") from None

    def __repr__(self) -> str:
        return f"Tokenizer({self.name}, V = {self.vocab_size})"


def require_unicode(texts: Sequence[str]) -> None:
    """Refuse what no UTF-8 stands for: Python puts lone surrogates where bytes of a prompt or a name are no text."""
    for number, text in enumerate(texts, start=1):
        try:
            text.encode()
        except UnicodeEncodeError as error:
            name = f"text {number}" if len(texts) > 1 else "the text"
            raise UserError(
                f"{name} is not Unicode: character {error.start + 1} is the lone surrogate "
                f"{text[error.start]!a}, as Python reads bytes that are no UTF-8; convert it to UTF-8 first"
            ) from None
