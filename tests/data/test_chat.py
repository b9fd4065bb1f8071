"""What a chat template makes of a conversation, and what opens a text, as transformers has it."""

import json

import pytest
import tokenizers as hf
from tokenizers import models, pre_tokenizers, processors

from jaxode.config import UserError
from jaxode.data import Tokenizer
from jaxode.data.chat import ChatTemplate
from jaxode.data.pretrained_tokenizers import from_pretrained

TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{% if message.role == 'other' %}"
    "{{ raise_exception('no such role') }}{% endif %}<|{{ message.role }}|>{{ message.content }}{{ eos_token }}"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SPECIALS = ["<s>", "</s>", "<|user|>", "<|assistant|>"]
TALK = [
    {"role": "user", "content": "abc"},
    {"role": "assistant", "content": "b"},
    {"role": "user", "content": "ca"},
]


def write(folder, opens=("<s>",), ends=(), **config):
    """A tokenizer of three letters, as the hub holds one."""
    model = hf.Tokenizer(models.WordLevel({t: i for i, t in enumerate([*SPECIALS, "?", "a", "b", "c"])}, unk_token="?"))
    model.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    model.add_special_tokens(SPECIALS)
    if opens or ends:
        frame = " ".join([*opens, "$A", *ends])
        ids = [(token, SPECIALS.index(token)) for token in {*opens, *ends}]
        model.post_processor = processors.TemplateProcessing(single=frame, special_tokens=ids)
    model.save(str(folder / "tokenizer.json"))
    named = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"} | config
    (folder / "tokenizer_config.json").write_text(json.dumps(named))
    return from_pretrained(str(folder), framed=True)


@pytest.mark.parametrize("talk", [TALK[:1], TALK])
def test_ids_are_those_of_transformers(tmp_path, talk):
    from transformers import AutoTokenizer

    tokenizer = write(tmp_path, chat_template=TEMPLATE)
    theirs = AutoTokenizer.from_pretrained(str(tmp_path))
    want = theirs.apply_chat_template(talk, add_generation_prompt=True, return_dict=False)
    assert tokenizer.chat(talk) == want
    if talk == TALK[:1]:
        assert tokenizer.chat("abc") == want == [0, 2, 5, 6, 7, 1, 3]


def test_a_template_in_a_file_of_its_own(tmp_path):
    (tmp_path / "chat_template.jinja").write_text(TEMPLATE)
    assert write(tmp_path).chat("a") == [0, 2, 5, 1, 3]


def test_it_is_kept_where_a_tokenizer_is_saved(tmp_path):
    tokenizer = write(tmp_path, chat_template=TEMPLATE)
    tokenizer.save(tmp_path / "saved")
    again = Tokenizer.load(tmp_path / "saved")
    assert (
        again.chat_template
        == tokenizer.chat_template
        == ChatTemplate(TEMPLATE, {"bos_token": "<s>", "eos_token": "</s>"})
    )
    assert again.chat(TALK) == tokenizer.chat(TALK)
    assert again.fingerprint == tokenizer.fingerprint


def test_refusals(tmp_path):
    tokenizer = write(tmp_path, chat_template=TEMPLATE)
    with pytest.raises(UserError, match=r"^the tokenizer's chat template cannot be applied: no such role$"):
        tokenizer.chat([{"role": "other", "content": "a"}])
    for talk in ([], [{"role": "user"}], [{"content": "a"}]):
        with pytest.raises(UserError, match=r"^a conversation is a text, or a list of messages such as"):
            tokenizer.chat(talk)
    plain = write(tmp_path)
    assert plain.chat_template is None
    with pytest.raises(UserError, match=r"^tokenizer test_refusals0 has no chat template: give the prompt as it is"):
        plain.chat("a")


@pytest.mark.parametrize(
    ("opens", "ends", "own"),
    [(("<s>",), (), (0,)), (("<s>",), ("</s>",), (0,)), ((), (), ()), ((), ("</s>",), ())],
)
def test_a_prompt_stands_behind_what_opens_a_text_and_before_nothing(tmp_path, opens, ends, own):
    from transformers import AutoTokenizer

    tokenizer = write(tmp_path, opens, ends)
    assert tokenizer.opening == own
    assert tokenizer.encode_prompt("abc") == [*own, 5, 6, 7]
    theirs = AutoTokenizer.from_pretrained(str(tmp_path))("abc")["input_ids"]
    assert tokenizer.encode_prompt("abc") == theirs[: len(theirs) - len(ends)]
    # not twice
    assert tokenizer.encode_prompt("<s>a") == [0, 5]
    assert tokenizer.encode_prompt("") == []


def test_a_tokenizer_of_no_such_model_opens_nothing(tmp_path):
    write(tmp_path)
    assert from_pretrained(str(tmp_path)).opening == ()


def test_the_code_of_a_model_is_not_run_and_nobody_is_asked(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("builtins.input", lambda *words: asked.append(words) or "n")
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "looped", "auto_map": {"AutoConfig": "configuration_looped.LoopedConfig"}})
    )
    assert write(tmp_path).encode_prompt("a") == [0, 5]
    assert not asked
