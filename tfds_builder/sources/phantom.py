"""Generated radiographs: `images/*.dcm`, `masks/left/*.png`, `masks/right/*.png`."""

from etils import epath

from lungseg_jax.imaging.find_files import files_below
from lungseg_jax.imaging.structures import Structure
from tfds_builder.sources.layout import (
    Case,
    Clinical,
    Listing,
    MaskFile,
    by_stem,
    check_both_lungs,
    check_masks_have_images,
    check_not_empty,
    make_listing,
)


def list_phantoms(directory: epath.Path) -> Listing:
    """Returns the cases in a folder that `phantom_files.write_phantoms` wrote.

    Raises:
      DataError: a folder is empty, or a mask lacks its image or the other lung's mask.
    """
    paths = files_below(directory)
    images = by_stem(paths, directory / "images", (".dcm",))
    left, right = (
        by_stem(paths, directory / "masks" / side, (".png",)) for side in ("left", "right")
    )
    check_not_empty(directory, images, left)
    check_masks_have_images({*left, *right}, images)
    check_both_lungs(left, right)
    cases = []
    for stem in left:
        masks = (
            MaskFile(left[stem], Structure.LEFT_LUNG),
            MaskFile(right[stem], Structure.RIGHT_LUNG),
        )
        cases.append(Case(stem, None, "phantom", images[stem], masks, Clinical()))
    unlabelled = [path for stem, path in images.items() if stem not in left]
    return make_listing(directory, paths, cases, unlabelled, {})
