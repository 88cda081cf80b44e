"""Which lung is the patient's right one, and whether an image is mirrored.

The patient's right lung lies at the viewer's left, unless the image is mirrored. That shows in
the heart, the aortic arch and the diaphragm: the difference between an image and its mirror image,
within the lungs' bounding box, is compared with that of images the right way round. This is a
linear regression without intercept, fitted by `benchmarks/side_template.py`. A patient whose heart
lies on the right looks mirrored, and so does one whose right lung is small: lungs of unequal size
say nothing.
"""

import functools
from importlib import resources
from typing import Literal

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float32

# Side of the square to which the lungs' box is shrunk.
_SIDE = 32

# Margin below the lungs, as a share of their height: dome of the liver and gas in the stomach.
_BELOW = 0.25

# Weight of the masks' outlines against the intensities.
_WEIGHT_OF_MASK = 3.0

# Scores are near 1 for images the right way round and near -1 for mirrored ones. Between this and
# its negative lie some of both. Of 562 images held out of the fit, none scores lower than the
# negative: the bound was chosen on these scores.
UNSURE_BELOW = 0.25

WayRound = Literal["usual", "unsure", "mirrored"]

# The smaller lung as a share of the larger one, below which no image is called mirrored.
_LEAST_SYMMETRY = 0.4

# A part of the prediction is cut into two lungs if its height between them is less than this share
# of the lower one's.
_WAIST = 0.5

_TEMPLATE = "side_template.npy"


def split_lungs(
    lungs: Bool[np.ndarray, "h w"],
) -> tuple[Bool[np.ndarray, "h w"], Bool[np.ndarray, "h w"]]:
    """Returns the lung at the viewer's left and the one at the viewer's right.

    Each part belongs to the side on which most of it lies; one with a waist between two lungs is
    cut there.

    Args:
      lungs: both lungs, in any number of parts.
    """
    left = np.zeros_like(lungs)
    if not lungs.any():
        return left, lungs
    middle = _middle_column(lungs)
    count, found = cv2.connectedComponents(lungs.astype(np.uint8), connectivity=8)
    labels = np.asarray(found)
    # Nothing beside a single part would show where the middle is.
    between = middle if count > 2 else lungs.shape[1] // 2
    for part in range(1, count):
        part_mask = labels == part
        heights = np.count_nonzero(part_mask, axis=0)
        lower = min(heights[:middle].max(initial=0), heights[middle:].max(initial=0))
        if heights[middle] < _WAIST * lower:
            part_mask[:, middle:] = False
        elif heights[:between].sum() < heights.sum() / 2:
            continue
        left |= part_mask
    return left, lungs & ~left


def way_round(
    pixels: Float[np.ndarray, "h w"],
    first: Bool[np.ndarray, "h w"],
    second: Bool[np.ndarray, "h w"],
) -> WayRound:
    """Returns whether an image is mirrored, as far as its heart shows.

    Most images are not: one that says nothing, for its lungs differ in size, is taken as usual; one
    that speaks against it, but too faintly, is unsure.

    Args:
      pixels: in [0, 1], bone bright, upright.
      first: one lung.
      second: the other.
    """
    if not sizes_tell(first, second):
        return "usual"
    score = orientation_score(pixels, first | second)
    if score < -UNSURE_BELOW:
        return "mirrored"
    return "unsure" if score < UNSURE_BELOW else "usual"


def sizes_tell(first: Bool[np.ndarray, "h w"], second: Bool[np.ndarray, "h w"]) -> bool:
    """Whether two lungs are close enough in size for their asymmetry to be that of the chest."""
    smaller, larger = sorted((np.count_nonzero(first), np.count_nonzero(second)))
    return bool(smaller >= max(1, _LEAST_SYMMETRY * larger))


def lies_left_of(first: Bool[np.ndarray, "h w"], second: Bool[np.ndarray, "h w"]) -> bool:
    """Whether one lung lies farther to the viewer's left than the other; neither is empty."""
    first_column, second_column = (np.flatnonzero(lung) % lung.shape[1] for lung in (first, second))
    return bool(first_column.mean() < second_column.mean())


def orientation_score(pixels: Float[np.ndarray, "h w"], lungs: Bool[np.ndarray, "h w"]) -> float:
    """Returns how much an image looks the right way round: near 1, or near -1 if it is mirrored.

    Args:
      pixels: in [0, 1], bone bright, upright.
      lungs: both lungs, not empty.
    """
    return float(asymmetry(pixels, lungs) @ _template())


def asymmetry(
    pixels: Float[np.ndarray, "h w"], lungs: Bool[np.ndarray, "h w"]
) -> Float32[np.ndarray, " n"]:
    """Returns the difference between an image and its mirror image; mirrored, it changes sign.

    Args:
      pixels: in [0, 1], bone bright, upright.
      lungs: both lungs, not empty.
    """
    rows, columns = (np.flatnonzero(lungs.any(axis)) for axis in (1, 0))
    bottom = rows[-1] + 1 + round(_BELOW * (rows[-1] + 1 - rows[0]))
    box = np.s_[rows[0] : bottom, columns[0] : columns[-1] + 1]
    grey, mask = (
        cv2.resize(values[box].astype(np.float32), (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
        for values in (pixels, lungs)
    )
    grey = (grey - grey.mean()) / (grey.std() + 1e-3)
    halves = [(whole - whole[:, ::-1])[:, : _SIDE // 2] for whole in (grey, _WEIGHT_OF_MASK * mask)]
    return np.concatenate([half.ravel() for half in halves])


def _middle_column(lungs: Bool[np.ndarray, "h w"]) -> int:
    """Returns the column between the lungs; where they lie on one side, the image's middle."""
    width = lungs.shape[1]
    columns = np.flatnonzero(lungs.any(0))
    if columns[-1] < width / 2 or columns[0] >= width / 2:
        return width // 2
    by_column = lungs.sum(axis=0)
    reach = max(1, width // 100)
    smooth = np.convolve(by_column, np.ones(2 * reach + 1), "same")
    below = np.cumsum(by_column) / by_column.sum()
    low, high = np.searchsorted(below, [0.3, 0.7])
    # Between separate lungs several columns are empty: their middle one.
    narrowest = low + np.flatnonzero(smooth[low : high + 1] == smooth[low : high + 1].min())
    return int(narrowest[len(narrowest) // 2])


@functools.cache
def _template() -> Float32[np.ndarray, " n"]:
    with (resources.files("lungseg_jax.imaging") / _TEMPLATE).open("rb") as file:
        return np.load(file, allow_pickle=False)
