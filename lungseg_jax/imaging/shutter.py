"""The display shutter of a DICOM file: the exposed field, as the device or a person marked it."""

import numpy as np
from jaxtyping import Float32
from pydicom.dataset import Dataset

from lungseg_jax.imaging.header import read_numbers, read_words

_EDGES = (
    "ShutterUpperHorizontalEdge",
    "ShutterLowerHorizontalEdge",
    "ShutterLeftVerticalEdge",
    "ShutterRightVerticalEdge",
)


def black_outside_shutter(pixels: Float32[np.ndarray, "h w"], dataset: Dataset) -> None:
    """Blackens in place what a rectangular shutter hides (DICOM PS3.3 C.7.6.11).

    Edges count rows and columns from 1, and are shown themselves. Circles and polygons are not
    looked at, nor is a rectangle that would leave nothing.

    Args:
      pixels: as stored, before they are turned upright.
      dataset: the header.
    """
    edges = [read_numbers(dataset, keyword) for keyword in _EDGES]
    if "RECTANGULAR" not in read_words(dataset, "ShutterShape") or not all(edges):
        return
    top, bottom, left, right = (round(edge[0]) for edge in edges)
    height, width = pixels.shape
    top, left, bottom, right = max(top, 1), max(left, 1), min(bottom, height), min(right, width)
    if top >= bottom or left >= right:
        return
    pixels[: top - 1] = pixels[bottom:] = 0
    pixels[:, : left - 1] = pixels[:, right:] = 0
