"""A case's files to the fields of its record."""

from typing import Any

import numpy as np
from jaxtyping import UInt8

from lungseg_jax.imaging import files, png
from lungseg_jax.imaging.geometry import Fit, fit_to_square, to_square
from lungseg_jax.imaging.structures import Structure
from tfds_builder.masks import read_structures
from tfds_builder.sources import Case, documented_spacing

# Stored where the spacing is not known; readers turn it back into None.
NO_SPACING = (0.0, 0.0)


def convert(case: Case, image_size: int) -> dict[str, Any]:
    """Returns the record of a case: picture and mask in the model's square, mask at full size.

    Raises:
      DataError: a file is missing or broken, or picture and mask differ in size.
    """
    radiograph = files.read_radiograph(case.image)
    height, width = radiograph.pixels.shape
    mask, _ = read_structures(case, (height, width))
    spacing_mm, spacing_source = radiograph.spacing_mm, radiograph.spacing_source
    if spacing_mm is None and (spacing_mm := documented_spacing(case, (height, width))):
        spacing_source = "detector"
    fit = fit_to_square(height, width, image_size)
    image = to_square(radiograph.pixels, fit)
    return {
        "image": png.encode_png(np.rint(image * 65535).astype(np.uint16)),
        "mask": png.encode_png(_to_square(mask, fit)),
        "original_mask": png.encode_png(mask),
        "example_id": case.example_id,
        "patient_id": case.patient_id,
        "source": case.source,
        "finding": case.clinical.finding,
        "original_size": np.asarray([height, width], np.int32),
        "spacing_mm": np.asarray(spacing_mm or NO_SPACING, np.float32),
        "spacing_source": spacing_source,
    }


def _to_square(mask: UInt8[np.ndarray, "h w"], fit: Fit) -> UInt8[np.ndarray, "s s"]:
    """Returns the mask in the model's square, each structure where it covers half a pixel."""
    square = np.zeros((fit.size, fit.size), np.uint8)
    for structure in Structure:
        own = (mask & structure > 0).astype(np.uint8)
        if own.any():
            square[to_square(own, fit) > 0.5] |= np.uint8(structure)
    return square
