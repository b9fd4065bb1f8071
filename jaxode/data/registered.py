"""Sets that TFDS knows by name, prepared in the cache or where TFDS_DATA_DIR says. Imports no jax."""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Sequence
from pathlib import Path

import tensorflow_datasets as tfds

from jaxode.config import UserError
from jaxode.data.network import reachable
from jaxode.data.stores import write


def registered_names() -> Sequence[str]:
    """What TFDS has; community sets are left out, since it asks the network for their list."""
    importlib.import_module("tensorflow_datasets.text")  # sets there are unknown until they are imported
    return tfds.list_builders(with_community_datasets=False)


def is_registered(name: str) -> bool:
    """Whether it is one of them, whatever its configuration and version (`glue/sst2:2.0.0`)."""
    return re.split("[/:]", name)[0] in registered_names()


def registered_set(
    name: str, cache: Path, field: str, instead: str, progress: bool = False
) -> tfds.core.DatasetBuilder:
    """A set of that name, prepared at the first call.

    Args:
        name: that TFDS knows.
        cache: folder for what is prepared, where TFDS_DATA_DIR names none.
        field: of the settings, for errors.
        instead: what else can be done where there is no network.
        progress: show TFDS's own bars.

    Raises:
        UserError: it cannot be prepared.
    """
    folder = os.environ.get("TFDS_DATA_DIR") or str(cache / "tfds")
    try:
        builder = tfds.builder(name, data_dir=folder, file_format="array_record")
        prepared = Path(str(builder.data_path)).is_dir()
        # TFDS's own sets download, and its retries without a network last for minutes
        ours = not type(builder).__module__.startswith("tensorflow_datasets.")
        if not (prepared or ours or reachable("storage.googleapis.com")):
            raise OSError("the network cannot be reached")
        write(builder, show=progress)
    except Exception as error:
        raise UserError(
            f'{field} = "{name}": TFDS cannot prepare it ({first_line(error)}); prepare it where there is a network '
            f"and set TFDS_DATA_DIR, or {instead}"
        ) from None
    return builder


def unreadable(name: str, field: str, folder: Path, error: Exception) -> UserError:
    """Over a damaged description of a set TFDS raises many kinds."""
    return UserError(
        f'{field} = "{name}": TFDS cannot read it ({first_line(error)}); remove {folder}, so that it is prepared anew'
    )


def first_line(error: BaseException) -> str:
    """Of what an error says."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
