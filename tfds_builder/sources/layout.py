"""What every folder layout yields, and the functions that layouts share."""

import dataclasses
import os
import stat
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from etils import epath

from lungseg_jax.errors import DataError
from lungseg_jax.imaging import files
from lungseg_jax.imaging.find_files import IMAGE_SUFFIXES, children_of, is_hidden, unreadable
from lungseg_jax.imaging.structures import Structure

Sex = Literal["F", "M", ""]
Finding = Literal["normal", "abnormal", "unknown"]

# Why a file is neither image nor mask although records may depend on it.
CLINICAL_READING = "clinical reading"
LIST_OF_PAIRS = "list of pairs"
SECOND_COPY = "second copy"

MASK_SUFFIXES = (".png", ".gif")
# Of a DICOM SEG, which tells by itself what it marks.
SEG_SUFFIX = ".dcm"

# The publishers' readings have a few lines, or one line per image.
MAX_READING_BYTES = 2**16
_MAX_MASK_BYTES = 2**28

# (height, width) for which a source's documented spacing holds; files of other sizes were resized.
_ORIGINAL_SIZES = {"montgomery": {(4020, 4892), (4892, 4020)}, "jsrt": {(2048, 2048)}}


@dataclasses.dataclass(frozen=True)
class Clinical:
    """What a data set says about the patient and the image.

    Attributes:
      sex: the patient's sex; empty if not known.
      age_years: `None` if not known; not NaN, which does not equal itself.
      finding: splits are stratified by it.
      reading: the radiologist's words; empty if there are none.
    """

    sex: Sex = ""
    age_years: float | None = None
    finding: Finding = "unknown"
    reading: str = ""


@dataclasses.dataclass(frozen=True)
class MaskFile:
    """A file with the outline of one structure.

    Attributes:
      path: PNG, GIF or DICOM SEG file.
      structure: what it outlines; `LUNGS` for both lungs, for lung of unknown side, or for a DICOM
        SEG, which tells by itself.
    """

    path: epath.Path
    structure: Structure


@dataclasses.dataclass(frozen=True)
class Case:
    """A labelled image before any of its files is read.

    Attributes:
      example_id: unique in its folder; the file's stem unless the layout says otherwise.
      patient_id: the id that must not be in two splits. If `None`, it comes from the DICOM header,
        or else the example id stands for the patient.
      source: where the image was taken; splits are stratified and metrics reported by it.
      image: the image's file.
      masks: files whose lungs together are the lungs.
      clinical: what is known about the patient.
      spacing_mm: (row, column), from the data set's documentation, for the sizes in which it was
        published; `documented_spacing` tells whether it holds.
      patient_is_secret: whether `patient_id` is a hospital's own, not a publisher's: then only its
        keyed hash, `dicom.hash_patient`, may get into a record.
    """

    example_id: str
    patient_id: str | None
    source: str
    image: epath.Path
    masks: tuple[MaskFile, ...]
    clinical: Clinical
    spacing_mm: tuple[float, float] | None = None
    patient_is_secret: bool = False

    def files(self) -> list[epath.Path]:
        """Returns the image's file, then those of its masks."""
        return [self.image, *(mask.path for mask in self.masks)]


@dataclasses.dataclass(frozen=True)
class Listing:
    """What a folder holds: each file below it is in one of three groups, once.

    Attributes:
      root: the folder that was searched.
      cases: labelled images, sorted by id.
      unlabelled: images without a mask.
      other: every other file, and why it is neither.
    """

    root: epath.Path
    cases: tuple[Case, ...]
    unlabelled: tuple[epath.Path, ...]
    other: tuple[tuple[epath.Path, str], ...]

    def describe(self) -> str:
        """Returns how many images there are, with and without a mask, as text."""
        found = f"{len(self.cases)} images with masks"
        if self.unlabelled:
            found += f"; left out, without a mask: {len(self.unlabelled)}"
        return found

    def files(self) -> list[epath.Path]:
        """Returns every file that records are made from: images, masks, readings, list of pairs."""
        labelled = [path for case in self.cases for path in case.files()]
        return labelled + [
            path for path, why in self.other if why in (CLINICAL_READING, LIST_OF_PAIRS)
        ]


def documented_spacing(case: Case, shape: tuple[int, int]) -> tuple[float, float] | None:
    """Returns the spacing that a data set's documentation states for an image of this size.

    Args:
      case: a case of any source.
      shape: (height, width) of the image; a resized one has another spacing.
    """
    return case.spacing_mm if shape in _ORIGINAL_SIZES.get(case.source, ()) else None


def make_listing(
    root: epath.Path,
    paths: Iterable[epath.Path],
    cases: Iterable[Case],
    unlabelled: Iterable[epath.Path],
    reasons: Mapping[epath.Path, str],
) -> Listing:
    """Returns the listing of a folder, with every file accounted for.

    Args:
      root: the folder.
      paths: all files below it.
      cases: labelled images.
      unlabelled: images without a mask.
      reasons: why files are neither, if the layout knows.

    Raises:
      DataError: the name of a labelled image or of a mask is not UTF-8, as records require.
    """
    cases = tuple(sorted(cases, key=lambda case: case.example_id))
    unlabelled = tuple(sorted(path for path in unlabelled if _is_utf8(path)))
    used = {path for case in cases for path in case.files()}.union(unlabelled)
    for path in used:
        if not _is_utf8(path):
            raise DataError(path, "its name is not UTF-8", "rename it")
    names = {path.name for path in (*used, *reasons)}
    other = [
        (path, reasons.get(path) or _why_unused(path, root, names))
        for path in paths
        if path not in used
    ]
    return Listing(root, cases, unlabelled, tuple(other))


