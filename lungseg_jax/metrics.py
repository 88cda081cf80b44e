"""Per-image figures of a predicted mask, and their summary over a split."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Bool, Float, Integer

from lungseg_jax.imaging.surface import SurfaceDistances, outline, surface_distances
from lungseg_jax.intervals import MIN_PATIENTS, mean_intervals

NAN = math.nan

Row = TypeVar("Row", bound="ImageMetrics")


@dataclasses.dataclass(frozen=True)
class ImageMetrics:
    """Metrics of one image in its original frame.

    All but those of each lung describe the lungs as a whole, so that they are comparable between
    models of one class and of two. NaN where a metric has no meaning: where prediction and
    reference are both empty (of this lung, for its Dice), and in mm where the spacing is unknown.

    Where one of the two is empty, each metric of masks has its worst value: 0, or the image's
    diagonal for distances, which have no upper bound. Leaving such images out would improve the
    means of the network that fails on them. Metrics Reloaded recommends this (Maier-Hein et al.
    2024, https://doi.org/10.1038/s41592-023-02151-z). The ASSD of two lungs never comes near the
    diagonal; it takes that value all the same, so that both distances penalise a failure alike.

    Attributes:
      id: the example's id.
      source: where the image was taken.
      patient: id of the patient's first image by name: no other identifier goes into a table.
      finding: the finding of the image, or of the patient.
      sex: `F`, `M` or empty.
      age_years: NaN where it is not known.
      dice: 2 |A ∩ B| / (|A| + |B|).
      iou: |A ∩ B| / |A ∪ B|.
      hd95_px: see `SurfaceDistances.hd95`; pixels.
      assd_px: see `SurfaceDistances.assd`; pixels.
      surface_dice: surface Dice at the tolerance in pixels.
      hd95_percent: as `hd95_px`, in percent of the image's longer side.
      assd_percent: as `assd_px`, likewise in percent.
      hd95_mm: as `hd95_px`, in mm.
      assd_mm: as `assd_px`, in mm.
      surface_dice_mm: surface Dice at the tolerance in mm.
      precision: |A ∩ B| / |A|: share of the prediction A that is lung.
      recall: |A ∩ B| / |B|: share of the reference B that is found.
      dice_right: Dice of the patient's right lung; NaN also where lungs are one class.
      dice_left: Dice of the left lung, likewise.
      cross_entropy: binary cross-entropy of the probability of lung, averaged over the pixels of
        the file's frame, in nats; unlike Dice it tells a confident network from an unsure one, and
        shows when one begins to overfit. NaN where only a mask is known.
      predicted_px: pixels of both lungs in the prediction, in the file's frame.
      reference_px: the same in the reference.
      height: rows of the file's frame, in pixels.
      width: its columns.
    """

    id: str
    source: str
    patient: str = dataclasses.field(default="", kw_only=True)
    finding: str = dataclasses.field(default="", kw_only=True)
    sex: str = dataclasses.field(default="", kw_only=True)
    age_years: float = dataclasses.field(default=NAN, kw_only=True)
    dice: float
    iou: float
    hd95_px: float
    assd_px: float
    surface_dice: float
    hd95_percent: float = NAN
    assd_percent: float = NAN
    hd95_mm: float = NAN
    assd_mm: float = NAN
    surface_dice_mm: float = NAN
    precision: float = NAN
    recall: float = NAN
    dice_right: float = NAN
    dice_left: float = NAN
    cross_entropy: float = NAN
    predicted_px: int = dataclasses.field(kw_only=True)
    reference_px: int = dataclasses.field(kw_only=True)
    height: int = dataclasses.field(kw_only=True)
    width: int = dataclasses.field(kw_only=True)


COUNTS = ("predicted_px", "reference_px", "height", "width")

# In the order of the channels.
SIDE_FIGURES = ("dice_right", "dice_left")

FIGURES = tuple(
    field.name
    for field in dataclasses.fields(ImageMetrics)
    if field.name not in ("id", "source", "patient", "finding", "sex", "age_years", *COUNTS)
)

DISTANCES = tuple(name for name in FIGURES if name.startswith(("hd95", "assd")))
LOWER_IS_BETTER = (*DISTANCES, "cross_entropy")


def decimals(name: str) -> int:
    """Returns how many decimals of a metric are shown to people."""
    # Percent of the side are of the order of one.
    return 2 if name in DISTANCES and not name.endswith("_percent") else 4


def measure_masks(
    predicted: Bool[np.ndarray, "h w c"],
    reference: Bool[np.ndarray, "h w c"],
    *,
    spacing_mm: tuple[float, float] | None,
    tolerance_px: float,
    tolerance_mm: float,
    probability: Float[np.ndarray, "h w c"] | None = None,
) -> dict[str, float | int]:
    """Returns the `FIGURES` and `COUNTS` of one image; what is not among them is not known.

    Args:
      predicted: masks in the original frame: of the lungs, or of the right and the left lung.
      reference: masks of the same shape.
      spacing_mm: (row, column) distance between pixel centres, if known.
      tolerance_px: tolerance of surface Dice, in pixels.
      tolerance_mm: tolerance of surface Dice, in mm.
      probability: probabilities that the masks of `predicted` were made from, in [0, 1], if known.
    """
    sides = {}
    if reference.shape[-1] > 1:
        for channel, name in enumerate(SIDE_FIGURES):
            sides[name] = _dice(predicted[..., channel], reference[..., channel])
    found, true = np.any(predicted, axis=-1), np.any(reference, axis=-1)
    dice = _dice(found, true)
    unsure = NAN if probability is None else cross_entropy(probability.max(axis=-1), true)
    counts = [int(np.count_nonzero(mask)) for mask in (found, true)]
    common = int(np.count_nonzero(found & true))
    # With one mask empty and the other not, the worst value, as for all metrics.
    precision, recall = (common / max(count, 1) if any(counts) else NAN for count in counts)
    (hd95_px, assd_px, surface_dice), (hd95_mm, assd_mm, surface_dice_mm) = _of_outlines(
        outline(found), outline(true), true.shape, spacing_mm, tolerance_px, tolerance_mm
    )
    percent = 100 / max(true.shape)
    return sides | {
        "dice": dice,
        "iou": dice / (2 - dice),
        "hd95_px": hd95_px,
        "assd_px": assd_px,
        "surface_dice": surface_dice,
        "hd95_percent": percent * hd95_px,
        "assd_percent": percent * assd_px,
        "hd95_mm": hd95_mm,
        "assd_mm": assd_mm,
        "surface_dice_mm": surface_dice_mm,
        "precision": precision,
        "recall": recall,
        "cross_entropy": unsure,
        "predicted_px": counts[0],
        "reference_px": counts[1],
        "height": true.shape[0],
        "width": true.shape[1],
    }


def cross_entropy(
    probability: Float[np.ndarray, "h w"], reference: Bool[np.ndarray, "h w"]
) -> float:
    """Returns the mean over pixels of −log of the probability assigned to the reference."""
    given = np.where(reference, probability, 1 - probability)
    # At most 15.9 nats: in float32 a sure network's probability is 1, whose complement has no log.
    return float(-np.log(np.maximum(given, np.finfo(np.float32).eps)).mean(dtype=np.float64))


def _dice(predicted: Bool[np.ndarray, "h w"], reference: Bool[np.ndarray, "h w"]) -> float:
    """Returns the Dice of two masks; NaN where both are empty."""
    return dice_of(predicted, reference) if predicted.any() or reference.any() else NAN


def _of_outlines(
    predicted: Integer[np.ndarray, "n 2"],
    reference: Integer[np.ndarray, "m 2"],
    shape: tuple[int, int],
    spacing_mm: tuple[float, float] | None,
    tolerance_px: float,
    tolerance_mm: float,
) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Returns HD95, ASSD and surface Dice in pixels and in mm; NaN where both are empty."""
    distances = surface_distances(predicted, reference)
    empty = not (len(predicted) or len(reference))
    in_px = _figures_of(distances, math.hypot(*shape), tolerance_px, empty)
    if spacing_mm is None:
        return in_px, (NAN, NAN, NAN)
    row, column = spacing_mm
    if distances and row == column:
        distances = distances.scaled(row)
    else:
        distances = surface_distances(predicted, reference, spacing_mm)
    diagonal = math.hypot(shape[0] * row, shape[1] * column)
    return in_px, _figures_of(distances, diagonal, tolerance_mm, empty)


def _figures_of(
    distances: SurfaceDistances | None, diagonal: float, tolerance: float, empty: bool
) -> tuple[float, float, float]:
    """Returns HD95, ASSD and surface Dice: NaN if both outlines are empty, the worst if one is."""
    if distances:
        return distances.hd95(), distances.assd(), distances.surface_dice(tolerance)
    return (NAN, NAN, NAN) if empty else (diagonal, diagonal, 0.0)


def dice_of(first: Bool[np.ndarray, "h w"], second: Bool[np.ndarray, "h w"]) -> float:
    """Returns the Dice of two masks, not both empty."""
    total = int(np.count_nonzero(first)) + int(np.count_nonzero(second))
    return 2 * int(np.count_nonzero(first & second)) / total


def name_patients(rows: Sequence[Row]) -> list[Row]:
    """Returns the rows with each patient named by the first of their images' ids.

    Args:
      rows: rows with the patients' own identifiers; an image without one is its own patient.
    """
    first: dict[str, str] = {}
    for row in sorted(rows, key=lambda row: row.id):
        first.setdefault(row.patient or row.id, row.id)
    return [dataclasses.replace(row, patient=first[row.patient or row.id]) for row in rows]


def metric_intervals(
    names: Sequence[str], values: Float[np.ndarray, "n f"], patients: Sequence[str]
) -> Float[np.ndarray, "f 2"]:
    """Returns the 95 % interval of each metric's mean, within the metric's own range.

    See `mean_intervals`, which would reach beyond it where one image is far from the others.

    Args:
      names: the metrics of the columns, of `FIGURES`.
      values: one row per image; NaN where a metric has no meaning.
      patients: the patient of each image.
    """
    highest = [math.inf if name in LOWER_IS_BETTER else 1.0 for name in names]
    return np.clip(mean_intervals(values, patients), 0.0, np.array(highest)[:, None])


def spread(rows: Sequence[ImageMetrics]) -> dict[str, dict[str, Any]]:
    """Returns the spread of each metric that at least one image has.

    `interval` is the 95 % interval of the mean (see `metric_intervals`; `None` for few patients),
    `worst_twentieth` the fifth percentile, or the 95th where lower is better.
    """
    values = np.array([[getattr(row, name) for name in FIGURES] for row in rows], np.float64)
    values = values.reshape(len(rows), len(FIGURES))
    intervals = metric_intervals(FIGURES, values, [row.patient or row.id for row in rows])
    found = {}
    for name, column, interval in zip(FIGURES, values.T, intervals, strict=True):
        column = column[~np.isnan(column)]
        worst = 95 if name in LOWER_IS_BETTER else 5
        if len(column):
            found[name] = {
                "interval": None if np.isnan(interval).any() else interval.tolist(),
                "standard_deviation": float(column.std(ddof=1)) if len(column) > 1 else None,
                "median": float(np.median(column)),
                "worst_twentieth": float(np.percentile(column, worst)),
            }
    return found


def area_agreement(rows: Sequence[ImageMetrics]) -> dict[str, Any] | None:
    """Returns how much lung areas differ from the references', in percent of these.

    `bias` is the mean difference, `limits` lie 1.96 standard deviations beside it: within these
    95 % of images are expected (limits of agreement, Bland and Altman 1986,
    https://doi.org/10.1016/S0140-6736(86)90837-8), and `num_examples` is how many have lung in the
    reference, the only ones that count. `None` for fewer than `MIN_PATIENTS` patients with lungs.
    """
    with_lungs = [row for row in rows if row.reference_px]
    if len({row.patient or row.id for row in with_lungs}) < MIN_PATIENTS:
        return None
    pairs = [(row.predicted_px, row.reference_px) for row in with_lungs]
    predicted, reference = np.array(pairs, np.float64).T
    percent = 100 * (predicted / reference - 1)
    bias, half = float(percent.mean()), 1.96 * float(percent.std(ddof=1))
    return {
        "bias": bias,
        "limits": [bias - half, bias + half],
        "num_examples": len(with_lungs),
    }


def dice_of_classes(figures: Mapping[str, Any]) -> float:
    """Returns the mean Dice of the right and the left lung or, where lungs are one class, theirs.

    That of both lungs together does not tell whether they are exchanged. NaN where there is none.

    Args:
      figures: figures of an image, or their means.
    """
    sides = [figures.get(name, NAN) for name in SIDE_FIGURES]
    known = [value for value in sides if not math.isnan(value)]
    return float(np.mean(known)) if known else float(figures.get("dice", NAN))


def summarize(rows: Sequence[ImageMetrics]) -> dict[str, float | int | None]:
    """Returns the mean of each metric over the images where it has a meaning, and counts.

    `num_without_lung` counts images with an empty reference, `num_false_lungs` those of them with
    lung in the prediction, `num_empty_predictions` images with lung in the reference only,
    `num_with_mm` those whose distances are known in mm. `longer_side_px` is that of all files;
    `None` if it differs, so that means in pixels depend on the mixture. A metric that no image has
    is left out.
    """
    summary: dict[str, float | int | None] = {}
    sides = {max(row.height, row.width) for row in rows}
    for name in FIGURES:
        values = np.array([getattr(row, name) for row in rows], np.float64)
        if not np.isnan(values).all():
            summary[name] = float(np.nanmean(values))
    return summary | {
        "num_examples": len(rows),
        "num_patients": len({row.patient or row.id for row in rows}),
        "longer_side_px": sides.pop() if len(sides) == 1 else None,
        "num_with_mm": sum(not math.isnan(row.hd95_mm) for row in rows),
        "num_without_lung": sum(row.reference_px == 0 for row in rows),
        "num_empty_predictions": sum(row.predicted_px == 0 < row.reference_px for row in rows),
        "num_false_lungs": sum(row.reference_px == 0 < row.predicted_px for row in rows),
    }
