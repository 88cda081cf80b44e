"""Bars beside the exposed field: shadow of the collimator, or a detector that no ray has reached.

Shadow is black where bone is bright; so is what detectors and viewers fill with. Unexposed parts of
a plate whose picture was never cut are white.
"""

import numpy as np
from jaxtyping import Bool, Float, Float32

# Greys this near to the darkest or the brightest are black or white, as a share of their distance.
_TOLERANCE = 0.06

# A line is a bar's if all but this share of it is black, or white.
_REST = 0.1

# What is left beside bars is at least this share of each side.
_LEAST = 1 / 3


def without_bars(pixels: Float32[np.ndarray, "h w"]) -> Float32[np.ndarray, "h2 w2"]:
    """Returns pixels without the black and white lines around them, unless little would be left."""
    left = pixels
    # Twice: there may be black bars within white ones, or the reverse.
    for _ in range(2):
        black, white = _black_and_white(left)
        rows, columns = (
            np.flatnonzero((black.mean(axis) < 1 - _REST) & (white.mean(axis) < 1 - _REST))
            for axis in (1, 0)
        )
        if _little_is_left(pixels, rows, columns):
            return left
        left = left[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return left


def blacken_white_bars(
    pixels: Float32[np.ndarray, "h w"],
) -> tuple[Float32[np.ndarray, "h w"], bool]:
    """Returns pixels with the white lines around them black, and whether there were any.

    Networks see black bars in training. Pictures of which little would be left stay as they are.
    """
    _, white = _black_and_white(pixels)
    rows, columns = (np.flatnonzero(white.mean(axis) < 1 - _REST) for axis in (1, 0))
    height, width = pixels.shape
    if _little_is_left(pixels, rows, columns) or (
        (rows[0], rows[-1], columns[0], columns[-1]) == (0, height - 1, 0, width - 1)
    ):
        return pixels, False
    inside = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    blackened = np.zeros_like(pixels)
    blackened[inside] = pixels[inside]
    return blackened, True


def _black_and_white(
    pixels: Float[np.ndarray, "h w"],
) -> tuple[Bool[np.ndarray, "h w"], Bool[np.ndarray, "h w"]]:
    low, high = pixels.min(), pixels.max()
    tolerance = _TOLERANCE * (high - low)
    return pixels <= low + tolerance, pixels >= high - tolerance


def _little_is_left(pixels: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> bool:
    height, width = pixels.shape
    return len(rows) < _LEAST * height or len(columns) < _LEAST * width
