"""Settings of generation that are of another type or out of range: refused, never taken for something else."""

import numpy as np
import pytest
from tiny_runs import TOKENIZER

from jaxode.config import DepthConfig, UserError
from jaxode.inference import Greedy, Speculation, Temperature, generate, generate_batch
from jaxode.inference.generation.decoding import prefill
from jaxode.inference.generation.settings import Settings

pytestmark = pytest.mark.usefixtures("untyped")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        # 0 and False once stood for what stands where nothing is given
        ({"depth": 0}, "^depth = 0: must be None or a DepthConfig"),
        ({"depth": False}, "^depth = False: must be"),
        ({"depth": 4}, r"^depth = 4: must be None or a DepthConfig, such as DepthConfig\(steps=4\)$"),
        ({"depth": DepthConfig}, "^depth = <class"),
        ({"prefill_depth": 0}, "^prefill_depth = 0: must be"),
        ({"sampling": 0}, r"^sampling = 0: must be None or a Sampling, such as Temperature\(0\.8\)$"),
        ({"sampling": 0.8}, r"^sampling = 0\.8: must be"),
        ({"sampling": "gready"}, '^sampling = "gready": allowed are greedy, temperature, .*did you mean .greedy.'),
        ({"sampling": Greedy}, "^sampling = <class"),
        ({"speculation": False}, "^speculation = False: must be None or a Speculation"),
        ({"speculation": True}, "^speculation = True: must be"),
        ({"speculation": Speculation}, "^speculation = <class"),
        ({"depth": "4"}, "^depth = '4': must be"),
        ({"max_new_tokens": True}, "^max_new_tokens = True: must be a whole number$"),
        ({"max_new_tokens": 2.0}, r"^max_new_tokens = 2\.0: must be a whole number$"),
        ({"max_new_tokens": "2"}, "^max_new_tokens = '2': must be a whole number$"),
        ({"max_new_tokens": 0}, "^max_new_tokens = 0: must be at least 1$"),
        ({"max_new_tokens": 2**31}, "^max_new_tokens = 2147483648: must be at most 2147483647$"),
        ({"cache_share": True}, "^cache_share = True: must be a whole number$"),
        ({"cache_share": 1.0}, r"^cache_share = 1\.0: must be a whole number$"),
        ({"document_mask": "no"}, "^document_mask = 'no': must be True or False$"),
        ({"document_mask": None}, "^document_mask = None: must be True or False$"),
        ({"context": "Slide"}, '^context = "Slide": allowed are slide, window, refuse$'),
        ({"context": None}, '^context = "None": allowed are'),
        ({"cache_share": 2, "speculation": Speculation((DepthConfig(steps=2),))}, "^cache_share = 2 with speculation"),
        ({"on_token": "print"}, "^on_token = 'print': must be None or a function$"),
    ],
    ids=repr,
)
def test_refused_before_anything_compiles(causal, change, why):
    compiled = prefill._cache_size()
    with pytest.raises(UserError, match=why):
        generate(*causal, TOKENIZER, "abc", **change)
    assert prefill._cache_size() == compiled


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ((DepthConfig(steps=2),), r"^speculation: depths = DepthConfig\(.*\): must be a tuple of DepthConfig"),
        (((2,),), r"^speculation: depths = \(2,\): must be a tuple of DepthConfig"),
        (((DepthConfig(steps=2),), 4), r"^speculation: lengths = 4: must be a tuple of int, such as \(2, 4\)$"),
        (((DepthConfig(steps=2),), (2.5,)), r"^speculation: lengths = \(2\.5,\): must be a tuple of int"),
        (((DepthConfig(steps=2),), (True,)), r"^speculation: lengths = \(True,\): must be a tuple of int"),
    ],
)
def test_drafts_of_no_depth_or_length_are_refused(values, why):
    with pytest.raises(UserError, match=why):
        Speculation(*values)


def test_a_listener_that_is_no_function_is_refused(causal):
    with pytest.raises(UserError, match=r"^on_text = 'print': must be None or a function$"):
        generate_batch(*causal, TOKENIZER, ["abc"], on_text="print")


def test_numbers_of_numpy_are_numbers(causal):
    rules = {"sampling": Temperature(0.8), "seed": np.int64(3)}
    done = generate(*causal, TOKENIZER, "abc", max_new_tokens=np.int32(4), cache_share=np.int64(1), **rules)
    assert done.ids == generate(*causal, TOKENIZER, "abc", max_new_tokens=4, **rules).ids


def test_a_listener_that_fails_ends_the_call_with_its_own_error(causal):
    def fails(piece):
        raise LookupError(piece)

    with pytest.raises(LookupError):
        generate(*causal, TOKENIZER, "abc", on_token=fails)
    assert generate(*causal, TOKENIZER, "abc", max_new_tokens=3).new_tokens == 3


def test_nothing_given_is_full_depth():
    assert (Settings().solve, Settings().prefill_solve) == (DepthConfig(), DepthConfig())
    half = DepthConfig(steps=2)
    assert Settings(depth=half).prefill_solve == half
    assert Settings(depth=half, prefill_depth=DepthConfig()).prefill_solve == DepthConfig()
