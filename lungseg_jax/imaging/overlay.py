"""Images of a radiograph with the outlines of its masks."""

from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

# Red, green, blue.
Colour = tuple[int, int, int]

# The first is for the lungs or the right lung, the second for the left one; then they repeat.
REFERENCE_COLOURS = ((64, 220, 96), (64, 200, 255))
PREDICTION_COLOURS = ((255, 64, 200), (255, 160, 48))

# Long side of an overlay: outlines stay visible and files small however large the original.
MAX_SIDE = 1024


def draw_overlay(
    pixels: Float[np.ndarray, "h w"],
    predicted: Bool[np.ndarray, "h w c"],
    reference: Bool[np.ndarray, "h w c"] | None = None,
) -> UInt8[np.ndarray, "h2 w2 3"]:
    """Returns RGB pixels: the image, the prediction in magenta, the reference in green.

    The left lung, where it is distinguished, is orange and light blue instead.

    Args:
      pixels: in [0, 1].
      predicted: masks in the image's frame: of the lungs, or of the right and the left lung.
      reference: masks of the same classes, if there are any.
    """
    # The prediction lies on top: hidden under the reference it would look absent.
    layers = [] if reference is None else [(reference, REFERENCE_COLOURS)]
    layers.append((predicted, PREDICTION_COLOURS))
    outlines = [
        (masks[..., channel], colours[channel % len(colours)])
        for masks, colours in layers
        for channel in range(masks.shape[-1])
    ]
    return draw_outlines(pixels, outlines)


def draw_outlines(
    pixels: Float[np.ndarray, "h w"],
    masks: Sequence[tuple[Bool[np.ndarray, "h w"], Colour]],
) -> UInt8[np.ndarray, "h2 w2 3"]:
    """Returns RGB pixels: the image, and the outline of each mask in its colour.

    Args:
      pixels: in [0, 1].
      masks: in the image's frame; later ones lie over earlier ones.
    """
    height, width = pixels.shape
    scale = min(1.0, MAX_SIDE / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    grey = cv2.resize(pixels.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    canvas = cv2.cvtColor(np.rint(np.clip(grey, 0, 1) * 255).astype(np.uint8), cv2.COLOR_GRAY2RGB)
    thickness = max(1, max(size) // 400)
    for mask, colour in masks:
        # By area like the image: OpenCV's nearest neighbour shifts by up to half a pixel.
        share = cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_AREA)
        small = (share > 0.5).astype(np.uint8)
        outlines, _ = cv2.findContours(small, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(canvas, outlines, -1, colour, thickness)
    return np.asarray(canvas, np.uint8)
