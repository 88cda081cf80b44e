"""The PNG files that a segmentation is written to."""

from collections.abc import Collection

import numpy as np
from jaxtyping import Bool

from lungseg_jax.imaging import png
from lungseg_jax.imaging.overlay import draw_overlay, with_words
from lungseg_jax.imaging.radiograph import Radiograph
from lungseg_jax.prediction.results import Extra, extra_of, overlay_of
from lungseg_jax.prediction.segmentation import Segmentation


def encode_images(
    mask: str,
    radiograph: Radiograph,
    result: Segmentation,
    extras: Collection[Extra],
    *,
    calibrated: bool,
) -> dict[str, bytes]:
    """Returns the contents of a mask's PNG files, by their names.

    Args:
      mask: name of the mask's file.
      radiograph: the radiograph.
      result: what was found on it.
      extras: what is wanted besides mask and overlay.
      calibrated: whether the estimate of Dice means anything.
    """
    upright = radiograph.orientation.to_upright
    sides = np.moveaxis(np.stack([upright(result.right), upright(result.left)]), 0, -1)
    images = {
        mask: _encode_mask(result.mask),
        overlay_of(mask): png.encode_png(
            with_words(
                draw_overlay(radiograph.pixels, sides),
                _became_of(result, calibrated=calibrated),
                sides=True,
                reference=False,
            )
        ),
    }
    if "sides" in extras:
        lungs = map(_encode_mask, (result.right, result.left))
        images |= zip(extra_of(mask, "sides"), lungs, strict=True)
    if "probabilities" in extras:
        (name,) = extra_of(mask, "probabilities")
        images[name] = png.encode_png(np.rint(result.probabilities * 65535).astype(np.uint16))
    return images


def _became_of(result: Segmentation, *, calibrated: bool) -> str:
    """Says whether a mask was accepted, with which estimate, or why not; and what was noted."""
    said = f"accepted, estimated Dice {result.estimated_dice:.3f}" if calibrated else "accepted"
    if not result.accepted:
        said = f"rejected: {'; '.join(result.doubts)}"
    return "; ".join([said, *result.notes])


def _encode_mask(mask: Bool[np.ndarray, "h w"]) -> bytes:
    return png.encode_png(mask.astype(np.uint8) * 255, png.UNFILTERED)
