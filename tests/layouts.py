"""Small folders in the layouts of public data sets."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from tests.images import png_bytes
from tfds_builder.sources import Listing

# Images and masks in the folders that the default patterns name.
FOLDER = (
    "images/a.dcm",
    "images/b.png",
    "images/c.dcm",
    "masks/a.png",
    "masks/b_left.png",
    "masks/b_right.gif",
    "notes.txt",
)


def assert_every_file_is_listed_once(listing: Listing, folder: Path) -> None:
    """Compares a listing with what lies on the disk."""
    listed = [*listing.unlabelled, *(path for path, _ in listing.other)]
    for case in listing.cases:
        listed += [case.image, *(mask.path for mask in case.masks)]
    assert sorted(map(str, listed)) == sorted(
        str(path) for path in folder.rglob("*") if path.is_file()
    )


def reason_of(listing: Listing) -> dict[str, str]:
    """Why files are neither image nor mask, by their place below the root."""
    return {path.relative_to(listing.root).as_posix(): why for path, why in listing.other}


def write_files(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Writes files of one folder that may not exist yet."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (folder / name).write_bytes(content)


def dot(row: int, column: int, height: int = 6, width: int = 8) -> bytes:
    """A PNG mask of one pixel, by which masks are told apart."""
    pixels = np.zeros((height, width), np.uint8)
    pixels[row, column] = 255
    return png_bytes(pixels)


def write_tree(folder: Path, names: Iterable[str]) -> Path:
    """Writes empty files, and the folders they need."""
    for name in names:
        write_files((folder / name).parent, {Path(name).name: b""})
    return folder
