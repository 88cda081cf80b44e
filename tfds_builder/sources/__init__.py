"""Folder layouts: which image belongs to which masks and to which patient."""

import os
from collections.abc import Callable
from pathlib import Path

from etils import epath

from lungseg_jax.config import SourceName
from lungseg_jax.errors import DataError
from tfds_builder.sources.folder import FolderPatterns, list_folder
from tfds_builder.sources.jsrt import list_jsrt
from tfds_builder.sources.kaggle import list_kaggle
from tfds_builder.sources.layout import (
    Case,
    Clinical,
    Listing,
    MaskFile,
    documented_spacing,
)
from tfds_builder.sources.montgomery import list_montgomery
from tfds_builder.sources.phantom import list_phantoms
from tfds_builder.sources.shenzhen import list_shenzhen

__all__ = (
    "SOURCES_WITHOUT_SIDES",
    "Case",
    "Clinical",
    "FolderPatterns",
    "Listing",
    "MaskFile",
    "documented_spacing",
    "list_source",
)

_LAYOUTS: dict[SourceName, Callable[[epath.Path], Listing]] = {
    "phantom": list_phantoms,
    "kaggle": list_kaggle,
    "montgomery": list_montgomery,
    "shenzhen": list_shenzhen,
    "jsrt": list_jsrt,
}

# Their masks mark both lungs as one.
SOURCES_WITHOUT_SIDES: tuple[SourceName, ...] = ("kaggle", "shenzhen")


def list_source(
    source: SourceName, directory: epath.PathLike, patterns: FolderPatterns | None = None
) -> Listing:
    """Returns the cases in a folder laid out as `source` is published.

    Args:
      source: the layout.
      directory: the data set's folder.
      patterns: names of images and masks for the source `folder`, if it has no list.

    Raises:
      DataError: the folder is absent or holds no labelled image, or a mask lacks its image.
    """
    # An empty path would mean the current folder.
    if not os.fspath(directory):
        raise DataError(
            "data.manual_dir", f"is empty for source {source}", "give the data set's folder"
        )
    # The absolute path, so that builds started elsewhere reuse what this one has converted. With
    # pathlib, because epath takes `link/..` for the folder with the link.
    directory = epath.Path(Path(directory).expanduser().absolute())
    if not directory.is_dir():
        fault = "is a file" if directory.exists() else "no such folder"
        raise DataError(directory, fault, "give the data set's folder as data.manual_dir")
    if source == "folder":
        return list_folder(directory, patterns or FolderPatterns())
    return _LAYOUTS[source](directory)
