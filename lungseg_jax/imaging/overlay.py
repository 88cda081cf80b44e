"""Pictures of a radiograph with the outlines of its masks."""

from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

Colour = tuple[int, int, int]

# The first for the lungs or the right lung, the second for the left one.
REFERENCE_COLOURS = ((64, 220, 96), (64, 200, 255))
PREDICTION_COLOURS = ((255, 64, 200), (255, 160, 48))

# Long side of an overlay: outlines stay visible and files small however large the original.
MAX_SIDE = 1024


def draw_overlay(
    pixels: Float[np.ndarray, "h w"],
    predicted: Bool[np.ndarray, "h w c"],
    reference: Bool[np.ndarray, "h w c"] | None = None,
) -> UInt8[np.ndarray, "h2 w2 3"]:
    """Returns RGB pixels: the picture, the prediction in magenta, the reference in green.

    The left lung, where it is told from the right one, is orange and light blue instead.

    Args:
      pixels: in [0, 1].
      predicted: masks in the picture's frame: of the lungs, or of the right and the left lung.
      reference: masks of the same classes, if there are any.
    """
    height, width = pixels.shape
    scale = min(1.0, MAX_SIDE / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    grey = cv2.resize(pixels.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    canvas = cv2.cvtColor(np.rint(np.clip(grey, 0, 1) * 255).astype(np.uint8), cv2.COLOR_GRAY2RGB)
    if reference is not None:
        _draw_outlines(canvas, reference, REFERENCE_COLOURS)
    _draw_outlines(canvas, predicted, PREDICTION_COLOURS)
    return np.asarray(canvas, np.uint8)


def _draw_outlines(
    canvas: np.ndarray, masks: Bool[np.ndarray, "h w c"], colours: Sequence[Colour]
) -> None:
    height, width, _ = canvas.shape
    thickness = max(1, max(height, width) // 400)
    for channel in range(masks.shape[-1]):
        share = masks[..., channel].astype(np.float32)
        # By area like the picture: OpenCV's nearest neighbour shifts by up to half a pixel.
        share = cv2.resize(share, (width, height), interpolation=cv2.INTER_AREA)
        small = (share > 0.5).astype(np.uint8)
        outlines, _ = cv2.findContours(small, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(canvas, outlines, -1, colours[channel], thickness)
