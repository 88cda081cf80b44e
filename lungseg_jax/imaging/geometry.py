"""Fitting an image into the model's square, and the exact way back.

Pixel `i` covers the interval [i, i + 1): resizing maps interval ends onto interval ends, so that
centres stay aligned at every scale (half-pixel centres) and the way back has no shift.
"""

import dataclasses
from collections.abc import Iterable
from typing import NamedTuple, SupportsInt

import cv2
import numpy as np
from jaxtyping import Float, Float32, Num, Shaped


class Box(NamedTuple):
    """A part of an image.

    Attributes:
      top: its first row.
      left: its first column.
      height: rows that it has.
      width: columns that it has.
    """

    top: int
    left: int
    height: int
    width: int

    @classmethod
    def of(cls, numbers: Iterable[SupportsInt]) -> "Box":
        """Returns the box of four numbers of any type, such as those in a record."""
        return cls(*map(int, numbers))

    def cut(self, image: Shaped[np.ndarray, "h w *c"]) -> Shaped[np.ndarray, "h2 w2 *c"]:
        """Returns this part of the image, as a view."""
        return image[self.top : self.top + self.height, self.left : self.left + self.width]

    def paste(
        self, part: Shaped[np.ndarray, "h2 w2 *c"], height: int, width: int
    ) -> Shaped[np.ndarray, "h w *c"]:
        """Returns an image of this size with `part` in its place, and 0 around it."""
        if part.shape[:2] == (height, width):
            return part
        image = np.zeros((height, width, *part.shape[2:]), part.dtype)
        self.cut(image)[:] = part
        return image


@dataclasses.dataclass(frozen=True)
class Fit:
    """Where an image lies in the model's square: aspect kept, centred, padded.

    Attributes:
      original: (height, width) of the image.
      size: side of the square.
      top: first row of the image in the square.
      left: first column of the image in the square.
      height: rows that the image takes in the square.
      width: columns that it takes.
    """

    original: tuple[int, int]
    size: int
    top: int
    left: int
    height: int
    width: int


def fit_to_square(height: int, width: int, size: int) -> Fit:
    """Returns the placement of a `height` × `width` image in a square of `size` pixels."""
    scale = size / max(height, width)
    fitted_height = max(1, round(height * scale))
    fitted_width = max(1, round(width * scale))
    top, left = (size - fitted_height) // 2, (size - fitted_width) // 2
    return Fit((height, width), size, top, left, fitted_height, fitted_width)


def to_square(pixels: Num[np.ndarray, "h w"], fit: Fit) -> Float32[np.ndarray, "s s"]:
    """Returns the image in its place in the square; padding is 0.

    Shrinking averages the area that each new pixel covers, so that no pixel is skipped; for a mask
    the result is the covered share.
    """
    square = np.zeros((fit.size, fit.size), np.float32)
    square[fit.top : fit.top + fit.height, fit.left : fit.left + fit.width] = _resize(
        pixels.astype(np.float32, copy=False), fit.height, fit.width
    )
    return square


def from_square(square: Float[np.ndarray, "s s"], fit: Fit) -> Float32[np.ndarray, "h w"]:
    """Returns values of the square in the image's own frame; what lay in the padding is cut off."""
    inside = square[fit.top : fit.top + fit.height, fit.left : fit.left + fit.width]
    return _resize(inside.astype(np.float32), *fit.original)


def channels_from_square(
    square: Float[np.ndarray, "s s c"], field: Box
) -> Float32[np.ndarray, "h w c"]:
    """Returns the channels of the square in the frame of the part of an image that it shows."""
    fit = fit_to_square(field.height, field.width, square.shape[0])
    channels = [from_square(channel, fit) for channel in np.moveaxis(square, -1, 0)]
    # Each in one piece: large images are copied and reduced several times as fast.
    return np.moveaxis(np.stack(channels), 0, -1)


def _resize(
    pixels: Float32[np.ndarray, "h w"], height: int, width: int
) -> Float32[np.ndarray, "h2 w2"]:
    shrinking = height * width < pixels.size
    interpolation = cv2.INTER_AREA if shrinking else cv2.INTER_LINEAR
    return cv2.resize(pixels, (width, height), interpolation=interpolation)
