"""An estimate of how good a predicted mask is, without a reference."""

import numpy as np
from jaxtyping import Bool, Float

from lungseg_jax.weights import Calibration


def expected_dice(probabilities: Float[np.ndarray, "h w"], mask: Bool[np.ndarray, "h w"]) -> float:
    """Returns the soft Dice of probabilities and mask: the Dice to expect if they are right.

    0 for an empty mask. Network's probabilities are too sure of themselves, so that it takes a
    calibration to be an estimate of Dice; the order of pictures by it does not depend on that.

    Args:
      probabilities: of lung, in [0, 1].
      mask: what was made of them.
    """
    total = float(probabilities.sum(dtype=np.float64)) + float(np.count_nonzero(mask))
    if not mask.any():
        return 0.0
    return 2 * float(probabilities[mask].sum(dtype=np.float64)) / total


def estimate_dice(expected: float, calibration: Calibration) -> float:
    """Returns the estimate of Dice, in [0, 1], from `expected_dice`."""
    return min(1.0, max(0.0, calibration.intercept + calibration.slope * expected))


def fit_line(
    expected: Float[np.ndarray, " n"], dice: Float[np.ndarray, " n"]
) -> tuple[float, float]:
    """Returns (slope, intercept) of the line through held-out pictures' Dice over their estimate.

    By the medians of pairwise slopes (Theil 1950, Sen 1968), which a few bad masks do not turn.
    """
    from scipy.stats import theilslopes

    slope, intercept, *_ = np.asarray(theilslopes(dice, expected), np.float64)
    if slope > 0:
        return float(slope), float(intercept)
    # Too few pictures to tell: the estimate is the same for all.
    return 0.0, float(np.median(dice))
