"""The JSRT set with the outlines of the SCR database.

    All247images/JPCLN001.IMG              raw pixels; PNG files are taken where there is no raw one
    Clinical_Information/CLNDAT_EN.txt     154 images with a nodule
    Clinical_Information/CNNDAT_EN.TXT     93 without
    scratch/fold1/masks/left lung/JPCLN002.gif
        also `right lung`, `heart`, `left clavicle`, `right clavicle`; fold2 has the odd numbers

Shiraishi et al. 2000 (https://doi.org/10.2214/ajr.174.1.1740071), van Ginneken et al. 2006
(https://doi.org/10.1016/j.media.2005.02.002). Sides are the patient's ("the right lung and clavicle
are on the left in the image"). The archives come from two places and are unpacked anywhere below
one folder, so files are recognised by their names and their folders' names.
"""

import re

from etils import epath

from lungseg_jax.errors import DataError
from lungseg_jax.imaging import raw
from lungseg_jax.imaging.find_files import files_below, is_hidden
from lungseg_jax.imaging.structures import Structure
from tfds_builder.sources.clinical import jsrt_finding, parse_jsrt
from tfds_builder.sources.layout import (
    CLINICAL_READING,
    MASK_SUFFIXES,
    MAX_READING_BYTES,
    SECOND_COPY,
    Case,
    Clinical,
    Listing,
    MaskFile,
    check_both_lungs,
    check_masks_have_images,
    make_listing,
    nearest_first,
    pick_mask,
    read_regular,
)

# By the folder's name without blanks, underscores and hyphens, which mirrors of the set change.
_STRUCTURES = {
    "leftlung": Structure.LEFT_LUNG,
    "rightlung": Structure.RIGHT_LUNG,
    "heart": Structure.HEART,
    "leftclavicle": Structure.CLAVICLES,
    "rightclavicle": Structure.CLAVICLES,
}
_STEM = re.compile(r"JPC[LN]N\d{3}")
_READINGS = re.compile(r"C[LN]NDAT_EN\.txt", re.IGNORECASE)


def list_jsrt(directory: epath.Path) -> Listing:
    """Returns the cases in a folder with images and outlines.

    Raises:
      DataError: there are no images or no masks, a mask lacks its image or the other lung's mask,
        or copies of a mask differ.
    """
    paths = files_below(directory)
    visible = nearest_first(path for path in paths if not is_hidden(path, directory))
    masks = _find_masks(visible)
    images = _find_images(visible)
    left, right = (masks.get(side, {}) for side in ("leftlung", "rightlung"))
    if not images or not left:
        raise DataError(
            directory,
            f"{len(images)} images JPC*.IMG or JPC*.png and {len(left)} masks in `left lung/` "
            "below it",
            "unpack the images of JSRT and the masks of SCR into this folder",
        )
    for by_stem in masks.values():
        check_masks_have_images(by_stem, images)
    check_both_lungs(left, right)
    _check_lungs_are_there({stem for by_stem in masks.values() for stem in by_stem} - set(left))
    readings = [path for path in visible if _READINGS.fullmatch(path.name)]
    clinical = _read_all(readings)
    cases = [
        Case(
            example_id=stem,
            patient_id=stem,
            source="jsrt",
            image=images[stem][0],
            masks=tuple(
                MaskFile(pick_mask(by_stem[stem]), _STRUCTURES[name])
                for name, by_stem in sorted(masks.items())
                if stem in by_stem
            ),
            clinical=clinical.get(stem, Clinical(finding=jsrt_finding(stem))),
            spacing_mm=raw.JSRT_SPACING_MM,
        )
        for stem in left
    ]
    unlabelled = [copies[0] for stem, copies in images.items() if stem not in left]
    reasons = {
        path: SECOND_COPY
        for found in (images, *masks.values())
        for _, *copies in found.values()
        for path in copies
    } | dict.fromkeys(readings, CLINICAL_READING)
    return make_listing(directory, paths, cases, unlabelled, reasons)


def _find_masks(paths: list[epath.Path]) -> dict[str, dict[str, list[epath.Path]]]:
    """Returns the copies of each mask by the structure's folder, then by stem."""
    found: dict[str, dict[str, list[epath.Path]]] = {}
    for path in paths:
        name, stem = _folder_name(path), path.stem.upper()
        if name in _STRUCTURES and path.suffix.lower() in MASK_SUFFIXES and _STEM.fullmatch(stem):
            found.setdefault(name, {}).setdefault(stem, []).append(path)
    return found


def _find_images(paths: list[epath.Path]) -> dict[str, list[epath.Path]]:
    """Returns the files of each image by stem, raw ones first: they have all 12 bits."""
    found: dict[str, list[epath.Path]] = {}
    for suffix in (".img", ".png"):
        for path in paths:
            stem, folder = path.stem.upper(), _folder_name(path)
            is_mask = folder in _STRUCTURES or "mask" in folder
            if path.suffix.lower() == suffix and _STEM.fullmatch(stem) and not is_mask:
                found.setdefault(stem, []).append(path)
    return found


def _check_lungs_are_there(without: set[str]) -> None:
    if without:
        raise DataError(
            min(without),
            f"mask of heart or clavicle without the lungs' (one of {len(without)})",
            "unpack all masks of SCR",
        )


def _folder_name(path: epath.Path) -> str:
    return re.sub(r"[\s_-]", "", path.parent.name).lower()


def _read_all(readings: list[epath.Path]) -> dict[str, Clinical]:
    clinical: dict[str, Clinical] = {}
    for path in readings:
        text = read_regular(path, MAX_READING_BYTES).decode("utf-8-sig", errors="replace")
        clinical |= parse_jsrt(text)
    return clinical
