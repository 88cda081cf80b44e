"""Folder layouts: which picture belongs to which mask and to which patient."""

import dataclasses
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Literal

from etils import epath

from lungseg_jax.errors import DataError
from lungseg_jax.imaging import dicom, files

SourceName = Literal["phantom", "kaggle"]


@dataclasses.dataclass(frozen=True)
class Case:
    """A labelled picture before anything of it is read.

    Attributes:
      example_id: unique in its folder; the file's stem.
      patient_id: what must not be in two splits.
      source: where the picture was taken: splits are stratified by it, metrics reported by it.
      finding: `normal`, `abnormal` or `unknown`; splits are stratified by it too.
      image: DICOM or PNG file.
      masks: PNG files whose union is the lungs.
    """

    example_id: str
    patient_id: str
    source: str
    finding: str
    image: epath.Path
    masks: tuple[epath.Path, ...]


@dataclasses.dataclass(frozen=True)
class Listing:
    """What a folder holds.

    Attributes:
      cases: labelled pictures, sorted by id.
      unlabelled: pictures without a mask.
    """

    cases: tuple[Case, ...]
    unlabelled: tuple[epath.Path, ...]

    def files(self) -> list[epath.Path]:
        """Every file that a record is made of."""
        return [path for case in self.cases for path in (case.image, *case.masks)]


def list_source(source: SourceName, directory: epath.PathLike) -> Listing:
    """Returns the cases in a folder laid out as `source` is published.

    Raises:
      DataError: the folder is absent or holds no labelled picture, or a mask lacks its picture.
    """
    # An empty path would mean the current folder.
    if not os.fspath(directory):
        raise DataError(
            "data.manual_dir", f"is empty for source {source}", "give the data set's folder"
        )
    directory = epath.Path(directory).expanduser()
    if not directory.is_dir():
        raise DataError(
            directory, "no such folder", "give the data set's folder as data.manual_dir"
        )
    return _LAYOUTS[source](directory)


# Pictures of one patient under two numbers, found by comparing pixels.
_MONTGOMERY_SAME_PATIENT = {
    "MCUCXR_0117": "MCUCXR_0113",
    "MCUCXR_0166": "MCUCXR_0162",
    "MCUCXR_0170": "MCUCXR_0162",
}
_KAGGLE_FINDINGS = {"0": "normal", "1": "abnormal"}


def _list_kaggle(directory: epath.Path) -> Listing:
    """Kaggle's "Chest Xray Masks and Labels": Montgomery (MCUCXR) and Shenzhen (CHNCXR).

    Pictures in `CXR_png/`, masks in `masks/` under the picture's own name or `<stem>_mask.png`. The
    published archive holds the tree twice, so the topmost folder that has both is taken.
    """
    root = _find_root(directory, ("CXR_png", "masks"))
    pictures = _by_stem(root / "CXR_png", "*.png")
    masks = _by_stem(root / "masks", "*.png", suffix="_mask")
    _check_not_empty(root, pictures, masks)
    _check_masks_have_pictures(masks, pictures)
    cases = [_kaggle_case(stem, pictures[stem], masks[stem]) for stem in sorted(masks)]
    unlabelled = [path for stem, path in sorted(pictures.items()) if stem not in masks]
    return Listing(tuple(cases), tuple(unlabelled))


def _kaggle_case(stem: str, picture: epath.Path, mask: epath.Path) -> Case:
    patient, _, finding = stem.rpartition("_")
    source = {"MCUCXR": "montgomery", "CHNCXR": "shenzhen"}.get(stem.partition("_")[0], "kaggle")
    return Case(
        example_id=stem,
        patient_id=_MONTGOMERY_SAME_PATIENT.get(patient, patient or stem),
        source=source,
        finding=_KAGGLE_FINDINGS.get(finding, "unknown"),
        image=picture,
        masks=(mask,),
    )


def _list_phantoms(directory: epath.Path) -> Listing:
    """Generated radiographs: `images/*.dcm`, `masks/left/*.png`, `masks/right/*.png`."""
    pictures = _by_stem(directory / "images", "*.dcm")
    sides = [_by_stem(directory / "masks" / side, "*.png") for side in ("left", "right")]
    _check_not_empty(directory, pictures, sides[0])
    for masks in sides:
        _check_masks_have_pictures(masks, pictures)
    unpaired = sorted(sides[0].keys() ^ sides[1].keys())
    if unpaired:
        raise DataError(unpaired[0], "mask of one lung without the other's", "add the other mask")
    cases = []
    for stem in sorted(sides[0]):
        patient = dicom.read_patient_id(
            files.read_bytes(pictures[stem]), pictures[stem].name, b"phantom"
        )
        masks = (sides[0][stem], sides[1][stem])
        cases.append(Case(stem, patient or stem, "phantom", "unknown", pictures[stem], masks))
    return Listing(tuple(cases), ())


_LAYOUTS: dict[SourceName, Callable[[epath.Path], Listing]] = {
    "phantom": _list_phantoms,
    "kaggle": _list_kaggle,
}


def _by_stem(folder: epath.Path, pattern: str, suffix: str = "") -> dict[str, epath.Path]:
    """Returns the files in a folder by their stem, less `suffix`."""
    paths = {}
    # Copying through macOS leaves a hidden `._` file beside each.
    for path in (path for path in folder.glob(pattern) if not path.name.startswith(".")):
        other = paths.setdefault(path.stem.removesuffix(suffix), path)
        if other != path:
            raise DataError(folder, f"{other.name} and {path.name} both there", "remove one")
    return paths


def _find_root(directory: epath.Path, subfolders: Sequence[str]) -> epath.Path:
    """Returns the nearest folder at or below `directory` that has all the subfolders."""
    level = [directory]
    for _ in range(4):
        for folder in level:
            if all((folder / name).is_dir() for name in subfolders):
                return folder
        level = sorted(child for folder in level for child in folder.iterdir() if child.is_dir())
    found = sorted(child.name for child in directory.iterdir())
    listing = ", ".join(found[:8]) + (", …" if len(found) > 8 else "") if found else "nothing"
    raise DataError(
        directory,
        f"no folder with {' and '.join(f'{name}/' for name in subfolders)} here or up to three "
        f"levels below; found {listing}",
        "point data.manual_dir at the unpacked archive",
    )


def _check_not_empty(
    root: epath.Path, pictures: dict[str, epath.Path], masks: dict[str, epath.Path]
) -> None:
    if not pictures or not masks:
        raise DataError(
            root,
            f"{len(pictures)} pictures and {len(masks)} masks",
            "point data.manual_dir at a folder with both",
        )


def _check_masks_have_pictures(masks: Iterable[str], pictures: Iterable[str]) -> None:
    orphans = sorted(set(masks) - set(pictures))
    if orphans:
        raise DataError(
            orphans[0],
            f"mask without its picture (one of {len(orphans)})",
            "add the picture or remove the mask",
        )
