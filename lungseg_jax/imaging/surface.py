"""Distances between the outlines of two masks."""

import dataclasses

import cv2
import numpy as np
from jaxtyping import Bool, Float, Integer
from scipy.spatial import KDTree


@dataclasses.dataclass(frozen=True)
class SurfaceDistances:
    """Distances from every outline point of one mask to the other's nearest one, both ways.

    A mask's outline is its pixels with a 4-neighbour outside it; beyond the frame is outside.

    Attributes:
      forward: distances from the first mask's outline to the second's, in the spacing's unit.
      backward: distances from the second's to the first's.
    """

    forward: Float[np.ndarray, " n"]
    backward: Float[np.ndarray, " m"]

    def scaled(self, factor: float) -> "SurfaceDistances":
        """Returns the distances in another unit."""
        return SurfaceDistances(self.forward * factor, self.backward * factor)

    def hd95(self) -> float:
        """95th-percentile Hausdorff distance: the larger of the two directed percentiles."""
        return float(max(np.percentile(self.forward, 95), np.percentile(self.backward, 95)))

    def assd(self) -> float:
        """Average symmetric surface distance: the mean over the points of both outlines."""
        points = self.forward.size + self.backward.size
        return float((self.forward.sum() + self.backward.sum()) / points)

    def surface_dice(self, tolerance: float) -> float:
        """Share of both outlines' points within `tolerance` of the other outline.

        Surface Dice of Nikolov et al. 2018 (https://arxiv.org/abs/1809.04430), counted in outline
        pixels.
        """
        # By rounding, 20 pixels of 0.1 mm may come out as a little more than 2 mm.
        bound = tolerance * (1 + 1e-9)
        within = (self.forward <= bound).sum() + (self.backward <= bound).sum()
        return float(within / (self.forward.size + self.backward.size))


def surface_distances(
    first: Integer[np.ndarray, "n 2"],
    second: Integer[np.ndarray, "m 2"],
    spacing: tuple[float, float] = (1.0, 1.0),
) -> SurfaceDistances | None:
    """Returns the distances between two outlines; `None` if either has no point.

    Nearest points come from a k-d tree of the outlines: a few thousand points, however large the
    image, where a distance transform would visit each of its pixels.

    Args:
      first: (row, column) of each point.
      second: likewise.
      spacing: (row, column) distance between pixel centres; (1, 1) gives pixels.
    """
    if not len(first) or not len(second):
        return None
    points_first = first.astype(np.float64) * spacing
    points_second = second.astype(np.float64) * spacing
    forward, _ = KDTree(points_second).query(points_first)
    backward, _ = KDTree(points_first).query(points_second)
    return SurfaceDistances(forward, backward)


def outline(mask: Bool[np.ndarray, "h w"]) -> Integer[np.ndarray, "n 2"]:
    """Returns the (row, column) of each pixel that has a 4-neighbour outside the mask."""
    inside = mask.astype(np.uint8)
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    core = cv2.erode(inside, cross, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    return np.argwhere(inside != core)
