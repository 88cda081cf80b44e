"""From probabilities in the picture's own frame to lungs: no stray islands, no holes."""

import cv2
import numpy as np
from jaxtyping import Bool, Float

# A third and smaller part of the prediction is lung if it has this share of the largest one: a
# lung that a device or a shadow cuts in two keeps both parts.
MIN_SHARE = 0.2

# The smaller lung, beside an effusion or after a resection, may be far smaller than the other.
MIN_SHARE_OF_SECOND = 0.02

# Holes up to this share of the lungs are filled. The mediastinum, where lungs touch above and below
# it, is larger.
MAX_HOLE = 0.1


def keep_lungs(
    probabilities: Float[np.ndarray, "h w"], threshold: float
) -> Bool[np.ndarray, "h w"]:
    """Returns where the lungs are.

    Of the connected parts above the threshold the largest stays, the second one unless it is a
    speck, and others that are nearly as large as a lung. Small holes are
    filled.

    Args:
      probabilities: of lung, in [0, 1].
      threshold: above which a pixel is lung.
    """
    above = (probabilities > threshold).astype(np.uint8)
    count, labels, statistics, _ = cv2.connectedComponentsWithStats(above, connectivity=8)
    if count == 1:
        return above > 0
    areas = statistics[:, cv2.CC_STAT_AREA]
    largest_first = 1 + np.argsort(-areas[1:], kind="stable")
    kept = np.zeros(count, bool)
    for rank, part in enumerate(largest_first):
        share = areas[part] / areas[largest_first[0]]
        kept[part] = share >= (MIN_SHARE_OF_SECOND if rank == 1 else MIN_SHARE)
    return fill_holes(kept[np.asarray(labels, np.intp)])


def fill_holes(mask: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """Returns the mask with what it surrounds, as far as that is small."""
    # A frame of background joins what lies outside into one part.
    background = np.pad(~mask, 1, constant_values=True).astype(np.uint8)
    _, found, statistics, _ = cv2.connectedComponentsWithStats(background, connectivity=4)
    labels = np.asarray(found, np.intp)
    is_hole = statistics[:, cv2.CC_STAT_AREA] <= MAX_HOLE * np.count_nonzero(mask)
    is_hole[labels[0, 0]] = False
    return mask | is_hole[labels[1:-1, 1:-1]] & ~mask
