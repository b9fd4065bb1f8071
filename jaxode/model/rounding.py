"""Weights in the type of the matmuls, made once a solve or a program and not at every application of a block."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jaxode.model.embedding import Embedding

Copies = dict[str, Array]
"""Rounded weights of one module, by name."""


@jax.custom_jvp
def rounded(weight: Float[Array, "*shape"], copy: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """`copy`, in the place of `weight.astype(copy.dtype)` and with the derivative of that.

    So the gradients of several applications are added up in the weight's own type, as without a copy: those of the copy
    would be added up in 16 bits.
    """
    return copy


@rounded.defjvp
def _rounded_jvp(primals: Any, tangents: Any) -> tuple[Any, Any]:
    weight, copy = primals
    # not `copy` itself: of this a second derivative is taken
    return rounded(weight, copy), tangents[0].astype(copy.dtype)


def rounded_copies(module: nnx.Module) -> Copies:
    """Kernels and biases in the type in which their projections compute, of those that are wider."""
    copies = {}
    for path, node in nnx.iter_graph(module):
        if isinstance(node, nnx.Linear) and node.dtype is not None:
            for name, variable in (("kernel", node.kernel), ("bias", node.bias)):
                if variable is not None and variable[...].dtype.itemsize > jnp.dtype(node.dtype).itemsize:
                    value = jax.lax.stop_gradient(variable[...]).astype(node.dtype)
                    copies[".".join(map(str, (*path, name)))] = value
    return copies


def with_copies(state: Any, copies: Copies) -> Any:
    """The state of a module with its copies in the places of what they are of."""
    if not copies:
        return state
    flat = []
    for path, variable in nnx.to_flat_state(state):
        copy = copies.get(".".join(map(str, path)))
        flat.append((path, variable if copy is None else variable.replace(rounded(variable.get_value(), copy))))
    return nnx.from_flat_state(flat)


def round_weights(model: Any) -> Any:
    """The same model for many forward passes in one program, such as a loop over tokens; derivatives are not for it.

    What only matmuls read is rounded in place. A tied table is also looked up in, exactly, and gets a copy.
    """
    graph, state = nnx.split(model)
    model = nnx.merge(graph, with_copies(state, rounded_copies(model)))
    embedding: Embedding = model.embedding
    dtype = model.head.dtype
    if model.head.own is None and embedding.tokens.embedding[...].dtype != dtype:
        embedding.output = nnx.data(embedding.tokens.embedding[...].astype(dtype))
    return model
