"""Images of a radiograph with the outlines of its masks."""

from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image, ImageDraw, ImageFont

# Red, green, blue.
Colour = tuple[int, int, int]

# The first is for the lungs or the right lung, the second for the left one; then they repeat.
REFERENCE_COLOURS = ((64, 220, 96), (64, 200, 255))
PREDICTION_COLOURS = ((255, 64, 200), (255, 160, 48))

# Long side of an overlay: outlines stay visible and files small however large the original.
MAX_SIDE = 1024

# A prediction's outline is two pixels wider for each of these pixels of the long side, so that it
# is seen even where the overlay is shown small.
SIDE_PER_TWO_PIXELS = 500

# Narrower overlays have no room for words.
MIN_WIDTH_OF_WORDS = 340


def draw_overlay(
    pixels: Float[np.ndarray, "h w"],
    predicted: Bool[np.ndarray, "h w c"],
    reference: Bool[np.ndarray, "h w c"] | None = None,
) -> UInt8[np.ndarray, "h2 w2 3"]:
    """Returns RGB pixels: the image, the prediction in magenta, the reference in green.

    The left lung, where it is distinguished, is orange and light blue instead. References have the
    wider outlines, so that they are seen below predictions, and told from them without colours.

    Args:
      pixels: in [0, 1].
      predicted: masks in the image's frame: of the lungs, or of the right and the left lung.
      reference: masks of the same classes, if there are any.
    """
    canvas = _canvas(pixels)
    # The prediction lies on top: hidden under the reference it would look absent.
    for number, masks in enumerate([reference, predicted]):
        if masks is not None:
            colours = (REFERENCE_COLOURS, PREDICTION_COLOURS)[number]
            for channel in range(masks.shape[-1]):
                colour = colours[channel % len(colours)]
                _draw_outline(canvas, masks[..., channel], colour, wide=number == 0)
    return canvas


def draw_outlines(
    pixels: Float[np.ndarray, "h w"],
    masks: Sequence[tuple[Bool[np.ndarray, "h w"], Colour]],
) -> UInt8[np.ndarray, "h2 w2 3"]:
    """Returns RGB pixels: the image, and the outline of each mask in its colour.

    Args:
      pixels: in [0, 1].
      masks: in the image's frame; later ones lie over earlier ones.
    """
    canvas = _canvas(pixels)
    for mask, colour in masks:
        _draw_outline(canvas, mask, colour)
    return canvas


def _canvas(pixels: Float[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h2 w2 3"]:
    height, width = pixels.shape
    scale = min(1.0, MAX_SIDE / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    grey = cv2.resize(pixels.astype(np.float32, copy=False), size, interpolation=cv2.INTER_AREA)
    levels = np.rint(np.clip(grey, 0, 1) * 255).astype(np.uint8)
    return np.asarray(cv2.cvtColor(levels, cv2.COLOR_GRAY2RGB), np.uint8)


def _draw_outline(
    canvas: UInt8[np.ndarray, "h2 w2 3"],
    mask: Bool[np.ndarray, "h w"],
    colour: Colour,
    *,
    wide: bool = False,
) -> None:
    height, width, _ = canvas.shape
    # By area like the image: OpenCV's nearest neighbour shifts by up to half a pixel.
    share = cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
    small = (share > 0.5).astype(np.uint8)
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    inside = cv2.erode(small, cross, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    # The middle of an outline lies on the border pixels of its mask.
    half = max(height, width) // SIDE_PER_TWO_PIXELS
    diameter = 4 * half + 3 if wide else 2 * half + 1
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (diameter, diameter))
    canvas[cv2.dilate(small - inside, disc) > 0] = colour


def with_words(
    overlay: UInt8[np.ndarray, "h w 3"], said: str, *, sides: bool, reference: bool
) -> UInt8[np.ndarray, "h2 w 3"]:
    """Returns an overlay of `draw_overlay` above a strip with two lines of words.

    Args:
      overlay: RGB pixels.
      said: the second line, cut off where it is too long. The first one tells what has which
        colour.
      sides: whether the lungs are distinguished.
      reference: whether there is a reference.
    """
    width = overlay.shape[1]
    if width < MIN_WIDTH_OF_WORDS:
        return overlay
    size = min(width // 34, 28)
    line_height, margin = round(1.4 * size), size // 2
    image = Image.new("RGB", (width, 2 * line_height + margin))
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(size)
    left = float(margin)
    for word, colour in _key(sides=sides, reference=reference):
        draw.text((left, margin // 2), word, colour, font)
        left += draw.textlength(f"{word}  ", font)
    shown, room = said, width - 2 * margin
    while draw.textlength(shown, font) > room:
        said = said.rpartition(" ")[0] or said[:-1]
        shown = f"{said} ..."
    draw.text((margin, margin // 2 + line_height), shown, "white", font)
    return np.concatenate([overlay, np.asarray(image)])


def _key(*, sides: bool, reference: bool) -> list[tuple[str, Colour]]:
    """Returns the names of what is outlined, each with its colour."""
    if not reference:
        names = ("right lung", "left lung") if sides else ("lungs",)
        return list(zip(names, PREDICTION_COLOURS, strict=False))
    layers = {"reference": REFERENCE_COLOURS, "prediction": PREDICTION_COLOURS}
    if not sides:
        return [(layer, colours[0]) for layer, colours in layers.items()]
    return [
        (f"{layer} {side}", colour)
        for layer, colours in layers.items()
        for side, colour in zip(("right", "left"), colours, strict=True)
    ]
