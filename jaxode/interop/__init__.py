"""Models of other libraries as jaxode's own, and back: Hugging Face ALBERT."""

from jaxode.interop.pretrained import Pretrained, from_pretrained, save_pretrained

__all__ = ["Pretrained", "from_pretrained", "save_pretrained"]
