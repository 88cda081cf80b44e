"""From probabilities to lungs: a smooth outline, no stray islands, no holes."""

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int32

# Standard deviation of the blur, in pixels of the model's square. Networks that see blocks of 2 x 2
# pixels draw outlines in steps of two; the blur changes Dice of validation images by no more
# than .0002.
OUTLINE_BLUR = 1.0

# A third part of the prediction is lung if it has this share of the largest one's area and lies
# above or below one of the first two: a lung that a device or a shadow cuts in two keeps both
# parts, and dark background beside the body is not lung.
MIN_SHARE = 0.2
MIN_OVERLAP = 0.5

# The smaller lung, beside an effusion or after a resection, may be far smaller than the other.
MIN_SHARE_OF_SECOND = 0.02

# Holes up to this share of the lungs are filled. The mediastinum, where lungs touch above and below
# it, is larger.
MAX_HOLE = 0.1


def smooth(square: Float[np.ndarray, "s s c"]) -> Float[np.ndarray, "s s c"]:
    """Returns probabilities in the model's square whose outlines have no steps."""
    # OpenCV drops the axis of a single channel.
    return np.asarray(cv2.GaussianBlur(square, (0, 0), OUTLINE_BLUR)).reshape(square.shape)


def keep_lungs(
    probabilities: Float[np.ndarray, "h w"], threshold: float
) -> Bool[np.ndarray, "h w"]:
    """Returns where the lungs are.

    Of the connected parts above the threshold, the largest is kept, so is the second unless it is
    a speck, and so are others that may be part of one of these. Small holes are filled.

    Args:
      probabilities: probability of lung, in [0, 1].
      threshold: probability above which a pixel is lung.
    """
    above = (probabilities > threshold).astype(np.uint8)
    count, labels, statistics, _ = cv2.connectedComponentsWithStats(above, connectivity=8)
    if count == 1:
        return above > 0
    areas = statistics[:, cv2.CC_STAT_AREA]
    first, *others = 1 + np.argsort(-areas[1:], kind="stable")
    kept = [first]
    if others and areas[others[0]] >= MIN_SHARE_OF_SECOND * areas[first]:
        kept.append(others.pop(0))
    lungs = [statistics[part] for part in kept]
    for part in others:
        if areas[part] < MIN_SHARE * areas[first]:
            break
        if any(_overlap(statistics[part], lung) >= MIN_OVERLAP for lung in lungs):
            kept.append(part)
    # A comparison for each of the few parts is several times as fast as a look-up for each pixel.
    return fill_holes(np.logical_or.reduce([np.asarray(labels) == part for part in kept]))


def _overlap(part: Int32[np.ndarray, "5"], lung: Int32[np.ndarray, "5"]) -> float:
    """Returns the share of a part's columns that a lung has too, from OpenCV's statistics."""
    left, width = cv2.CC_STAT_LEFT, cv2.CC_STAT_WIDTH
    start = max(int(part[left]), int(lung[left]))
    end = min(int(part[left] + part[width]), int(lung[left] + lung[width]))
    return (end - start) / int(part[width])


def fill_holes(mask: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """Returns the mask with its small holes filled."""
    # A frame of background joins everything outside into one part.
    background = np.pad(~mask, 1, constant_values=True).astype(np.uint8)
    _, found, statistics, _ = cv2.connectedComponentsWithStats(background, connectivity=4)
    labels = np.asarray(found)
    is_hole = statistics[:, cv2.CC_STAT_AREA] <= MAX_HOLE * np.count_nonzero(mask)
    # The mask itself, and what lies outside.
    is_hole[[0, labels[0, 0]]] = False
    if not is_hole.any():
        return mask
    return mask | is_hole[np.asarray(labels[1:-1, 1:-1], np.intp)]
