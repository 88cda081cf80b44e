"""Any folder: pictures paired with masks by a list, `pairs.csv`, or by patterns of their names."""

import csv
import dataclasses
import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import NoReturn, cast

from etils import epath

from lungseg_jax.errors import ConfigError, DataError
from lungseg_jax.imaging import files
from lungseg_jax.imaging.structures import Structure
from tfds_builder.sources.clinical import MAX_AGE_YEARS
from tfds_builder.sources.layout import (
    LIST_OF_PAIRS,
    MASK_SUFFIXES,
    Case,
    Clinical,
    Finding,
    Listing,
    MaskFile,
    Sex,
    check_not_empty,
    files_below,
    is_hidden,
    make_listing,
    stem_of,
)

PAIRS = "pairs.csv"
SOURCE = "folder"

_MASK_COLUMNS = {
    "mask": Structure.LUNGS,
    "left_mask": Structure.LEFT_LUNG,
    "right_mask": Structure.RIGHT_LUNG,
}
_COLUMN = {structure: column for column, structure in _MASK_COLUMNS.items()}
_COLUMNS = ("image", *_MASK_COLUMNS, "id", "patient", "source", "finding", "sex", "age")
_FINDINGS = ("normal", "abnormal", "unknown")

# What lies beside pictures; a DICOM file may have any other suffix, or none.
_NO_PICTURE = (".txt", ".csv", ".json", ".xml", ".md", ".pdf", ".docx", ".xlsx", ".zip", ".db")


@dataclasses.dataclass(frozen=True)
class FolderPatterns:
    """How pictures and masks are called, relative to the folder; `*` and `?` stay in one folder.

    Attributes:
      images: of the pictures.
      masks: of a picture's masks; `{stem}` is the picture's name without suffix. A file that
        fits several pictures belongs to the one of the longest name, and one that fits both
        patterns is a mask.
    """

    images: str = "images/*"
    masks: str = "masks/{stem}*"

    def __post_init__(self) -> None:
        if self.masks.count("{stem}") != 1:
            raise ConfigError(
                "patterns.masks", "does not name the picture once", "write {stem} for its name"
            )


def list_folder(directory: epath.Path, patterns: FolderPatterns) -> Listing:
    """Returns the cases that `pairs.csv` lists, or that the patterns find where there is none.

    The list has the columns `image` and `mask`, or `left_mask` and `right_mask` (the patient's
    sides), and may have `id`, `patient`, `source`, `finding`, `sex` and `age` (years). Paths are
    relative to the folder. A row without a mask is an unlabelled picture.

    Raises:
      DataError: the list is faulty, a file it names is absent, or there are no pairs.
      ConfigError: a pattern is not one.
    """
    paths = files_below(directory)
    pairs = directory / PAIRS
    if pairs.is_file():
        return _list_pairs(directory, paths, pairs)
    return _match_patterns(directory, paths, patterns)


def _match_patterns(root: epath.Path, paths: list[epath.Path], patterns: FolderPatterns) -> Listing:
    visible = {
        path.relative_to(root).as_posix(): path for path in paths if not is_hidden(path, root)
    }
    is_image, is_mask = (
        re.compile(_expression(pattern))
        for pattern in (patterns.images, patterns.masks.replace("{stem}", "*"))
    )
    candidates = {name: path for name, path in visible.items() if is_mask.fullmatch(name)}
    pictures: dict[str, epath.Path] = {}
    # What only the first pattern fits goes first: that is surely a picture.
    for name, path in sorted(visible.items(), key=lambda item: item[0] in candidates):
        if is_image.fullmatch(name) and path.suffix.lower() not in _NO_PICTURE:
            other = pictures.setdefault(stem_of(path), path)
            if other != path and name not in candidates:
                raise DataError(
                    path, f"{other} has the same name", f"give them ids of their own in {PAIRS}"
                )
    masks: dict[str, list[epath.Path]] = {}
    lengths = sorted({len(stem) for stem in pictures}, reverse=True)
    for name, path in candidates.items():
        if path.suffix.lower() not in MASK_SUFFIXES:
            continue
        stem = _picture_of(name, path, pictures, lengths, patterns.masks)
        if stem is not None:
            masks.setdefault(stem, []).append(path)
        elif not is_image.fullmatch(name):
            raise DataError(path, "mask without its picture", "add the picture or remove the mask")
    taken = {path for own in masks.values() for path in own}
    pictures = {stem: path for stem, path in pictures.items() if path not in taken}
    check_not_empty(root, pictures, masks)
    cases = [
        Case(
            example_id=stem,
            patient_id=None,
            source=SOURCE,
            image=pictures[stem],
            masks=tuple(MaskFile(path, Structure.LUNGS) for path in own),
            clinical=Clinical(),
        )
        for stem, own in masks.items()
    ]
    unlabelled = [path for stem, path in pictures.items() if stem not in masks]
    return make_listing(root, paths, cases, unlabelled, {})


