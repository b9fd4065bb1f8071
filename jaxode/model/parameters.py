"""A model as (architecture, named parameters): the parameters are a flat dict, the same in training and on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from flax.serialization import to_state_dict
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.typing import DTypeLike

from jaxode.config import UserError
from jaxode.depth import Coefficients
from jaxode.model.adapters import Adapters, LowRank
from jaxode.model.gains import Gains
from jaxode.model.low_rank import merged

Parameters = dict[str, Any]  # arrays, on a device or on the host
CALIBRATION = "calibration."


@dataclass(frozen=True)
class Architecture:
    """Everything of a model but its numbers: static, hashable."""

    graph: Any
    paths: tuple[Any, ...]

    def bind(self, parameters: Mapping[str, Any]) -> Any:
        """The model with these parameters; traceable. Those of `calibration_parameters` become its calibrations, and
        low-rank changes of a run are added to their matrices.
        """
        parameters = merged(parameters)
        state = nnx.from_flat_state([(path, nnx.Param(parameters[_name(path)])) for path in self.paths])
        model = nnx.merge(self.graph, state)
        fitted: dict[int, dict[str, Any]] = {}
        for name, value in parameters.items():
            if name.startswith(CALIBRATION):
                steps, field = name.removeprefix(CALIBRATION).split(".", 1)
                fitted.setdefault(int(steps), {})[field] = value
        if fitted:
            model.calibrations = nnx.data({steps: coefficients(fields) for steps, fields in fitted.items()})
        return model


def named(coefficients: Coefficients) -> Parameters:
    """Coefficients as named arrays: weights, down, up, gains.scale, ..; what is absent is left out."""
    return {
        ".".join(path): leaf for path, leaf in flatten_dict(to_state_dict(coefficients)).items() if leaf is not None
    }


def coefficients(arrays: Mapping[str, Any]) -> Coefficients:
    """What `named` took apart."""
    nested = unflatten_dict({tuple(name.split(".")): value for name, value in arrays.items()})
    gains = nested.pop("gains", None)
    if gains is not None:
        changes = gains.pop("adapters", None)
        if changes is not None:
            pairs: Any = {name: LowRank(**part) if isinstance(part, dict) else part for name, part in changes.items()}
            gains["adapters"] = Adapters(**pairs)
        gains = Gains(**gains)
    return Coefficients(**nested, gains=gains)


def calibration_parameters(steps: int, coefficients: Coefficients) -> Parameters:
    """Coefficients of solver "calibrated" at `depth.steps` as named parameters, which `bind` gives to the model."""
    return {f"{CALIBRATION}{steps}.{name}": value for name, value in named(coefficients).items()}


def split(model: nnx.Module) -> tuple[Architecture, Parameters]:
    """Take a model apart, without its calibrations; names read like `stack.looped.0.attention.qkv.kernel`."""
    held = getattr(model, "calibrations", None)
    if held:
        model = nnx.clone(model)
        model.calibrations = nnx.data({})  # pyright: ignore[reportAttributeAccessIssue]
    graph, state = nnx.split(model)
    flat = list(nnx.to_flat_state(state))
    parameters = {_name(path): variable.get_value() for path, variable in flat}
    return Architecture(graph, tuple(path for path, _ in flat)), parameters


def without_calibrations(parameters: Mapping[str, Any]) -> Parameters:
    """The weights alone."""
    return {name: value for name, value in parameters.items() if not name.startswith(CALIBRATION)}


def fingerprint(parameters: Mapping[str, Any]) -> str:
    """128 bits that tell one set of weights from another: names, shapes and numbers, without calibrations."""
    digest = hashlib.blake2b(digest_size=16)
    for name, value in sorted(without_calibrations(parameters).items()):
        array = np.asarray(value)
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        # as bytes: Python's buffers know no bfloat16, and a copy would take the memory of the largest tensor again
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def matmul_type(parameters: Mapping[str, Any]) -> DTypeLike:
    """The type that holds most of the weights, in which their model multiplies; norms and the state stay float32."""
    sizes: dict[str, int] = {}
    for value in without_calibrations(parameters).values():
        sizes[np.dtype(value.dtype).name] = sizes.get(np.dtype(value.dtype).name, 0) + int(np.prod(value.shape))
    return getattr(jnp, max(sizes, key=sizes.__getitem__))


def check_fit(
    expected: Mapping[str, Any],
    found: Mapping[str, Any],
    source: str,
    remedy: str = "the file belongs to another architecture; use the run's own config",
) -> None:
    """Compare names and shapes; `remedy` ends the message.

    Raises:
        UserError: naming the first missing, extra or wrongly shaped tensor.
    """
    for name in sorted(expected.keys() | found.keys()):
        if name not in found:
            raise UserError(f"{source}: tensor {name} is missing; {remedy}")
        if name not in expected:
            raise UserError(f"{source}: tensor {name} is unknown to the model; {remedy}")
        want, have = tuple(expected[name].shape), tuple(found[name].shape)
        if want != have:
            hint = (
                "the vocabulary does not fit" if name.endswith("tokens.embedding") and want[1:] == have[1:] else remedy
            )
            raise UserError(f"{source}: tensor {name} has shape {list(have)}, the model needs {list(want)}; {hint}")


def _name(path: Any) -> str:
    return ".".join(map(str, path))
