"""From probabilities in the picture's own frame to lungs: no stray islands, no holes."""

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int32

# A third part of the prediction is lung if it has this share of the largest one and lies above or
# below one of the first two: a lung that a device or a shadow cuts in two keeps both parts, and
# dark background beside the body is none.
MIN_SHARE = 0.2
MIN_OVERLAP = 0.5

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
    speck, and others that may be part of one of these. Small holes are filled.

    Args:
      probabilities: of lung, in [0, 1].
      threshold: above which a pixel is lung.
    """
    above = (probabilities > threshold).astype(np.uint8)
    count, labels, statistics, _ = cv2.connectedComponentsWithStats(above, connectivity=8)
    if count == 1:
        return above > 0
    areas = statistics[:, cv2.CC_STAT_AREA]
    first, *others = 1 + np.argsort(-areas[1:], kind="stable")
    kept = np.zeros(count, bool)
    kept[first] = True
    lungs = [statistics[first]]
    for rank, part in enumerate(others):
        share = areas[part] / areas[first]
        if rank == 0 and share >= MIN_SHARE_OF_SECOND:
            kept[part] = True
            lungs.append(statistics[part])
        elif share >= MIN_SHARE:
            kept[part] = any(_overlap(statistics[part], lung) >= MIN_OVERLAP for lung in lungs)
    return fill_holes(kept[np.asarray(labels, np.intp)])


def _overlap(part: Int32[np.ndarray, "5"], lung: Int32[np.ndarray, "5"]) -> float:
    """Returns the share of a part's columns that a lung has too, of OpenCV's statistics."""
    left, width = cv2.CC_STAT_LEFT, cv2.CC_STAT_WIDTH
    start = max(int(part[left]), int(lung[left]))
    end = min(int(part[left] + part[width]), int(lung[left] + lung[width]))
    return (end - start) / int(part[width])


def fill_holes(mask: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """Returns the mask with what it surrounds, as far as that is small."""
    # A frame of background joins what lies outside into one part.
    background = np.pad(~mask, 1, constant_values=True).astype(np.uint8)
    _, found, statistics, _ = cv2.connectedComponentsWithStats(background, connectivity=4)
    labels = np.asarray(found, np.intp)
    is_hole = statistics[:, cv2.CC_STAT_AREA] <= MAX_HOLE * np.count_nonzero(mask)
    is_hole[labels[0, 0]] = False
    return mask | is_hole[labels[1:-1, 1:-1]] & ~mask
