"""`predictions.csv`: what became of each file."""

import contextlib
import csv
import io
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import astuple, dataclass, fields

from etils import epath

from lungseg_jax.paths import open_own, write_whole
from lungseg_jax.terminal import on_one_line

TABLE = "predictions.csv"


@dataclass(frozen=True)
class Row:
    """A line of `predictions.csv`.

    Attributes:
      file: path as it was given, or below the given folder; where files would share that, below
        what all given paths have in common.
      status: `accepted`, or `rejected` with the reason.
      reason: what is wrong with the file, or speaks against the mask.
      estimated_dice: the mask's estimated Dice, if there is a mask.
      right_px: pixels of the patient's right lung.
      left_px: pixels of the left lung.
      right_cm2: area of the right lung, where the spacing is known.
      left_cm2: area of the left lung, likewise.
      spacing_source: what the spacing was measured on.
      height: the image's height in pixels.
      width: the image's width in pixels.
      notes: what was corrected or is odd.
      mask: name of the mask's file.
      dicom_seg: name of the file with the same lungs as DICOM SEG.
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
    dicom_seg: str = ""


def write_table(output: epath.Path, rows: Iterable[Row]) -> None:
    """Writes the table in a folder as a whole: no reader finds less than there was before."""
    header = ",".join(field.name for field in fields(Row))
    write_whole(output / TABLE, "".join([f"{header}\n", *map(_line, rows)]).encode())


@contextlib.contextmanager
def open_table(output: epath.Path) -> Iterator[Callable[[Row], None]]:
    """Opens the table in a folder and yields a function that at once adds a row to it."""
    with open_own(output / TABLE, "a", buffering=1, encoding="utf-8", newline="") as file:
        yield lambda row: print(_line(row), end="", file=file)


def _line(row: Row) -> str:
    """Returns a row's line; unknown values are left empty."""
    # A name may hold what a terminal would obey, and need not be valid text.
    cells = (on_one_line(cell) if isinstance(cell, str) else cell for cell in astuple(row))
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(
        "" if cell is None or cell != cell else cell for cell in cells
    )
    return text.getvalue().encode("utf-8", "backslashreplace").decode()
