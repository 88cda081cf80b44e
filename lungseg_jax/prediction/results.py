"""Which files in a folder are results of earlier calls: all that a call may replace or leave out.

A hidden note beside the results tells, not their names: references are called `*_mask.png` too.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

from etils import epath

from lungseg_jax.errors import DataError
from lungseg_jax.prediction.table import TABLE

MASK_ENDING, OVERLAY_ENDING = "_mask.png", "_overlay.png"

NOTE = ".predictions.json"


def overlay_of(mask: str) -> str:
    """Returns the name of the overlay that goes with a mask."""
    return mask.removesuffix(MASK_ENDING) + OVERLAY_ENDING


def key_of(picture: epath.Path) -> str:
    """Returns the note's name for a picture: results are passed on, and paths reveal much."""
    return hashlib.sha256(os.fsencode(picture.absolute())).hexdigest()[:16]


def read_note(output: epath.Path) -> dict[str, str] | None:
    """Returns each mask's name, and the key of its picture; `None` if nothing was written there.

    Raises:
      DataError: it is no note of an earlier call.
    """
    path = output / NOTE
    try:
        masks = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise DataError(path, "cannot be read", "give another --output") from error
    if not isinstance(masks, dict) or not all(map(_is_mask, masks)):
        raise DataError(path, "was not written by this command", "give another --output")
    return masks


def results_of(noted: Mapping[str, str] | None) -> frozenset[str]:
    """Returns the names of all results that a note tells of, as `read_note` returns it."""
    return frozenset() if noted is None else frozenset({TABLE, *noted, *map(overlay_of, noted)})


def results_in(folder: epath.Path) -> frozenset[str]:
    """Returns the names of the results in a folder; none where its note is not ours."""
    try:
        return results_of(read_note(folder))
    except DataError:
        return frozenset()


def make_room(output: epath.Path, noted: Mapping[str, str], masks: Mapping[str, str]) -> None:
    """Removes earlier results of this call's pictures, and notes its masks.

    They are noted before they are written: a call may be killed between a mask and its row.

    Args:
      output: the folder.
      noted: as `read_note` returns them.
      masks: of this call, likewise.

    Raises:
      DataError: another picture has a mask of that name; nothing was removed.
    """
    keys = set(masks.values())
    for mask in masks:
        there = any(os.path.lexists(output / name) for name in (mask, overlay_of(mask)))
        if there and noted.get(mask, masks[mask]) not in keys:
            # Archives give the pictures of all patients the same names.
            fault = "is the result of another file of that name"
            raise DataError(output / mask, fault, "give another --output")
    gone = {mask for mask, key in noted.items() if key in keys}
    for name in (*gone, *map(overlay_of, gone)):
        (output / name).unlink(missing_ok=True)
    kept = {mask: key for mask, key in noted.items() if mask not in gone}
    partial = output / f"{NOTE}.partial"
    partial.write_text(json.dumps(kept | dict(masks)))
    partial.replace(output / NOTE)


def _is_mask(name: str) -> bool:
    # A file elsewhere is not a result, whatever a note that others wrote says.
    return name.endswith(MASK_ENDING) and Path(name).name == name
