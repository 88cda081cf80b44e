"""Bars beside the exposed field: the collimator's shadow, or detector that no ray has reached.

Shadow is black where bone is bright; so is what detectors and viewers pad with. Unexposed parts of
a plate whose image was never cropped are white.
"""

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float32, Integer

from lungseg_jax.imaging.geometry import Box

# Greys this close to the darkest or the brightest, as a share of the range, are black or white.
_TOLERANCE = 0.06

# Rays that scatter into the shadow brighten it by up to the first of these shares of the range, and
# unevenly, by less than the second.
_SHADOW, _SPREAD = 0.25, 0.08
_MOST_GREYS = (1, 99)

# A line belongs to a bar if all but this share of it is black, or white.
_REST = 0.1

# Height of text on a bar, as a share of the side.
_TEXT = 0.06

# What is left between bars is at least this share of each side.
LEAST_LEFT = 1 / 5

# Bars are wide if the longer side of what is between them is less than this share of the image's.
# Networks, which see bars in training, are as good with narrower ones: at this share, the packaged
# weights lose 0.0015 of Dice, at 0.6 0.012, at 0.5 0.04, at 0.4 0.4.
_WIDE = 0.75

# Side of the image in which wide bars are searched for.
_THUMBNAIL = 128

# A white bar ends sharply: this share of the side farther in, most of a line is darker by more than
# this share of the range. An abdomen that is white all over, at the lower border, ends gradually.
_EDGE = 0.02
_DROP = 0.15


def exposed_field(pixels: Float32[np.ndarray, "h w"]) -> Box:
    """Returns the exposed field of an image with wide bars, such as a child's on a large plate.

    Of other images, and of those with hardly any field, it is the whole image.
    """
    height, width = pixels.shape
    small = cv2.resize(pixels, (_THUMBNAIL, _THUMBNAIL), interpolation=cv2.INTER_AREA)
    inner = between_bars(small)
    # One more all around: the field's border may run through a pixel that counts as a bar's.
    (top, bottom), (left, right) = (
        (
            max(start - 1, 0) * side // _THUMBNAIL,
            -(-min(start + length + 1, _THUMBNAIL) * side // _THUMBNAIL),
        )
        for start, length, side in (
            (inner.top, inner.height, height),
            (inner.left, inner.width, width),
        )
    )
    field = Box(top, left, bottom - top, right - left)
    if max(field.height, field.width) < _WIDE * max(height, width):
        return field
    return Box(0, 0, height, width)


def between_bars(pixels: Float32[np.ndarray, "h w"]) -> Box:
    """Returns what the black and white lines around an image leave, unless that is little."""
    inner = Box(0, 0, *pixels.shape)
    # Twice: there may be black bars inside white ones, or the reverse.
    for _ in range(2):
        black, white = _black_and_white(inner.cut(pixels))
        rows, columns = (
            np.flatnonzero((_shares(black, axis) < 1 - _REST) & (_shares(white, axis) < 1 - _REST))
            for axis in (1, 0)
        )
        rows, columns = map(_without_thin_runs, (rows, columns), inner[2:])
        if _little_is_left(pixels, rows, columns):
            return inner
        found = Box(
            inner.top + int(rows[0]),
            inner.left + int(columns[0]),
            int(rows[-1] - rows[0]) + 1,
            int(columns[-1] - columns[0]) + 1,
        )
        if found == inner:
            break
        inner = found
    return inner


def blacken_white_bars(
    pixels: Float32[np.ndarray, "h w"],
) -> tuple[Float32[np.ndarray, "h w"], bool]:
    """Returns pixels with the white bars around them made black, and whether there were any.

    Networks see black bars in training. Images of which little would be left stay as they are.
    """
    low, high = pixels.min(), pixels.max()
    outermost = pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]
    levels = [high - share * (high - low) for share in (_TOLERANCE, _DROP)]
    # Most images end here: a bar begins at the border.
    if all((line >= levels[0]).mean() < 1 - _REST for line in outermost):
        return pixels, False
    white, bright = (pixels >= level for level in levels)
    lines = [(_shares(white, axis), _shares(bright, axis)) for axis in (1, 0)]
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


def _shares(marked: Bool[np.ndarray, "h w"], axis: int) -> Float[np.ndarray, " n"]:
    """Returns what `mean` returns, in half of its time."""
    return marked.sum(axis, dtype=np.uint32) / marked.shape[axis]


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
    dark = low + _TOLERANCE * (high - low)
    # A marker must not make a dark image's greys count as shadow.
    least, most = np.percentile(pixels, _MOST_GREYS)
    span = most - least
    edge = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    level = float(np.median(edge))
    if level <= least + _SHADOW * span:
        dark = max(dark, level + _SPREAD * span)
    return pixels <= dark, pixels >= high - _TOLERANCE * (high - low)


def _without_thin_runs(lines: Integer[np.ndarray, " n"], side: int) -> Integer[np.ndarray, " m"]:
    """Returns line numbers without runs that are as thin as text written on a bar."""
    runs = np.split(lines, np.flatnonzero(np.diff(lines) > 1) + 1)
    return np.concatenate([run for run in runs if len(run) > _TEXT * side] or [lines[:0]])


def _little_is_left(pixels: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> bool:
    height, width = pixels.shape
    return len(rows) < LEAST_LEFT * height or len(columns) < LEAST_LEFT * width
