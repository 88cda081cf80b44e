"""The Montgomery County set as the National Library of Medicine publishes it.

MontgomerySet/CXR_png/MCUCXR_0001_0.png
MontgomerySet/ManualMask/leftMask/MCUCXR_0001_0.png      the patient's left lung
MontgomerySet/ManualMask/rightMask/MCUCXR_0001_0.png
MontgomerySet/ClinicalReadings/MCUCXR_0001_0.txt
"""

from etils import epath

from lungseg_jax.imaging.find_files import files_below
from lungseg_jax.imaging.structures import Structure
from tfds_builder.sources.layout import (
    CLINICAL_READING,
    Listing,
    MaskFile,
    by_stem,
    check_both_lungs,
    check_masks_have_images,
    check_not_empty,
    find_root,
    make_listing,
)
from tfds_builder.sources.nlm import make_case


def list_montgomery(directory: epath.Path) -> Listing:
    """Returns the cases in the unpacked archive.

    Raises:
      DataError: a folder is absent or empty, or a mask lacks its image or the other lung's mask.
    """
    root = find_root(directory, ("CXR_png", "ManualMask/leftMask", "ManualMask/rightMask"))
    paths = files_below(directory)
    images = by_stem(paths, root / "CXR_png", (".png",))
    left, right = (
        by_stem(paths, root / "ManualMask" / name, (".png",), ending="_mask")
        for name in ("leftMask", "rightMask")
    )
    readings = by_stem(paths, root / "ClinicalReadings", (".txt",))
    check_not_empty(root, images, left)
    check_masks_have_images({*left, *right}, images)
    check_both_lungs(left, right)
    cases = [
        make_case(
            stem,
            images[stem],
            [
                MaskFile(left[stem], Structure.LEFT_LUNG),
                MaskFile(right[stem], Structure.RIGHT_LUNG),
            ],
            readings.get(stem),
            other_source="montgomery",
        )
        for stem in left
    ]
    unlabelled = [path for stem, path in images.items() if stem not in left]
    reasons = dict.fromkeys(readings.values(), CLINICAL_READING)
    return make_listing(directory, paths, cases, unlabelled, reasons)
