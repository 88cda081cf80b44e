"""Bars beside the exposed field: the collimator's shadow, or detector that no ray has reached.

Shadow is black where bone is bright; so is what detectors and viewers pad with. Unexposed parts of
a plate whose image was never cropped are white.
"""

import numpy as np
from jaxtyping import Bool, Float, Float32

# Greys this close to the darkest or the brightest, as a share of the range, are black or white.
_TOLERANCE = 0.06

# A line belongs to a bar if all but this share of it is black, or white.
_REST = 0.1

# What is left between bars is at least this share of each side.
LEAST_LEFT = 1 / 3

# A white bar ends sharply: this share of the side farther in, most of a line is darker by more than
# this share of the range. An abdomen that is white all over, at the lower border, ends gradually.
_EDGE = 0.02
_DROP = 0.15


def without_bars(pixels: Float32[np.ndarray, "h w"]) -> Float32[np.ndarray, "h2 w2"]:
    """Returns pixels without the black and white lines around them, unless little would be left."""
    left = pixels
    # Twice: there may be black bars inside white ones, or the reverse.
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
    """Returns pixels with the white bars around them made black, and whether there were any.

    Networks see black bars in training. Images of which little would be left stay as they are.
    """
    low, high = pixels.min(), pixels.max()
    white, bright = (pixels >= high - share * (high - low) for share in (_TOLERANCE, _DROP))
    lines = [(white.mean(axis), bright.mean(axis)) for axis in (1, 0)]
    top, left = (_length_of_bar(*shares) for shares in lines)
    below, beside = (_length_of_bar(*(share[::-1] for share in shares)) for shares in lines)
    height, width = pixels.shape
    bottom, right = height - below, width - beside
    too_little = bottom - top < LEAST_LEFT * height or right - left < LEAST_LEFT * width
    if too_little or not any((top, left, below, beside)):
        return pixels, False
    blackened = np.zeros_like(pixels)
    blackened[top:bottom, left:right] = pixels[top:bottom, left:right]
    return blackened, True


def _length_of_bar(white: Float[np.ndarray, " n"], bright: Float[np.ndarray, " n"]) -> int:
    """Returns how many lines, from the first on, form a white bar.

    Args:
      white: share of each line that is white.
      bright: share of each line that is white or not much darker.
    """
    length = int(np.argmax(white < 1 - _REST))
    inner = min(length + max(round(_EDGE * len(white)), 1), len(white) - 1)
    return length if bright[inner] < 0.5 else 0


def _black_and_white(
    pixels: Float[np.ndarray, "h w"],
) -> tuple[Bool[np.ndarray, "h w"], Bool[np.ndarray, "h w"]]:
    low, high = pixels.min(), pixels.max()
    tolerance = _TOLERANCE * (high - low)
    return pixels <= low + tolerance, pixels >= high - tolerance


def _little_is_left(pixels: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> bool:
    height, width = pixels.shape
    return len(rows) < LEAST_LEFT * height or len(columns) < LEAST_LEFT * width
