"""A case's files to the fields of its record."""

from typing import Any

import numpy as np
from jaxtyping import UInt8

from lungseg_jax.errors import DataError
from lungseg_jax.imaging import files, png
from lungseg_jax.imaging.geometry import Fit, fit_to_square, to_square
from lungseg_jax.imaging.structures import Structure
from tfds_builder.sources import Case

# Stored where the spacing is not known; readers turn it back into None.
NO_SPACING = (0.0, 0.0)

# What is drawn in a mask file, by the folder it lies in; elsewhere lungs of unknown sides.
_DRAWN_IN = {
    "right": Structure.LUNGS | Structure.RIGHT_LUNG,
    "left": Structure.LUNGS | Structure.LEFT_LUNG,
}


def convert(case: Case, image_size: int) -> dict[str, Any]:
    """Returns the record of a case: picture and mask in the model's square, mask at full size.

    Raises:
      DataError: a file is missing or broken, or picture and mask differ in size.
    """
    radiograph = files.read_radiograph(case.image)
    mask = read_bits(case)
    if mask.shape != radiograph.pixels.shape:
        raise DataError(
            case.masks[0].name,
            f"mask of {_size(mask)} for a picture of {_size(radiograph.pixels)} "
            f"({case.image.name})",
            "draw the mask at the picture's own size",
        )
    height, width = mask.shape
    fit = fit_to_square(height, width, image_size)
    image = to_square(radiograph.pixels, fit)
    return {
        "image": png.encode_png(np.rint(image * 65535).astype(np.uint16)),
        "mask": png.encode_png(to_square_bits(mask, fit)),
        "original_mask": png.encode_png(mask),
        "example_id": case.example_id,
        "patient_id": case.patient_id,
        "source": case.source,
        "finding": case.finding,
        "original_size": np.asarray([height, width], np.int32),
        "spacing_mm": np.asarray(radiograph.spacing_mm or NO_SPACING, np.float32),
        "spacing_source": radiograph.spacing_source,
    }


def to_square_bits(mask: UInt8[np.ndarray, "h w"], fit: Fit) -> UInt8[np.ndarray, "s s"]:
    """Returns the mask in the model's square, each bit where it covers more than half a pixel."""
    square = np.zeros((fit.size, fit.size), np.uint8)
    for bit in map(np.uint8, Structure):
        share = to_square((mask & bit > 0).astype(np.uint8), fit)
        square[share > 0.5] |= bit
    return square


def read_bits(case: Case) -> UInt8[np.ndarray, "h w"]:
    """Returns the bits of `Structure` of a case's masks.

    Raises:
      DataError: a mask is missing, broken, or of another size than the first.
    """
    masks = [png.read_mask(files.read_bytes(path), path.name) for path in case.masks]
    for path, mask in zip(case.masks, masks, strict=True):
        if mask.shape != masks[0].shape:
            raise DataError(
                path.name,
                f"mask of {_size(mask)}, where {case.masks[0].name} has {_size(masks[0])}",
                "draw all masks at the picture's own size",
            )
    drawn = [np.uint8(_DRAWN_IN.get(path.parent.name, Structure.LUNGS)) for path in case.masks]
    return np.bitwise_or.reduce([mask * bits for mask, bits in zip(masks, drawn, strict=True)])


def _size(pixels: np.ndarray) -> str:
    height, width = pixels.shape
    return f"{height} x {width} pixels"