def _is_utf8(path: epath.Path) -> bool:
    try:
        os.fspath(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def nearest_first(paths: Iterable[epath.Path]) -> list[epath.Path]:
    """Returns paths in the order of their depth, since of several copies the topmost is used."""
    return sorted(paths, key=lambda path: (len(path.parts), path))


def by_stem(
    paths: Sequence[epath.Path], folder: epath.Path, suffixes: Sequence[str], ending: str = ""
) -> dict[str, epath.Path]:
    """Returns the files in a folder by their stem without `ending`.

    Raises:
      DataError: two files share a stem.
    """
    # The folder may be a link while its files are listed under their real path.
    place = os.path.realpath(folder)
    parents = {path.parent for path in paths}
    parents = {parent for parent in parents if os.path.realpath(parent) == place}
    found = {}
    for path in paths:
        if path.parent in parents and path.suffix.lower() in suffixes and path.name[0] != ".":
            other = found.setdefault(path.stem.removesuffix(ending), path)
            if other != path:
                raise DataError(folder, f"{other.name} and {path.name} both there", "remove one")
    return found


def find_root(directory: epath.Path, subfolders: Sequence[str]) -> epath.Path:
    """Returns the nearest folder at or below `directory` that has all the subfolders.

    Raises:
      DataError: there is none, or a folder cannot be read.
    """
    level = [directory]
    for _ in range(4):
        for folder in level:
            if all((folder / name).is_dir() for name in subfolders):
                return folder
        children = (child for folder in level for child in children_of(folder))
        below = [child for child in children if child.name[0] != "." and child.is_dir()]
        level = sorted(below, key=lambda child: (Path(child).is_symlink(), child))
    wanted = " and ".join(f"{name}/" for name in subfolders)
    raise DataError(
        directory,
        f"no folder with {wanted} here or up to three levels below; found {_contents(directory)}",
        "point data.manual_dir at the unpacked archive",
    )


def pick_mask(candidates: Sequence[epath.Path]) -> epath.Path:
    """Returns the first of several copies of one mask; copies of equal size are read.

    Raises:
      DataError: the copies differ, so that a choice between them would be arbitrary.
    """
    first, *others = candidates
    if not others:
        return first
    sizes = [_regular_size(path, _MAX_MASK_BYTES) for path in candidates]
    for other, size in zip(others, sizes[1:], strict=True):
        if size != sizes[0]:
            raise _rival(first, other)
    content = files.read_bytes(first)
    for other in others:
        if files.read_bytes(other) != content:
            raise _rival(first, other)
    return first


def read_regular(path: epath.Path, max_bytes: int) -> bytes:
    """Returns the content of a file that is read while a folder is listed.

    Raises:
      DataError: it is not a file but a pipe or the like, which could keep its reader waiting
        forever, or it is larger than `max_bytes` or not readable.
    """
    _regular_size(path, max_bytes)
    return files.read_bytes(path)


def check_not_empty(root: epath.Path, images: Collection, masks: Collection) -> None:
    """Refuses a folder without images or without masks.

    Raises:
      DataError: the folder has no images or no masks.
    """
    if not images or not masks:
        raise DataError(
            root,
            f"{len(images)} images and {len(masks)} masks",
            "point data.manual_dir at a folder with both",
        )


def check_masks_have_images(masks: Iterable[str], images: Iterable[str]) -> None:
    """Refuses stems of masks that no image has, since the folder was copied only in part.

    Raises:
      DataError: a mask lacks its image.
    """
    orphans = sorted(set(masks) - set(images))
    if orphans:
        raise DataError(
            orphans[0],
            f"mask without its image (one of {len(orphans)})",
            "add the image or remove the mask",
        )


def check_both_lungs(left: Iterable[str], right: Iterable[str]) -> None:
    """Refuses stems with the mask of only one lung, which would be taken for both.

    Raises:
      DataError: a mask lacks its counterpart.
    """
    unpaired = sorted(set(left) ^ set(right))
    if unpaired:
        raise DataError(unpaired[0], "mask of one lung without the other's", "add the other mask")


def _why_unused(path: epath.Path, root: epath.Path, used_names: Collection[str]) -> str:
    if is_hidden(path, root):
        return "hidden file"
    if not _is_utf8(path):
        return "its name is not UTF-8"
    if path.name in used_names:
        return SECOND_COPY
    if path.suffix.lower() in (*IMAGE_SUFFIXES, *MASK_SUFFIXES):
        return "not where the layout has images or masks"
    return "not an image"


def _contents(directory: epath.Path) -> str:
    found = [child.name for child in children_of(directory)]
    return ", ".join(found[:8]) + (", …" if len(found) > 8 else "") if found else "nothing"


def _regular_size(path: epath.Path, max_bytes: int) -> int:
    try:
        status = Path(path).stat()
    except OSError as error:
        raise unreadable(path, error) from error
    if not stat.S_ISREG(status.st_mode):
        raise DataError(path, "not a regular file", "replace or remove it")
    if status.st_size > max_bytes:
        raise DataError(path, f"larger than {max_bytes} bytes", "replace or remove it")
    return status.st_size


def _rival(first: epath.Path, other: epath.Path) -> DataError:
    return DataError(first, f"{other} is another mask of the same image", "remove one")
