"""Kaggle's "Chest Xray Masks and Labels": Montgomery (MCUCXR) and Shenzhen (CHNCXR) in one folder.

    Lung Segmentation/CXR_png/CHNCXR_0001_0.png, MCUCXR_0001_0.png
    Lung Segmentation/masks/CHNCXR_0001_0_mask.png, MCUCXR_0001_0.png
    Lung Segmentation/ClinicalReadings/CHNCXR_0001_0.txt, MCUCXR_0001_0.txt
    Lung Segmentation/test/                images of CXR_png once more, without masks

The published archive holds the tree twice, so the topmost folder that has both is taken.
"""

from etils import epath

from lungseg_jax.imaging.find_files import files_below
from lungseg_jax.imaging.structures import Structure
from tfds_builder.sources.layout import (
    CLINICAL_READING,
    Listing,
    MaskFile,
    by_stem,
    check_masks_have_images,
    check_not_empty,
    find_root,
    make_listing,
)
from tfds_builder.sources.nlm import make_case


def list_kaggle(directory: epath.Path) -> Listing:
    """Returns the cases in the unpacked archive.

    Raises:
      DataError: a folder is absent or empty, or a mask lacks its image.
    """
    root = find_root(directory, ("CXR_png", "masks"))
    paths = files_below(directory)
    images = by_stem(paths, root / "CXR_png", (".png",))
    masks = by_stem(paths, root / "masks", (".png",), ending="_mask")
    readings = by_stem(paths, root / "ClinicalReadings", (".txt",))
    check_not_empty(root, images, masks)
    check_masks_have_images(masks, images)
    cases = [
        make_case(
            stem,
            images[stem],
            [MaskFile(mask, Structure.LUNGS)],
            readings.get(stem),
            other_source="kaggle",
        )
        for stem, mask in masks.items()
    ]
    unlabelled = [path for stem, path in images.items() if stem not in masks]
    reasons = dict.fromkeys(readings.values(), CLINICAL_READING)
    return make_listing(directory, paths, cases, unlabelled, reasons)
