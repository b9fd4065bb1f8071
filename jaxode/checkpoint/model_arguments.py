"""Let a `TrainedModel` stand for the arguments that every function on a model begins with."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar, cast, overload, runtime_checkable

from jaxode.checkpoint.trained import TrainedModel
from jaxode.data import Tokenizer
from jaxode.model.parameters import Architecture, Parameters

P = ParamSpec("P")
R = TypeVar("R")
Result = TypeVar("Result", covariant=True)


@runtime_checkable  # beartype checks it in the tests
class OfTexts(Protocol[P, Result]):
    """f(model, ..), or f(architecture, params, tokenizer, ..)."""

    @overload
    def __call__(self, model: TrainedModel, /, *args: P.args, **kwargs: P.kwargs) -> Result: ...
    @overload
    def __call__(
        self, architecture: Architecture, params: Parameters, tokenizer: Tokenizer, /, *args: P.args, **kwargs: P.kwargs
    ) -> Result: ...


@runtime_checkable  # beartype checks it in the tests
class OfBatches(Protocol[P, Result]):
    """f(model, ..), or f(architecture, params, ..)."""

    @overload
    def __call__(self, model: TrainedModel, /, *args: P.args, **kwargs: P.kwargs) -> Result: ...
    @overload
    def __call__(
        self, architecture: Architecture, params: Parameters, /, *args: P.args, **kwargs: P.kwargs
    ) -> Result: ...


@runtime_checkable  # beartype checks it in the tests
class OfModel(Protocol[P, Result]):
    """f(model, ..) of a `TrainedModel` or of its bare model."""

    def __call__(self, model: Any, /, *args: P.args, **kwargs: P.kwargs) -> Result: ...


def takes_tokenizer(function: Callable[Concatenate[Architecture, Parameters, Tokenizer, P], R]) -> OfTexts[P, R]:
    """For a function of (architecture, params, tokenizer, ..)."""
    return cast(Any, _standing_for(function, ("architecture", "params", "own_tokenizer")))


def takes_params(function: Callable[Concatenate[Architecture, Parameters, P], R]) -> OfBatches[P, R]:
    """For a function of (architecture, params, ..)."""
    return cast(Any, _standing_for(function, ("architecture", "params")))


def takes_model(function: Callable[Concatenate[Any, P], R]) -> OfModel[P, R]:
    """For a function of (model, ..)."""
    return cast(Any, _standing_for(function, ("model",)))


def _standing_for(function: Callable[..., Any], parts: tuple[str, ...]) -> Callable[..., Any]:
    """What the model was trained with is the default of `document_mask` and of `frame`, where there is one."""
    parameters = inspect.signature(function).parameters
    passed_on = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    masked, framed = "document_mask" in parameters or passed_on, "frame" in parameters

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if args and isinstance(args[0], TrainedModel):
            trained = args[0]
            if masked:
                kwargs.setdefault("document_mask", trained.config.data.apart)
            if framed and kwargs.get("frame") is None:
                kwargs["frame"] = trained.text_frame
            args = (*(getattr(trained, part) for part in parts), *args[1:])
        return function(*args, **kwargs)

    return call
