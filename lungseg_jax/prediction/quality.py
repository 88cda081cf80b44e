"""An estimate of how good a predicted mask is, without a reference."""

import math

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

from lungseg_jax.prediction.postprocessing import keep_lungs
from lungseg_jax.weights import Calibration

# As shares of the side: how far from the outline probabilities are considered, and the radius of
# the disc for which notches and spikes are too narrow.
OUTLINE_REACH = 5 / 256
NOTCH_RADIUS = 6 / 256

# Weight of notches and spikes, as a share of the lungs, against a width as a share of the side.
NOTCH_WEIGHT = 0.05


def estimate_dice(square: Float[np.ndarray, "s s"], calibration: Calibration) -> float:
    """Returns the estimate of a predicted mask's Dice, in [0, 1]; 0 without a mask.

    It follows from the doubt of the outline, but is never far above what the probabilities expect:
    a sharp outline may surround what the network is not sure of. Without a calibration it is what
    they expect. The mask is that of the model's square and of these probabilities; the file's is of
    smoothed ones, and of the mean where networks or both ways are averaged.

    Args:
      square: probability of lung in the model's square, in [0, 1].
      calibration: the network's calibration.
    """
    mask = keep_lungs(square, calibration.threshold)
    if not mask.any():
        return 0.0
    expected = expected_dice(square, mask)
    if calibration.slope is None:
        return expected
    by_outline = calibration.intercept + calibration.slope * outline_doubt(square, mask)
    return min(1.0, max(0.0, min(by_outline, expected + calibration.margin)))


def outline_doubt(square: Float[np.ndarray, "s s"], mask: Bool[np.ndarray, "s s"]) -> float:
    """Returns how doubtful the outline of a predicted mask is, from 0; infinite without a mask.

    It is the width, as a share of the side, of the zone along the outline in which lung and
    background are equally likely, a wider zone counting less where it is less undecided (the
    entropy of the probabilities in bits, summed across the outline), plus a share of what is
    notched.

    It is measured in the model's square, where a width means the same for images of any size. Both
    terms, their reach and the weight were chosen by how they rank validation images by Dice.

    Args:
      square: probability of lung in the model's square, in [0, 1].
      mask: what `keep_lungs` made of it.
    """
    if not mask.any():
        return math.inf
    image = mask.astype(np.uint8)
    disc = _disc(OUTLINE_REACH * len(mask))
    near = cv2.dilate(image, disc) > cv2.erode(image, disc)
    length = max(1.0, outline_length(mask))
    width = float(_entropy(square[near]).sum()) / length / len(mask)
    return width + NOTCH_WEIGHT * notched_share(mask)


def expected_dice(square: Float[np.ndarray, "s s"], mask: Bool[np.ndarray, "s s"]) -> float:
    """Returns the soft Dice of probabilities and mask: the expected Dice if those are right."""
    total = float(square.sum(dtype=np.float64)) + float(np.count_nonzero(mask))
    return 2 * float(square[mask].sum(dtype=np.float64)) / total if total else 0.0


def outline_length(mask: Bool[np.ndarray, "h w"]) -> float:
    """Returns the length in pixels of a mask's outline within the image, within 6 %.

    Computed by Crofton's formula from how often lines in four directions cross the outline, which,
    unlike a count of its pixels, depends little on the outline's direction.
    """
    along = [mask[:, 1:] != mask[:, :-1], mask[1:] != mask[:-1]]
    slanting = [mask[1:, 1:] != mask[:-1, :-1], mask[1:, :-1] != mask[:-1, 1:]]
    crossings = sum(map(np.count_nonzero, along)) + sum(map(np.count_nonzero, slanting)) / 2**0.5
    return math.pi / 8 * crossings


def notched_share(mask: Bool[np.ndarray, "s s"]) -> float:
    """Returns the share of a mask that a rolling disc adds in notches and removes from spikes."""
    image = mask.astype(np.uint8)
    disc = _disc(NOTCH_RADIUS * len(mask))
    changed = sum(
        np.count_nonzero(cv2.morphologyEx(image, kind, disc) != image)
        for kind in (cv2.MORPH_OPEN, cv2.MORPH_CLOSE)
    )
    return changed / np.count_nonzero(mask)


def fit_line(doubt: Float[np.ndarray, " n"], dice: Float[np.ndarray, " n"]) -> tuple[float, float]:
    """Returns (slope, intercept) of the line through held-out images' Dice over their doubt.

    Fitted by the median of pairwise slopes (Theil 1950, Sen 1968), which a few bad masks do not
    sway. Images without a mask do not count.
    """
    from scipy.stats import theilslopes

    found = np.isfinite(doubt)
    doubt, dice = doubt[found], dice[found]
    # Of equal doubts there is no slope.
    if len(dice) and np.ptp(doubt):
        slope, intercept, *_ = np.asarray(theilslopes(dice, doubt), np.float64)
        if slope < 0:
            return float(slope), float(intercept)
    # Too few images to tell.
    return 0.0, float(np.median(dice)) if len(dice) else 0.0


def _entropy(probabilities: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    p = np.clip(probabilities, 1e-6, 1 - 1e-6)
    return -(p * np.log2(p) + (1 - p) * np.log2(1 - p))


def _disc(radius: float) -> UInt8[np.ndarray, "k k"]:
    side = 2 * max(1, round(radius)) + 1
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)))
