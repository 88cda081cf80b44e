"""The PNG files that a segmentation is written to."""

from collections.abc import Collection

import numpy as np
from jaxtyping import Bool, UInt8

from lungseg_jax.imaging import png
from lungseg_jax.imaging.overlay import draw_overlay, with_words
from lungseg_jax.imaging.radiograph import Radiograph
from lungseg_jax.prediction.results import Extra, extra_of, overlay_of
from lungseg_jax.prediction.segmentation import Segmentation


def encode_images(
    mask: str, radiograph: Radiograph, result: Segmentation, extras: Collection[Extra]
) -> dict[str, bytes]:
    """Returns the contents of a mask's PNG files, by their names."""
    upright = radiograph.orientation.to_upright
    sides = np.stack([upright(result.right), upright(result.left)], axis=-1)
    images = {
        mask: _encode_mask(result.mask),
        overlay_of(mask): png.encode_png(_overlay(radiograph, sides, result)),
    }
    if "sides" in extras:
        lungs = map(_encode_mask, (result.right, result.left))
        images |= zip(extra_of(mask, "sides"), lungs, strict=True)
    if "probabilities" in extras:
        (name,) = extra_of(mask, "probabilities")
        images[name] = png.encode_png(np.rint(result.probabilities * 65535).astype(np.uint16))
    return images


def _overlay(
    radiograph: Radiograph, sides: Bool[np.ndarray, "h w 2"], result: Segmentation
) -> UInt8[np.ndarray, "h2 w2 3"]:
    """Returns the outlines of both lungs on the upright image, above what became of it."""
    said = f"accepted, estimated Dice {result.estimated_dice:.3f}"
    if not result.accepted:
        said = f"rejected: {'; '.join(result.doubts)}"
    return with_words(draw_overlay(radiograph.pixels, sides), said, sides=True, reference=False)


def _encode_mask(mask: Bool[np.ndarray, "h w"]) -> bytes:
    return png.encode_png(mask.astype(np.uint8) * 255, png.UNFILTERED)
