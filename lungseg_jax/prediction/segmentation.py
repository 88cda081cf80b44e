"""From one radiograph to its lungs: network, outline, sides, areas, estimated Dice, doubts."""

import dataclasses
import functools

import numpy as np
from jaxtyping import Bool, Float32, Shaped

from lungseg_jax.imaging.geometry import channels_from_square
from lungseg_jax.imaging.radiograph import Radiograph, SpacingSource
from lungseg_jax.imaging.sides import lies_left_of, split_lungs, way_round
from lungseg_jax.prediction import plausibility
from lungseg_jax.prediction.postprocessing import keep_lungs, smooth


# Compared by identity: of arrays, `==` is not one answer.
@dataclasses.dataclass(frozen=True, eq=False)
class Segmentation:
    """The lungs on one radiograph, in the frame of its file or array.

    Attributes:
      right: mask of the patient's right lung.
      left: mask of the left lung.
      probabilities: probability of lung, in [0, 1], smoothed but not processed further.
      estimated_dice: a guess at the mask's Dice against a radiologist's; for images of hospitals
        that the network does not know it may be too high.
      doubts: reasons not to take the mask for a pair of lungs; none if it is accepted.
      notes: what was corrected or is odd in the image.
      spacing_mm: (row, column) distance between pixel centres; `None` where it is not known.
      spacing_source: what the spacing was measured on.
    """

    right: Bool[np.ndarray, "h w"] = dataclasses.field(repr=False)
    left: Bool[np.ndarray, "h w"] = dataclasses.field(repr=False)
    probabilities: Float32[np.ndarray, "h w"] = dataclasses.field(repr=False)
    estimated_dice: float
    doubts: tuple[str, ...]
    notes: tuple[str, ...]
    spacing_mm: tuple[float, float] | None
    spacing_source: SpacingSource

    @property
    def mask(self) -> Bool[np.ndarray, "h w"]:
        """Both lungs."""
        return self.right | self.left

    @property
    def accepted(self) -> bool:
        """Whether nothing speaks against the mask."""
        return not self.doubts

    @functools.cached_property
    def area_px(self) -> tuple[int, int]:
        """Pixels of the right and of the left lung."""
        return int(np.count_nonzero(self.right)), int(np.count_nonzero(self.left))

    @property
    def area_cm2(self) -> tuple[float, float] | None:
        """Area of the right and of the left lung in cm²; `None` where the spacing is not known.

        Areas of the shadow on what the spacing was measured on; see `Radiograph.spacing_source`.
        """
        if self.spacing_mm is None:
            return None
        pixel = self.spacing_mm[0] * self.spacing_mm[1] / 100
        return self.area_px[0] * pixel, self.area_px[1] * pixel


def make_segmentation(
    radiograph: Radiograph,
    square: Float32[np.ndarray, "s s c"],
    threshold: float,
    estimated_dice: float,
    *,
    calibrated: bool = True,
) -> Segmentation:
    """Returns the segmentation that the network's probabilities give.

    Args:
      radiograph: an upright radiograph.
      square: probability of the lungs, or of the right and the left one, in the model's square.
      threshold: probability above which a pixel is lung.
      estimated_dice: the mask's estimated Dice; see `quality.estimate_dice`.
      calibrated: whether the estimate is calibrated, so that it may speak against the mask.
    """
    field = radiograph.field
    channels = channels_from_square(smooth(square), field)
    probabilities = channels.max(axis=-1)
    lungs = keep_lungs(probabilities, threshold)
    notes = radiograph.notes
    if channels.shape[-1] > 1:
        is_right = channels[..., 0] >= channels[..., 1]
        right, left = lungs & is_right, lungs & ~is_right
    else:
        # The viewer's left is the patient's right.
        right, left = split_lungs(lungs)
    way = way_round(field.cut(radiograph.pixels), right, left)
    stated = radiograph.orientation_stated
    if way == "mirrored":
        # Networks that tell sides have seen hardly any mirrored image, so theirs are not trusted.
        if lies_left_of(right, left) != stated:
            right, left = left, right
        by = "as in the header" if stated else "by the position of the heart"
        notes = (*notes, f"appears mirrored (right and left {by})")
    elif way == "unsure" and not stated:
        notes = (*notes, "may be mirrored (the heart hardly tells)")
    doubts = plausibility.doubts(
        right,
        left,
        estimated_dice if calibrated else None,
        looks_frontal=radiograph.looks_frontal,
    )

    def stored(seen: Shaped[np.ndarray, "h w"]) -> Shaped[np.ndarray, "u v"]:
        return radiograph.orientation.to_stored(field.paste(seen, *radiograph.pixels.shape))

    return Segmentation(
        right=stored(right),
        left=stored(left),
        probabilities=stored(probabilities),
        estimated_dice=estimated_dice,
        doubts=tuple(doubts),
        notes=(*notes, *plausibility.remarks(right, left)),
        spacing_mm=radiograph.stored_spacing_mm,
        spacing_source=radiograph.spacing_source,
    )
