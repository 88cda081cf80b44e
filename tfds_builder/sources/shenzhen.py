"""The Shenzhen set of the National Library of Medicine, with the separately published masks.

    ChinaSet_AllFiles/CXR_png/CHNCXR_0001_0.png
    ChinaSet_AllFiles/ClinicalReadings/CHNCXR_0001_0.txt
    mask/mask/CHNCXR_0001_0_mask.png       Kaggle's "shcxr-lung-mask"

Images and readings are recognised by their names and their folders' names, masks by their names
alone, because the two archives are unpacked anywhere below one folder.
"""

import re

from etils import epath

from lungseg_jax.errors import DataError
from lungseg_jax.imaging.find_files import files_below, is_hidden
from lungseg_jax.imaging.structures import Structure
from tfds_builder.sources.layout import (
    CLINICAL_READING,
    SECOND_COPY,
    Listing,
    MaskFile,
    check_masks_have_images,
    make_listing,
    nearest_first,
    pick_mask,
)
from tfds_builder.sources.nlm import make_case

_NAME = re.compile(r"(CHNCXR_\d{4}_[01])(_mask\.png|\.png|\.txt)", re.IGNORECASE)
_IMAGES, _READINGS = "CXR_png", "ClinicalReadings"


def list_shenzhen(directory: epath.Path) -> Listing:
    """Returns the cases in a folder with both archives.

    Raises:
      DataError: there are no images or no masks, a mask lacks its image, or copies of a mask
        differ.
    """
    paths = files_below(directory)
    images: dict[str, list[epath.Path]] = {}
    masks: dict[str, list[epath.Path]] = {}
    readings: dict[str, list[epath.Path]] = {}
    for path in nearest_first(path for path in paths if not is_hidden(path, directory)):
        match = _NAME.fullmatch(path.name)
        if not match:
            continue
        stem, kind = match[1].upper(), match[2].lower()
        if kind == "_mask.png":
            masks.setdefault(stem, []).append(path)
        elif kind == ".png" and path.parent.name == _IMAGES:
            images.setdefault(stem, []).append(path)
        elif kind == ".txt" and path.parent.name == _READINGS:
            readings.setdefault(stem, []).append(path)
    if not images or not masks:
        raise DataError(
            directory,
            f"{len(images)} images {_IMAGES}/CHNCXR_*.png and {len(masks)} masks "
            "CHNCXR_*_mask.png below it",
            "unpack the images' archive and the masks' into this folder",
        )
    check_masks_have_images(masks, images)
    used_readings = {stem: copies[0] for stem, copies in readings.items()}
    cases = [
        make_case(
            stem,
            images[stem][0],
            [MaskFile(pick_mask(copies), Structure.LUNGS)],
            used_readings.get(stem),
            other_source="shenzhen",
        )
        for stem, copies in masks.items()
    ]
    unlabelled = [copies[0] for stem, copies in images.items() if stem not in masks]
    reasons = {
        path: SECOND_COPY
        for found in (images, masks, readings)
        for _, *copies in found.values()
        for path in copies
    } | dict.fromkeys(used_readings.values(), CLINICAL_READING)
    return make_listing(directory, paths, cases, unlabelled, reasons)
