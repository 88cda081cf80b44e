"""From probabilities to lungs: a smooth outline, no stray islands, no holes."""

import itertools

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
    above = probabilities > threshold
    count, found = cv2.connectedComponents(above.view(np.uint8), connectivity=8)
    if count == 1:
        return above
    labels = np.asarray(found)
    # OpenCV's own statistics take longer.
    areas = np.bincount(labels.ravel())
    first, *others = 1 + np.argsort(-areas[1:], kind="stable")
    kept = [first]
    if others and areas[others[0]] >= MIN_SHARE_OF_SECOND * areas[first]:
        kept.append(others.pop(0))
    large = [*itertools.takewhile(lambda part: areas[part] >= MIN_SHARE * areas[first], others)]
    if large:
        columns = _columns(labels)
        lungs = [columns[lung] for lung in kept]
        kept += [
            part
            for part in large
            if any(_overlap(columns[part], lung) >= MIN_OVERLAP for lung in lungs)
        ]
    # A comparison for each of the few parts is several times as fast as a look-up for each pixel.
    return fill_holes(np.logical_or.reduce([labels == part for part in kept]))


def _columns(labels: Int32[np.ndarray, "h w"]) -> dict[int, range]:
    """Returns the columns from each part's first to its last one."""
    # Here, because importing it takes a tenth of a second, and few masks have third parts.
    from scipy.ndimage import find_objects

    boxes = enumerate(find_objects(labels), start=1)
    return {part: range(columns.start, columns.stop) for part, (_, columns) in boxes}


def _overlap(part: range, lung: range) -> float:
    """Returns the share of a part's columns that a lung has too; negative if they are apart."""
    return (min(part.stop, lung.stop) - max(part.start, lung.start)) / len(part)


def fill_holes(mask: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """Returns the mask with its small holes filled."""
    _, hierarchy = cv2.findContours(mask.view(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    # Contours with a parent are holes. Most masks have none, and finding that is quick.
    if hierarchy is None or (hierarchy[..., 3] < 0).all():
        return mask
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
