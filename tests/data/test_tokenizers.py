"""Byte-level round trips, special tokens as text and as tokens, saving, and pretrained tokenizers."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxode.config import UserError
from jaxode.data import Tokenizer, byte_tokenizer, from_pretrained, pretrained_tokenizers, train_bpe
from jaxode.data import byte_level as room
from jaxode.data.tokenizers import Template

BYTES = byte_tokenizer()
BPE = train_bpe(["the cat sat on the mat\n" * 10, "die Katze saß auf der Matte"], 300)
any_text = st.text(st.characters(exclude_categories=["Cs"]))


@pytest.mark.parametrize("tokenizer", [BYTES, BPE], ids=["bytes", "bpe"])
class TestByteLevel:
    @given(text=any_text)
    def test_any_text_comes_back(self, tokenizer: Tokenizer, text: str):
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert all(0 <= i < tokenizer.vocab_size for i in ids)

    @given(text=any_text, literal=st.sampled_from([room.END, room.PAD, room.MASK]))
    def test_literals_in_a_corpus_are_plain_text(self, tokenizer: Tokenizer, text: str, literal: str):
        ids = tokenizer.encode_batch([text + literal + text])[0]
        assert not tokenizer.special_ids & set(ids)
        assert tokenizer.decode(ids) == text + literal + text

    def test_literals_in_a_prompt_are_tokens(self, tokenizer: Tokenizer):
        ids = tokenizer.encode("the [MASK] sat<|endoftext|>", allow_special=True)
        assert ids.count(tokenizer.mask_id or -1) == 1
        assert ids[-1] == tokenizer.end_id

    def test_the_mask_stands_for_its_leading_space_too(self, tokenizer: Tokenizer):
        ids = tokenizer.encode("the [MASK]", allow_special=True)
        assert ids == [*tokenizer.encode("the"), tokenizer.mask_id]

    def test_ordinary_and_special_ids_are_the_vocabulary(self, tokenizer: Tokenizer):
        assert set(tokenizer.ordinary_ids) | tokenizer.special_ids == set(range(tokenizer.vocab_size))
        assert not set(tokenizer.ordinary_ids) & tokenizer.special_ids

    def test_save_and_load(self, tokenizer: Tokenizer, tmp_path: Path):
        tokenizer.save(tmp_path)
        loaded = Tokenizer.load(tmp_path)
        assert loaded.fingerprint == tokenizer.fingerprint
        assert (loaded.name, loaded.end_id, loaded.mask_id, loaded.pad_id, loaded.vocab_size) == (
            tokenizer.name,
            tokenizer.end_id,
            tokenizer.mask_id,
            tokenizer.pad_id,
            tokenizer.vocab_size,
        )
        assert loaded.encode("the [MASK] cat") == tokenizer.encode("the [MASK] cat")


def test_whether_texts_are_framed_is_kept_and_is_no_part_of_the_ids(tmp_path: Path):
    framed = Tokenizer(
        room.hf.Tokenizer.from_str(BYTES._json), "bytes", BYTES.end_id, BYTES.mask_id, BYTES.pad_id, True
    )
    assert framed.fingerprint == BYTES.fingerprint
    framed.save(tmp_path)
    assert Tokenizer.load(tmp_path).framed
    # as it was saved before
    roles = tmp_path / "jaxode_tokenizer.json"
    roles.write_text(json.dumps({k: v for k, v in json.loads(roles.read_text()).items() if k != "framed"}))
    assert not Tokenizer.load(tmp_path).framed
    BYTES.save(tmp_path)
    assert not Tokenizer.load(tmp_path).framed


def test_the_template_is_there_for_a_tokenizer_that_drops_a_text():
    raw = json.loads(BYTES._json)
    pieces = [{"SpecialToken": {"id": room.END, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    ids = {room.END: {"id": room.END, "ids": [BYTES.end_id], "tokens": [room.END]}}
    raw["post_processor"] = {"type": "TemplateProcessing", "single": pieces, "pair": pieces, "special_tokens": ids}
    raw["normalizer"] = {"type": "Replace", "pattern": {"Regex": "[a-z]"}, "content": ""}
    tokenizer = Tokenizer(room.hf.Tokenizer.from_str(json.dumps(raw)), "drops", BYTES.end_id, None, BYTES.pad_id)
    assert tokenizer.encode("abc") == []
    assert tokenizer.template == Template((BYTES.end_id,), ())


def test_the_byte_vocabulary_has_one_id_a_byte():
    assert BYTES.vocab_size == 259
    assert len(BYTES.encode("aé漢")) == 1 + 2 + 3


def test_merges_shorten_text():
    assert len(BPE.encode("the cat sat on the mat")) < len(BYTES.encode("the cat sat on the mat"))


def test_the_vocabulary_never_exceeds_its_size():
    assert train_bpe(["ab " * 100], 5000).vocab_size < 300
    with pytest.raises(UserError, match="at least 259"):
        train_bpe(["a"], 100)


@pytest.mark.parametrize("text", ["ACGT" * 5000, "漢" * 5000, "x" + " " * 5000 + "y", "short words\n" * 500])
def test_no_word_that_a_vocabulary_is_learned_from_is_longer_than_the_bound(text: str):
    pieces = [piece for piece, _ in room.bounded_words().pre_tokenize_str(text)]
    words = [word for word, _ in room._words().pre_tokenize_str(text)]
    assert "".join(pieces) == "".join(words)
    # a character of these words is a byte
    assert max(map(len, pieces)) <= room.WORD_BYTES
    assert (pieces == words) == (max(map(len, words)) <= room.WORD_BYTES)


def test_text_without_spaces_gives_a_vocabulary_of_bounded_entries():
    found = train_bpe(["a" * 20_000], 300)
    assert max(len(found.token(i) or "") for i in found.ordinary_ids) == room.WORD_BYTES
    for text in ("a" * 20_001, "ACGT" * 5000, "漢" * 5000):
        assert found.decode(found.encode(text)) == text
        assert found.encode_batch([text, "b"])[0] == found.encode(text)


def test_the_bound_does_not_show_in_a_vocabulary_of_ordinary_text(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(room, "WORD_BYTES", 100_000)
    text = Path(room.__file__).read_text(encoding="utf-8")
    unbounded = train_bpe([text], 400)
    monkeypatch.undo()
    assert train_bpe([text], 400).fingerprint == unbounded.fingerprint


def test_texts_that_no_bytes_stand_for_are_refused_by_number():
    broken = "caf\udce9"
    with pytest.raises(UserError, match=r"the text is not Unicode: character 4 is the lone surrogate '\\udce9'"):
        BPE.encode(broken, allow_special=True)
    with pytest.raises(UserError, match=r"text 3 is not Unicode: character 4"):
        BPE.encode_batch(["a", "b", broken])


def test_a_string_is_no_list_of_texts():
    with pytest.raises(UserError, match="texts is one string: give a list"):
        BPE.encode_batch("abc")


def test_training_is_deterministic_across_processes():
    code = (
        "from jaxode.data import train_bpe;"
        "print(train_bpe(['the cat sat on the mat\\n' * 10, 'die Katze saß auf der Matte'], 300).fingerprint)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == BPE.fingerprint


def test_different_vocabularies_have_different_fingerprints():
    assert BPE.fingerprint != BYTES.fingerprint


@pytest.mark.parametrize("file", ["tokenizer.json", "jaxode_tokenizer.json"])
def test_missing_and_damaged_files(file: str, tmp_path: Path):
    BYTES.save(tmp_path)
    (tmp_path / file).write_text('{"name": ')
    with pytest.raises(UserError, match="damaged tokenizer"):
        Tokenizer.load(tmp_path)
    (tmp_path / file).unlink()
    with pytest.raises(UserError, match=f"{file}: missing"):
        Tokenizer.load(tmp_path)


def pretrained_folder(folder: Path, **roles: str) -> Path:
    from transformers import PreTrainedTokenizerFast

    BPE.save(folder / "source")
    source = PreTrainedTokenizerFast(tokenizer_file=str(folder / "source" / "tokenizer.json"), **roles)
    source.save_pretrained(folder / "mine")
    return folder / "mine"


def test_a_pretrained_folder_maps_its_roles(tmp_path: Path):
    found = from_pretrained(str(pretrained_folder(tmp_path, sep_token=room.END, mask_token="[MASK]")))
    assert (found.name, found.end_id, found.mask_id) == ("mine", BPE.end_id, BPE.mask_id)
    assert found.pad_id == found.end_id, "pad falls back to end"
    assert found.encode("the cat") == BPE.encode("the cat")


def test_a_saved_tokenizer_is_one_by_its_folder(tmp_path: Path):
    BPE.save(tmp_path / "run")
    found = pretrained_tokenizers.find_tokenizer(str(tmp_path / "run"))
    assert (found.fingerprint, found.end_id, found.mask_id, found.pad_id) == (
        BPE.fingerprint,
        BPE.end_id,
        BPE.mask_id,
        BPE.pad_id,
    )


def test_a_stored_length_limit_does_not_cut_text(tmp_path: Path):
    folder = pretrained_folder(tmp_path, eos_token=room.END)
    stored = json.loads((folder / "tokenizer.json").read_text())
    stored["truncation"] = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    (folder / "tokenizer.json").write_text(json.dumps(stored))
    assert from_pretrained(str(folder)).decode(from_pretrained(str(folder)).encode("the cat " * 50)) == "the cat " * 50


def test_a_pretrained_tokenizer_without_an_end_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match="neither an eos nor a sep"):
        from_pretrained(str(pretrained_folder(tmp_path, mask_token="[MASK]")))


def test_an_unreachable_name_fails_fast_in_one_line(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pretrained_tokenizers, "hub_reachable", lambda: False)
    from transformers import AutoTokenizer

    load, looked = AutoTokenizer.from_pretrained, []

    def watched(*names, **flags):
        looked.append(flags)
        return load(*names, **flags)

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", watched)
    with pytest.raises(UserError, match="cannot be reached") as caught:
        from_pretrained("no-such-author/no-such-tokenizer")
    assert "\n" not in str(caught.value)
    # anything more would be the hub client's retries of most of a minute
    assert looked == [{"local_files_only": True, "trust_remote_code": False}]


def test_a_missing_folder_is_named():
    with pytest.raises(UserError, match=r"\./nowhere"):
        from_pretrained("./nowhere")


if "JAXODE_DATA" in os.environ:

    def test_albert():
        found = from_pretrained(os.path.join(os.environ["JAXODE_DATA"], "tokenizers", "albert-base-v2"))
        assert (found.name, found.vocab_size, found.mask_id, found.end_id) == ("albert-base-v2", 30000, 4, 3)
        assert found.encode("paris is [MASK].", allow_special=True).count(4) == 1
        assert 4 not in found.encode("paris is [MASK].")
