"""`predictions.csv`: what became of each file."""

import csv
import dataclasses
import io
import math
from collections.abc import Sequence

from etils import epath

TABLE = "predictions.csv"


@dataclasses.dataclass(frozen=True)
class Row:
    """A line of `predictions.csv`.

    Attributes:
      file: as it was given, or below the folder that was.
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


def write_table(path: epath.Path, rows: Sequence[Row]) -> None:
    """Writes the table; what is not known is empty."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(field.name for field in dataclasses.fields(Row))
    for row in rows:
        cells = dataclasses.astuple(row)
        writer.writerow("" if cell is None or cell != cell else cell for cell in cells)
    path.write_text(text.getvalue())
