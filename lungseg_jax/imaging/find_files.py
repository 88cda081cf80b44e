"""The files below a folder, and what their names tell."""

import collections
import errno
import os
import stat
from pathlib import Path

from etils import epath

from lungseg_jax.errors import DataError

# Suffixes of images; DICOM files also have others, or none.
IMAGE_SUFFIXES = (".dcm", ".dicom", ".png", ".img", ".jpg", ".jpeg", ".tif", ".tiff")

# How links that lead nowhere fail.
_LEADS_NOWHERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)


def files_below(folder: epath.Path, *, go_on: bool = False) -> list[epath.Path]:
    """Returns every file below a folder, including hidden ones, sorted.

    Links to folders are followed. A folder that is reached in several ways is listed once, by its
    own name if it lies below the folder itself. Links that lead nowhere count as files, and so do
    hidden folders that cannot be read.

    Args:
      folder: the folder to search.
      go_on: whether to list every folder that cannot be read as if it were a file.

    Raises:
      DataError: the folder, or another that is not listed, cannot be read.
    """
    found: list[epath.Path] = []
    visited: set[tuple[int, int]] = set()
    # Links wait until no folder is left, because a folder's own name takes precedence over links.
    folders, links = [folder], collections.deque[epath.Path]()
    while folders or links:
        current = folders.pop() if folders else links.popleft()
        try:
            children = {child: _leads_to_folder(child, go_on) for child in children_of(current)}
        except DataError:
            if current == folder or not (go_on or is_hidden(current, folder)):
                raise
            found.append(current)
            continue
        status = Path(current).stat()
        if (status.st_dev, status.st_ino) in visited:
            continue
        visited.add((status.st_dev, status.st_ino))
        for child, leads_to_folder in children.items():
            if not leads_to_folder:
                found.append(child)
            elif Path(child).is_symlink():
                links.append(child)
            else:
                folders.append(child)
    return sorted(found)


def is_hidden(path: epath.Path, root: epath.Path) -> bool:
    """Whether a file, or a folder between it and the root, is hidden.

    Copying through macOS leaves a hidden `._` file beside each image; Jupyter makes hidden folders.
    """
    return any(part.startswith(".") for part in path.relative_to(root).parts)


def stem_of(path: epath.Path) -> str:
    """Returns a file's name without the suffix of an image.

    The path's own `stem` would cut file names that are DICOM UIDs at their last dot.
    """
    return path.stem if path.suffix.lower() in IMAGE_SUFFIXES else path.name


def children_of(folder: epath.Path) -> list[epath.Path]:
    """Returns what a folder holds, sorted.

    Raises:
      DataError: the folder cannot be read.
    """
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise unreadable(folder, error) from error


def unreadable(path: epath.Path, error: OSError) -> DataError:
    """Returns the error for what the operating system does not let be read."""
    return DataError(path, error.strerror or "not readable", "check path and permissions")


def _leads_to_folder(path: epath.Path, go_on: bool) -> bool:
    try:
        return stat.S_ISDIR(Path(path).stat().st_mode)
    except PermissionError as error:
        # The target of a link may be inaccessible while the link's own folder is not.
        if os.path.islink(path):  # noqa: PTH114 - pathlib raises where the parent is closed
            return False
        # A folder that may be listed but not entered says nothing about what it holds.
        raise unreadable(path.parent, error) from error
    except OSError as error:
        # On a disk or a network that fails, a folder of images would be left out without a word. An
        # image alone is reported when it is read.
        is_image = path.suffix.lower() in IMAGE_SUFFIXES
        if go_on or is_image or error.errno in _LEADS_NOWHERE:
            return False
        raise unreadable(path, error) from error
