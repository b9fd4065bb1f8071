"""The evaluation harness' own model for transformers, and ours, on the same weights."""

import pytest
from looped_folder import LETTERS, SPECIALS, write_tokenizer
from references import dory
from references.folder import write_folder

pytest.importorskip("torch")
pytest.importorskip("lm_eval.models.huggingface")
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from jaxode.evaluation.harness import HarnessModel

pytestmark = pytest.mark.slow
PAIRS = [("the cat sat", " on the mat."), ("the dog", " did not."), ("", "nobody spoke."), ("a b c " * 30, "d e f")]


@pytest.fixture(scope="module", params=[True, False], ids=["opens texts", "plain"])
def both(request, tmp_path_factory):
    # every token of the model has a text
    config = dory.CONFIG | {"vocab_size": len([*SPECIALS, "?", *LETTERS])}
    folder = write_folder(tmp_path_factory.mktemp("dory"), config, dory.random_tensors(config, 0))
    write_tokenizer(folder, opens=request.param)
    theirs = HFLM(pretrained=str(folder), device="cpu", dtype="float32", batch_size=2)
    return theirs, HarnessModel(str(folder), dtype="float32", batch_size=2, max_length=theirs.max_length)


def requests(kind, arguments):
    return [Instance(request_type=kind, doc={}, arguments=one, idx=0) for one in arguments]


def test_continuations(both):
    expected, found = (model.loglikelihood(requests("loglikelihood", PAIRS), disable_tqdm=True) for model in both)
    assert [value for value, _ in found] == pytest.approx([value for value, _ in expected], abs=1e-4)
    assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]


def test_whole_texts(both):
    texts = [("the cat sat on the mat.",), ("nobody spoke. " * 40,)]
    expected, found = (model.loglikelihood_rolling(requests("loglikelihood_rolling", texts)) for model in both)
    assert found == pytest.approx(expected, abs=1e-3)


def test_answers(both):
    asked = [("the cat sat", {"until": ["."], "max_gen_toks": 12}), ("a", {"until": ["."], "max_gen_toks": 12})]
    expected, found = (model.generate_until(requests("generate_until", asked)) for model in both)
    assert found == expected
