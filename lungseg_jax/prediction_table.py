"""`predictions.csv`: what became of each file, and which files in its folder are results."""

import contextlib
import csv
import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TextIO

from etils import epath

from lungseg_jax.errors import DataError

TABLE = "predictions.csv"
MASK_ENDING, OVERLAY_ENDING = "_mask.png", "_overlay.png"

# Names the results that the table does not: of a call that was stopped, or of other pictures.
_UNLISTED = f".{TABLE}"


@dataclasses.dataclass(frozen=True)
class Row:
    """A line of `predictions.csv`.

    Attributes:
      file: as it was given, or below the folder that was; where files would share that, below what
        all given paths have in common.
      status: `accepted`, or `rejected` with the reason.
      reason: what is wrong with the file, or speaks against the mask.
      estimated_dice: of the mask, if there is one.
      right_px: pixels of the patient's right lung.
      left_px: of the left one.
      right_cm2: its area where the spacing is known.
      left_cm2: of the left one.
      spacing_source: what the spacing was measured on.
      height: of the picture in pixels.
      width: of it.
      notes: what was corrected or is odd.
      mask: name of the mask's file.
    """

    file: str
    status: str
    reason: str = ""
    estimated_dice: float = math.nan
    right_px: int | None = None
    left_px: int | None = None
    right_cm2: float = math.nan
    left_cm2: float = math.nan
    spacing_source: str = ""
    height: int | None = None
    width: int | None = None
    notes: str = ""
    mask: str = ""


def as_in_table(name: str) -> str:
    """Returns how the table has a name, which need not be text."""
    return name.encode("utf-8", "backslashreplace").decode()


def overlay_of(mask: str) -> str:
    """Returns the name of the overlay that goes with a mask."""
    return mask.removesuffix(MASK_ENDING) + OVERLAY_ENDING


def earlier_masks(output: epath.Path) -> dict[str, str]:
    """Returns the masks of earlier calls by name, with what the table called their pictures.

    Names are as in the table.

    Args:
      output: folder that results go to; it need not be there.

    Raises:
      DataError: it holds another's file where the table goes.
    """
    return _read_masks(output / _UNLISTED) | _read_masks(output / TABLE)


@contextlib.contextmanager
def open_table(output: epath.Path, masks: Mapping[str, str]) -> Iterator[Callable[[Row], None]]:
    """Opens the table in a folder and gives what adds a row to it, at once.

    What is not known is empty.

    Args:
      output: the folder.
      masks: as `earlier_masks` returns them, of earlier calls and of this one. The next call knows
        them for its own even where no row names them.
    """
    # Before anything is written: a call may be killed between a mask and its row.
    _note_unlisted(output, masks)
    named: set[str] = set()
    with _open(output / TABLE) as file:
        write = _writer(file)

        def add(row: Row) -> None:
            write(row)
            named.add(as_in_table(row.mask))

        yield add
    left = {mask: label for mask, label in masks.items() if mask not in named}
    _note_unlisted(output, {mask: left[mask] for mask in left if (output / mask).exists()})


def _note_unlisted(output: epath.Path, masks: Mapping[str, str]) -> None:
    noted = output / _UNLISTED
    if not masks:
        noted.unlink(missing_ok=True)
        return
    partial = output / f"{_UNLISTED}.partial"
    with _open(partial) as file:
        write = _writer(file)
        for mask, label in masks.items():
            write(Row(label, "unlisted", mask=mask))
    partial.replace(noted)


def _open(path: epath.Path) -> TextIO:
    # Names of files need not be text.
    return Path(path).open(
        "w", buffering=1, encoding="utf-8", errors="backslashreplace", newline=""
    )


def _writer(file: TextIO) -> Callable[[Row], None]:
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(field.name for field in dataclasses.fields(Row))

    def write(row: Row) -> None:
        cells = dataclasses.astuple(row)
        writer.writerow("" if cell is None or cell != cell else cell for cell in cells)

    return write


def _read_masks(path: epath.Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    try:
        with Path(path).open(encoding="utf-8", newline="") as file:
            table = csv.DictReader(file)
            rows, columns = list(table), table.fieldnames
    except OSError as error:
        raise DataError(path, error.strerror or "not readable", "give another --output") from error
    except (UnicodeDecodeError, csv.Error):
        rows, columns = [], ["unknown"]
    if columns and not {"file", "status", "reason", "mask"} <= set(columns):
        raise DataError(path, "is no table of an earlier call", "give another --output")
    # The last row of a call that was killed may lack cells.
    return {row["mask"]: row["file"] for row in rows if _is_mask(row["mask"] or "")}


def _is_mask(name: str) -> bool:
    # What lies elsewhere is no result, whatever a table says that others wrote.
    return name.endswith(MASK_ENDING) and Path(name).name == name
