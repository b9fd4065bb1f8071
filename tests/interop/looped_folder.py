"""A tiny Ouro with a tokenizer beside it, as the hub holds them: it opens texts with <s>, and has a chat template."""

import json

import tokenizers as hf
from families import CASES
from tokenizers import decoders, models, pre_tokenizers, processors

CHAT = (
    "{{ bos_token }}{% for message in messages %}{% if message.role not in ['user', 'assistant'] %}"
    "{{ raise_exception('Unknown role ' + message.role) }}{% endif %}"
    "<|{{ message.role }}|>{{ message.content }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SPECIALS = ["<s>", "</s>", "<|user|>", "<|assistant|>"]
LETTERS = "abcdefghijklmnopqrstuvwxyz .,\n"


def write_tokenizer(folder, chat=True, opens=True):
    """Letters as tokens, in a vocabulary of 51 at most."""
    vocabulary = {token: index for index, token in enumerate([*SPECIALS, "?", *LETTERS])}
    model = hf.Tokenizer(models.WordLevel(vocabulary, unk_token="?"))
    model.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    model.decoder = decoders.Fuse()
    model.add_special_tokens(SPECIALS)
    if opens:
        model.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    model.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
    config |= {"chat_template": CHAT} if chat else {}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def write_ouro(folder, chat=True, opens=True, **options):
    """The folder, with a vocabulary that is not far larger than the tokenizer's."""
    return write_tokenizer(CASES["ouro"].write(folder, **options), chat, opens)
