"""The display shutter of a DICOM file: the exposed field as marked by the device or a person."""

import numpy as np
from jaxtyping import Float32
from pydicom.dataset import Dataset

from lungseg_jax.imaging.borders import LEAST_LEFT
from lungseg_jax.imaging.header import read_numbers, read_words

_EDGES = (
    "ShutterUpperHorizontalEdge",
    "ShutterLowerHorizontalEdge",
    "ShutterLeftVerticalEdge",
    "ShutterRightVerticalEdge",
)


def black_outside_shutter(pixels: Float32[np.ndarray, "h w"], dataset: Dataset) -> bool:
    """Blackens in place what a rectangular shutter hides (DICOM PS3.3 C.7.6.11).

    Edges count rows and columns from 1, and are shown themselves. Circles and polygons are
    ignored, and so is a rectangle that would leave little, or that ends outside the image: the
    header then belongs to a larger image, which was shrunk.

    Args:
      pixels: intensities as stored, before they are turned upright.
      dataset: the header.

    Returns:
      Whether anything was hidden.
    """
    edges = [read_numbers(dataset, keyword) for keyword in _EDGES]
    if "RECTANGULAR" not in read_words(dataset, "ShutterShape") or not all(edges):
        return False
    top, bottom, left, right = (round(edge[0]) for edge in edges)
    height, width = pixels.shape
    # Edges may lie just outside.
    if not (top >= 0 and bottom <= height + 1 and left >= 0 and right <= width + 1):
        return False
    if bottom - top < LEAST_LEFT * height or right - left < LEAST_LEFT * width:
        return False
    shown = np.s_[max(top - 1, 0) : bottom, max(left - 1, 0) : right]
    if pixels[shown].shape == pixels.shape:
        return False
    inside = pixels[shown].copy()
    pixels[:] = 0
    pixels[shown] = inside
    return True
