"""A list of images and masks, `pairs.csv`, in a folder of any layout.

    image,mask,patient,finding
    a/1.dcm,outlines/1.png,p1,normal

The columns are `image` and `mask`, or `left_mask` and `right_mask` (the patient's sides); `id`,
`patient`, `source`, `finding`, `sex` and `age` (years) are optional. Without `id`, an image is
called by its file's name or, where several images have that name, by its path in the list. A row
without a mask is an unlabelled image. Records hold a keyed hash of `patient`, the same as for an
equal DICOM PatientID.
"""

import collections
import csv
import dataclasses
import io
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import NoReturn, cast

from etils import epath

from lungseg_jax.errors import DataError
from lungseg_jax.imaging.find_files import stem_of
from lungseg_jax.imaging.structures import Structure
from lungseg_jax.terminal import on_one_line
from tfds_builder.sources.clinical import MAX_AGE_YEARS
from tfds_builder.sources.layout import (
    LIST_OF_PAIRS,
    MASK_SUFFIXES,
    SEG_SUFFIX,
    Case,
    Clinical,
    Finding,
    Listing,
    MaskFile,
    Sex,
    check_not_empty,
    make_listing,
    read_regular,
)

PAIRS = "pairs.csv"
SOURCE = "folder"

_MAX_BYTES = 2**28

_MASK_COLUMNS = {
    "mask": Structure.LUNGS,
    "left_mask": Structure.LEFT_LUNG,
    "right_mask": Structure.RIGHT_LUNG,
}
_COLUMN = {structure: column for column, structure in _MASK_COLUMNS.items()}
_COLUMNS = ("image", *_MASK_COLUMNS, "id", "patient", "source", "finding", "sex", "age")
_FINDINGS = ("normal", "abnormal", "unknown")


def list_pairs(root: epath.Path, paths: list[epath.Path], pairs: epath.Path) -> Listing:
    """Returns the cases that a list of pairs names.

    Args:
      root: the folder that paths in the list are relative to.
      paths: all files below it.
      pairs: the list.

    Raises:
      DataError: the list is faulty (line and column are named), or a file it names is absent.
    """
    # By the real path of their folder, because paths in the list may go through a link.
    places = {folder: os.path.realpath(folder) for folder in {path.parent for path in paths}}
    known = {(places[path.parent], path.name): path for path in paths}
    cases: dict[str, Case] = {}
    unlabelled: list[epath.Path] = []
    first_use: dict[epath.Path, int] = {}
    rows = [_Row(pairs, line, row) for line, row in _read_rows(pairs)]
    # Archives give the images of all patients the same names.
    stems = collections.Counter(
        stem_of(epath.Path(row.cells["image"])) for row in rows if row.needs_name()
    )
    for cells in rows:
        image, masks = cells.pair(root, known)
        for column, path in (("image", image), *((_COLUMN[m.structure], m.path) for m in masks)):
            if path in first_use:
                cells.refuse(column, f"already used in line {first_use[path]}", "use files once")
            first_use[path] = cells.line
        if not masks:
            unlabelled.append(image)
            continue
        case = cells.case(image, masks, stems)
        if cases.setdefault(case.example_id, case) is not case:
            cells.refuse("id", "duplicate id", "give each image its own id")
    check_not_empty(root, [*cases, *unlabelled], cases)
    return make_listing(root, paths, cases.values(), unlabelled, {pairs: LIST_OF_PAIRS})


