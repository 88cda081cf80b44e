"""Per-image figures of a predicted mask, and their summary over a split."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool

from lungseg_jax.imaging.surface import surface_distances

NAN = math.nan


@dataclasses.dataclass(frozen=True)
class ImageMetrics:
    """Figures of one image in its original frame.

    All but the last two are of the lungs as a whole, so that they compare between models of one
    class and of two. NaN where a figure has no meaning: all of them without lung in the reference,
    the distances where the prediction is empty, the figures in mm where the spacing is not known.

    Attributes:
      id: of the example.
      source: where the picture was taken.
      dice: 2 |A ∩ B| / (|A| + |B|).
      iou: |A ∩ B| / |A ∪ B|.
      hd95_px: see `SurfaceDistances.hd95`; pixels.
      assd_px: see `SurfaceDistances.assd`; pixels.
      surface_dice: at the tolerance in pixels.
      hd95_mm: as `hd95_px`, in mm.
      assd_mm: as `assd_px`, in mm.
      surface_dice_mm: at the tolerance in mm.
      dice_right: of the patient's right lung; NaN where lungs are one class or it is not there.
      dice_left: of the left one.
    """

    id: str
    source: str
    dice: float
    iou: float
    hd95_px: float
    assd_px: float
    surface_dice: float
    hd95_mm: float = NAN
    assd_mm: float = NAN
    surface_dice_mm: float = NAN
    dice_right: float = NAN
    dice_left: float = NAN


# In the order of the channels.
SIDE_FIGURES = ("dice_right", "dice_left")

FIGURES = tuple(
    field.name for field in dataclasses.fields(ImageMetrics) if field.name not in ("id", "source")
)


def image_metrics(
    predicted: Bool[np.ndarray, "h w c"],
    reference: Bool[np.ndarray, "h w c"],
    *,
    example_id: str,
    source: str,
    spacing_mm: tuple[float, float] | None,
    tolerance_px: float,
    tolerance_mm: float,
) -> ImageMetrics:
    """Returns the figures of one image.

    Args:
      predicted: masks in the original frame: of the lungs, or of the right and the left lung.
      reference: masks of the same shape.
      example_id: of the example.
      source: where the picture was taken.
      spacing_mm: (row, column) distance between pixel centres, if known.
      tolerance_px: of surface Dice, pixels.
      tolerance_mm: of surface Dice, mm.
    """
    if not reference.any():
        return ImageMetrics(example_id, source, NAN, NAN, NAN, NAN, NAN)
    overlap = {}
    if reference.shape[-1] > 1:
        for channel, name in enumerate(SIDE_FIGURES):
            overlap[name] = _overlap(predicted[..., channel], reference[..., channel])[0]
    found, true = np.any(predicted, axis=-1), np.any(reference, axis=-1)
    overlap["dice"], overlap["iou"] = _overlap(found, true)
    pixels = surface_distances(found, true)
    if pixels is None:
        missed = 0.0 if spacing_mm else NAN
        return ImageMetrics(
            example_id, source, **overlap, hd95_px=NAN, assd_px=NAN, surface_dice=0.0,
            surface_dice_mm=missed,
        )  # fmt: skip
    figures = {
        "hd95_px": pixels.hd95(),
        "assd_px": pixels.assd(),
        "surface_dice": pixels.surface_dice(tolerance_px),
    }
    millimetres = surface_distances(found, true, spacing_mm) if spacing_mm else None
    if millimetres:
        figures |= {
            "hd95_mm": millimetres.hd95(),
            "assd_mm": millimetres.assd(),
            "surface_dice_mm": millimetres.surface_dice(tolerance_mm),
        }
    return ImageMetrics(example_id, source, **overlap, **figures)


def _overlap(
    predicted: Bool[np.ndarray, "h w"], reference: Bool[np.ndarray, "h w"]
) -> tuple[float, float]:
    """Returns Dice and IoU; NaN where the reference is empty."""
    if not reference.any():
        return NAN, NAN
    dice = dice_of(predicted, reference)
    return dice, dice / (2 - dice)


def dice_of(first: Bool[np.ndarray, "h w"], second: Bool[np.ndarray, "h w"]) -> float:
    """Returns the Dice of two masks, not both empty."""
    total = int(np.count_nonzero(first)) + int(np.count_nonzero(second))
    return 2 * int(np.count_nonzero(first & second)) / total


def summarize(rows: Sequence[ImageMetrics]) -> dict[str, float | int]:
    """Returns the mean of each figure over the images where it has a meaning, and counts.

    `num_without_lung` counts images with an empty reference, `num_empty_predictions` those among
    the others whose prediction is empty: the means of the distances do not see either. A figure
    that no image has is left out.
    """
    summary: dict[str, float | int] = {}
    for name in FIGURES:
        values = np.array([getattr(row, name) for row in rows], np.float64)
        if not np.isnan(values).all():
            summary[name] = float(np.nanmean(values))
    without_lung = sum(math.isnan(row.dice) for row in rows)
    undefined = sum(math.isnan(row.hd95_px) for row in rows)
    return summary | {
        "num_examples": len(rows),
        "num_without_lung": without_lung,
        "num_empty_predictions": undefined - without_lung,
    }
