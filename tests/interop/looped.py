"""What tests of looped models against their PyTorch classes share."""

import numpy as np
from references.words import words

import jaxode
from jaxode.interop.families import FAMILIES


def theirs(loaded, params, name):
    """A tensor of ours by the name that it has in PyTorch's memory."""
    family = FAMILIES[loaded.source["model_type"]]
    table = family.table(loaded.config.model, ("model.layers.0.self_attn.q_proj.weight",))
    return table.tensor(name, params)


def continuation(loaded, tokens, new, **options):
    """The most probable `new` tokens of each row."""
    done = jaxode.generate_batch(
        loaded.architecture,
        loaded.params,
        words(loaded.config.model.vocab_size),
        [row.tolist() for row in tokens],
        sampling=jaxode.inference.Greedy(),
        max_new_tokens=new,
        **options,
    )
    return np.asarray([row.ids for row in done])