def _read_rows(pairs: epath.Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Yields the number of each line and its cells, without surrounding blanks."""
    # Spreadsheets put a byte-order mark before the first column's name.
    try:
        text = read_regular(pairs, _MAX_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(pairs, "is not UTF-8", "save it as CSV in UTF-8") from error
    # Old spreadsheet programs end lines with only a carriage return.
    reader = csv.DictReader(io.StringIO(text, newline=None), skipinitialspace=True)
    try:
        yield from _check_rows(pairs, reader)
    except csv.Error as error:
        fault = f"line {reader.line_num}: {error}"
        raise DataError(pairs, fault, "save it as CSV, and close quotation marks") from error


def _check_rows(pairs: epath.Path, reader: csv.DictReader) -> Iterator[tuple[int, dict[str, str]]]:
    columns = [name.strip() for name in reader.fieldnames or ()]
    remedy = f"name the columns in line 1, with commas between: {', '.join(_COLUMNS)}"
    for name in columns:
        if name not in _COLUMNS:
            raise DataError(pairs, f"line 1: unknown column {name!r}", remedy)
    if "image" not in columns or not (
        "mask" in columns or {"left_mask", "right_mask"} <= {*columns}
    ):
        raise DataError(pairs, "line 1: must name image and mask (or both lungs' masks)", remedy)
    if len(columns) != len(set(columns)):
        raise DataError(pairs, "line 1: a column twice", remedy)
    reader.fieldnames = columns
    for row in reader:
        if None in row or None in row.values():
            fault = f"line {reader.line_num}: not {len(columns)} cells"
            raise DataError(pairs, fault, "give each column a cell, empty where not known")
        yield reader.line_num, {name: cell.strip() for name, cell in row.items()}


@dataclasses.dataclass(frozen=True)
class _Row:
    """A line of the list; faults name line and column."""

    pairs: epath.Path
    line: int
    cells: Mapping[str, str]

    def refuse(self, column: str, fault: str, remedy: str) -> NoReturn:
        raise DataError(self.pairs, f"line {self.line}, column {column}: {fault}", remedy)

    def needs_name(self) -> bool:
        """Whether the line's image has a mask and no id."""
        return not self.cells.get("id") and any(map(self.cells.get, _MASK_COLUMNS))

    def pair(
        self, root: epath.Path, known: Mapping[tuple[str, str], epath.Path]
    ) -> tuple[epath.Path, tuple[MaskFile, ...]]:
        """Returns the image and its masks."""
        image = self._file("image", root, known)
        if image is None:
            self.refuse("image", "is empty", "give an image or remove the line")
        found = {
            column: (path, structure)
            for column, structure in _MASK_COLUMNS.items()
            if (path := self._file(column, root, known))
        }
        if ("left_mask" in found) != ("right_mask" in found):
            column = "right_mask" if "left_mask" in found else "left_mask"
            self.refuse(column, "is empty though the other lung has a mask", "give both lungs")
        if len(found) == len(_MASK_COLUMNS):
            self.refuse("mask", "given beside left_mask and right_mask", "leave it empty")
        return image, tuple(MaskFile(*mask) for mask in found.values())

    def case(
        self, image: epath.Path, masks: tuple[MaskFile, ...], stems: Mapping[str, int]
    ) -> Case:
        """Returns the line's case, whose id, if none is given, is its image's name, or its path.

        Args:
          image: the image.
          masks: its masks.
          stems: how many images of those that need a name would have each.
        """
        for column in ("id", "source"):
            cell = self.cells.get(column, "")
            if on_one_line(cell) != cell:
                self.refuse(column, "holds a control character", "remove it")
        stem = stem_of(image)
        name = stem if stems[stem] == 1 else PurePosixPath(self.cells["image"]).as_posix()
        clinical = Clinical(
            sex=cast(Sex, self._word("sex", ("", "F", "M"))),
            age_years=self._age(),
            finding=cast(Finding, self._word("finding", ("", *_FINDINGS)) or "unknown"),
        )
        return Case(
            example_id=self.cells.get("id") or name,
            patient_id=self.cells.get("patient") or None,
            source=self.cells.get("source") or SOURCE,
            image=image,
            masks=masks,
            clinical=clinical,
            patient_is_secret=bool(self.cells.get("patient")),
        )

    def _file(
        self, column: str, root: epath.Path, known: Mapping[tuple[str, str], epath.Path]
    ) -> epath.Path | None:
        cell = self.cells.get(column)
        if not cell:
            return None
        if "\0" in cell:
            self.refuse(column, "holds a NUL", "correct the path")
        relative = PurePosixPath(cell)
        if relative.is_absolute() or ".." in relative.parts:
            self.refuse(column, "leads out of the folder", "give paths relative to data.manual_dir")
        place = os.path.realpath((root / relative).parent)
        path = known.get((place, relative.name))
        if path is None:
            remedy = "correct the path or add the file"
            if "\\" in cell:
                remedy = "write / in place of \\, also on Windows"
            self.refuse(column, f"no file {cell} in the folder", remedy)
        if column != "image" and path.suffix.lower() not in (*MASK_SUFFIXES, SEG_SUFFIX):
            self.refuse(
                column, "neither PNG, GIF nor DICOM SEG (.dcm)", "save masks as 8-bit grey PNG"
            )
        return path

    def _word(self, column: str, allowed: tuple[str, ...]) -> str:
        cell = self.cells.get(column, "")
        if cell not in allowed:
            words = ", ".join(word for word in allowed if word)
            self.refuse(column, f"an unknown word, {cell!r}", f"write {words} or nothing")
        return cell

    def _age(self) -> float | None:
        cell = self.cells.get("age")
        if not cell:
            return None
        try:
            age = float(cell)
        except ValueError:
            age = math.nan
        if not 0 <= age <= MAX_AGE_YEARS:
            self.refuse("age", "no age", f"write years, 0 to {MAX_AGE_YEARS}, or nothing")
        return age
