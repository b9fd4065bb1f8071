"""Tokenizers that exist: from a folder, the Hugging Face cache or the hub."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import tokenizers as hf

from jaxode.config import UserError, require
from jaxode.data.chat import ChatTemplate
from jaxode.data.network import hub_reachable
from jaxode.data.tokenizer_files import MODEL_CONFIG, TOKENIZER_CONFIG, quiet, readable, reason
from jaxode.data.tokenizers import ROLES_FILE, Tokenizer


def find_tokenizer(name: str) -> Tokenizer:
    """The tokenizer that `data.tokenizer` names: one that `Tokenizer.save` wrote, as the folder "tokenizer" of a run
    or of a shipped model, or one of Hugging Face.

    Raises:
        UserError: as `from_pretrained` and `Tokenizer.load`.
    """
    folder = Path(name).expanduser()
    theirs = any((folder / file).exists() for file in (TOKENIZER_CONFIG, MODEL_CONFIG))
    return Tokenizer.load(folder) if (folder / ROLES_FILE).is_file() and not theirs else from_pretrained(name)


def from_pretrained(name: str, framed: bool = False) -> Tokenizer:
    """A Hugging Face tokenizer by folder or by name; end is its eos or sep token, pad falls back to end.

    Args:
        name: a folder, or a name in the Hugging Face cache or hub. The spiece.model in an ALBERT's folder needs no
            tokenizer.json beside it, nor the package sentencepiece; those of other models need the package.
        framed: whether the model that it belongs to reads texts within its template.

    Raises:
        UserError: there is no such folder, the name cannot be reached, its vocabulary is missing, or the tokenizer
            lacks what packing needs.
    """
    source = _pretrained(name)
    model = getattr(source, "backend_tokenizer", None)
    if not isinstance(model, hf.Tokenizer):
        raise UserError(f'data.tokenizer = "{name}": has no fast tokenizer (tokenizer.json); choose another')
    end = source.eos_token_id if source.eos_token_id is not None else source.sep_token_id
    require(end is not None, f'data.tokenizer = "{name}": has neither an eos nor a sep token to end documents with')
    pad = source.pad_token_id if source.pad_token_id is not None else end
    label = Path(name).name if Path(name).exists() else name
    tokenizer = Tokenizer(model, label, end, source.mask_token_id, pad, framed, ChatTemplate.of(source))
    # transformers makes such a one where it finds no vocabulary: every word would be unknown
    require(
        bool(tokenizer.ordinary_ids),
        f'data.tokenizer = "{name}": knows no token but its {tokenizer.vocab_size} special ones as a '
        f"{type(source).__name__}: its vocabulary is missing, or belongs to another class",
    )
    return tokenizer


def _pretrained(name: str) -> Any:
    """What transformers reads."""
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    from transformers import AutoTokenizer

    hint = 'give "bpe", "bytes", or the name or folder of a Hugging Face tokenizer'
    # no code of a model is run; unless told so, transformers asks the terminal whether it may
    options = {"trust_remote_code": False}
    with quiet():
        try:
            if (folder := Path(name).expanduser()).is_dir():
                with readable(folder) as files:
                    return AutoTokenizer.from_pretrained(str(files), local_files_only=True, **options)
            return AutoTokenizer.from_pretrained(name, local_files_only=True, **options)
        except Exception as error:  # transformers and the Rust side raise many kinds
            if Path(name).exists() or name.startswith((".", "/", "~")):
                raise UserError(f'data.tokenizer = "{name}": cannot be loaded ({reason(error)}); {hint}') from None
        # the hub client retries for most of a minute without a network, so look before asking
        if not hub_reachable():
            raise UserError(
                f'data.tokenizer = "{name}": not on this machine, and the Hugging Face hub cannot be reached; {hint}'
            )
        try:
            return AutoTokenizer.from_pretrained(name, **options)
        except Exception as error:
            raise UserError(f'data.tokenizer = "{name}": cannot be loaded ({reason(error)}); {hint}') from None