def _expression(pattern: str) -> str:
    """Returns a pattern as a regular expression; wildcards of `fnmatch` would cross folders."""
    return re.escape(pattern).replace(r"\*", "[^/]*").replace(r"\?", "[^/]")


def _picture_of(
    name: str,
    path: epath.Path,
    pictures: Mapping[str, epath.Path],
    lengths: Sequence[int],
    pattern: str,
) -> str | None:
    """Returns the longest stem of a picture that the mask's name fits; mask 10 is not 1's."""
    before, after = map(_expression, pattern.split("{stem}"))
    for length in lengths:
        for start in range(len(name) - length + 1):
            stem = name[start : start + length]
            if (
                stem in pictures
                and pictures[stem] != path
                and re.fullmatch(before, name[:start])
                and re.fullmatch(after, name[start + length :])
            ):
                return stem
    return None


def _list_pairs(root: epath.Path, paths: list[epath.Path], pairs: epath.Path) -> Listing:
    known = set(paths)
    cases: dict[str, Case] = {}
    unlabelled: list[epath.Path] = []
    first_use: dict[epath.Path, int] = {}
    for line, row in _read_rows(pairs):
        cells = _Row(pairs, line, row)
        image, masks = cells.pair(root, known)
        for column, path in (("image", image), *((_COLUMN[m.structure], m.path) for m in masks)):
            if path in first_use:
                cells.refuse(column, f"a file of line {first_use[path]} again", "use a file once")
            first_use[path] = line
        if not masks:
            unlabelled.append(image)
            continue
        case = cells.case(image, masks)
        if cases.setdefault(case.example_id, case) is not case:
            cells.refuse("id", "an id for the second time", "give each picture an id of its own")
    check_not_empty(root, [*cases, *unlabelled], cases)
    return make_listing(root, paths, cases.values(), unlabelled, {pairs: LIST_OF_PAIRS})


def _read_rows(pairs: epath.Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Yields the number of each line and its cells, without the blanks around them."""
    # Spreadsheets put a byte-order mark before the first column's name.
    text = files.read_bytes(pairs).decode("utf-8-sig", errors="replace")
    reader = csv.DictReader(io.StringIO(text), skipinitialspace=True)
    columns = [name.strip() for name in reader.fieldnames or ()]
    remedy = f"name the columns in line 1, with commas between: {', '.join(_COLUMNS)}"
    for name in columns:
        if name not in _COLUMNS:
            raise DataError(pairs, f"line 1: unknown column {name!r}", remedy)
    if "image" not in columns or not (
        "mask" in columns or {"left_mask", "right_mask"} <= {*columns}
    ):
        raise DataError(pairs, "line 1: no columns image and mask", remedy)
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

    def pair(
        self, root: epath.Path, known: set[epath.Path]
    ) -> tuple[epath.Path, tuple[MaskFile, ...]]:
        """Returns the picture and its masks."""
        image = self._file("image", root, known)
        if image is None:
            self.refuse("image", "is empty", "give a picture or remove the line")
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

    def case(self, image: epath.Path, masks: tuple[MaskFile, ...]) -> Case:
        """Returns the line's case."""
        clinical = Clinical(
            sex=cast(Sex, self._word("sex", ("", "F", "M"))),
            age_years=self._age(),
            finding=cast(Finding, self._word("finding", ("", *_FINDINGS)) or "unknown"),
        )
        return Case(
            example_id=self.cells.get("id") or stem_of(image),
            patient_id=self.cells.get("patient") or None,
            source=self.cells.get("source") or SOURCE,
            image=image,
            masks=masks,
            clinical=clinical,
        )

    def _file(self, column: str, root: epath.Path, known: set[epath.Path]) -> epath.Path | None:
        cell = self.cells.get(column)
        if not cell:
            return None
        relative = PurePosixPath(cell)
        if relative.is_absolute() or ".." in relative.parts:
            self.refuse(column, "leads out of the folder", "give paths relative to data.manual_dir")
        path = root / relative
        if path not in known:
            self.refuse(column, f"no file {cell} in the folder", "correct the path or add the file")
        if column != "image" and path.suffix.lower() not in MASK_SUFFIXES:
            self.refuse(column, "neither PNG nor GIF", "save masks as 8-bit grey PNG")
        return path

    def _word(self, column: str, allowed: tuple[str, ...]) -> str:
        cell = self.cells.get(column, "")
        if cell not in allowed:
            words = ", ".join(word for word in allowed if word)
            self.refuse(column, "an unknown word", f"write {words} or nothing")
        return cell

    def _age(self) -> float:
        cell = self.cells.get("age")
        if not cell:
            return math.nan
        try:
            age = float(cell)
        except ValueError:
            age = math.nan
        if not 0 <= age <= MAX_AGE_YEARS:
            self.refuse("age", "no age", f"write years, 0 to {MAX_AGE_YEARS}, or nothing")
        return age
