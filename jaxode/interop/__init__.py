"""Models of other libraries as jaxode's own, and back: Hugging Face ALBERT."""

from jaxode.interop.files import is_pretrained, locate
from jaxode.interop.pretrained import (
    Pretrained,
    class_names,
    from_pretrained,
    model_config,
    pretrained_task,
    save_pretrained,
)

__all__ = [
    "Pretrained",
    "class_names",
    "from_pretrained",
    "is_pretrained",
    "locate",
    "model_config",
    "pretrained_task",
    "save_pretrained",
]
