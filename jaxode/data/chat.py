"""How a model reads a conversation: the chat template of its tokenizer. Imports no jax."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from jaxode.config import UserError, require
from jaxode.data.tokenizer_files import quiet, reason

Messages = str | Iterable[Mapping[str, Any]]
"""What a user says, or a conversation: {"role": "user", "content": ".."} and so on, in order."""


@dataclass(frozen=True)
class ChatTemplate:
    """A Jinja template, as tokenizer_config.json or chat_template.jinja holds it, and the special tokens it names."""

    template: str
    tokens: Mapping[str, str] = field(default_factory=dict)
    """By role, such as bos_token."""

    @classmethod
    def of(cls, source: Any) -> ChatTemplate | None:
        """That of a tokenizer of transformers; None where it has none, or several and no default."""
        template = getattr(source, "chat_template", None)
        template = template.get("default") if isinstance(template, Mapping) else template
        if not isinstance(template, str):
            return None
        tokens = {role: str(token) for role, token in source.special_tokens_map.items() if isinstance(token, str)}
        return cls(template, tokens)

    @classmethod
    def read(cls, raw: Any) -> ChatTemplate | None:
        """What `written` gave."""
        return None if raw is None else cls(str(raw["template"]), dict(raw["tokens"]))

    def written(self) -> dict[str, Any]:
        """For a file of JSON."""
        return {"template": self.template, "tokens": dict(self.tokens)}

    def render(self, messages: Messages, answer: bool = True) -> str:
        """The text that stands for a conversation and begins the model's answer; without `answer` the last message is
        to be gone on with.

        Raises:
            UserError: what is no conversation, or one that the template refuses.
        """
        conversation = [{"role": "user", "content": messages}] if isinstance(messages, str) else list(messages)
        fits = all(isinstance(one, Mapping) and {"role", "content"} <= one.keys() for one in conversation)
        require(
            bool(conversation) and fits,
            'a conversation is a text, or a list of messages such as {"role": "user", "content": "Hello"}',
        )
        import tokenizers as hf
        from transformers import PreTrainedTokenizerFast

        # of the tokenizer a template reads the special tokens alone
        plain = hf.Tokenizer(hf.models.WordLevel({"a": 0}, unk_token="a"))
        try:
            with quiet():
                renderer = PreTrainedTokenizerFast(
                    tokenizer_object=plain, chat_template=self.template, **dict(self.tokens)
                )
                return str(
                    renderer.apply_chat_template(
                        [dict(one) for one in conversation],
                        tokenize=False,
                        add_generation_prompt=answer,
                        continue_final_message=not answer,
                    )
                )
        except ImportError:
            raise UserError("chat templates need a package: pip install jinja2") from None
        except Exception as error:  # Jinja raises many kinds, and templates what they like
            raise UserError(f"the tokenizer's chat template cannot be applied: {reason(error)}") from None
