"""Per-image figures and their summary, derived by hand."""

import math
from dataclasses import replace

import numpy as np
import pytest

from lungseg_jax.intervals import mean_intervals
from lungseg_jax.metrics import (
    FIGURES,
    ImageMetrics,
    area_agreement,
    measure_masks,
    metric_intervals,
    name_patients,
    spread,
    summarize,
)


def measure(predicted, reference, spacing_mm=None, probability=None) -> ImageMetrics:
    """Figures of masks of one class, or of two, whose channels come last."""
    if reference.ndim == 2:
        predicted, reference = predicted[..., None], reference[..., None]
    figures = measure_masks(
        predicted, reference, spacing_mm=spacing_mm, tolerance_px=2.0, tolerance_mm=3.0,
        probability=probability,
    )  # fmt: skip
    return ImageMetrics("a", "s", **figures)


def rectangle(top: int, left: int = 10) -> np.ndarray:
    mask = np.zeros((64, 64), bool)
    mask[top : top + 20, left : left + 30] = True
    return mask


def test_shifted_rectangle():
    """Fault: any of the figures computed from another definition than stated."""
    row = measure(rectangle(15), rectangle(10), spacing_mm=(0.8, 1.5))
    assert row.dice == pytest.approx(15 / 20)
    assert row.iou == pytest.approx(15 / 25)
    # Of 600 pixels each, a quarter of the prediction is beside the reference, and the reverse.
    assert (row.precision, row.recall) == pytest.approx((0.75, 0.75))
    # Top and bottom edges (30 pixels of 96 each) lie 5 rows apart, less where a side edge is near.
    assert row.hd95_px == pytest.approx(5)
    assert row.hd95_mm == pytest.approx(4)


def test_cross_entropy_is_of_the_probability_of_either_lung():
    """Fault: another base or reduction, one side's channel alone, or infinity where it is sure."""
    right, left = np.zeros((2, 8, 8), bool)
    right[:, :2], left[:, 4:6] = True, True
    reference = np.stack([right, left], axis=-1)
    probability = np.where(reference, np.float32(0.8), np.float32(0.1))
    row = measure(probability > 0.5, reference, probability=probability)
    # Half of the pixels are lung.
    assert row.cross_entropy == pytest.approx(-(math.log(0.8) + math.log(0.9)) / 2)
    opposite = (~reference[..., :1]).astype(np.float32)
    wrong = measure(opposite > 0.5, reference[..., :1], probability=opposite)
    assert 10 < wrong.cross_entropy < 17
    assert math.isnan(measure(*np.stack([reference, reference])).cross_entropy)


def test_each_distance_is_of_its_own_definition_and_unit():
    """Fault: HD95 written as ASSD, pixels as millimetres, one tolerance taken for the other."""
    reference, predicted = np.zeros((2, 64, 64), bool)
    # Lines are all outline: 30 points stay, 10 move by one row, 10 by four.
    for line, (row, shift, length) in enumerate(((10, 0, 30), (25, 1, 10), (40, 4, 10))):
        reference[row, 5 : 5 + length] = predicted[row + shift, 5 : 5 + length] = True
        assert reference.sum() == (30, 40, 50)[line]
    row = measure(predicted, reference, spacing_mm=(0.7, 1.5))
    assert row.hd95_px == pytest.approx(4)
    assert row.assd_px == pytest.approx((10 * 1 + 10 * 4) / 50)
    # Within two pixels; three millimetres are more than four of these.
    assert row.surface_dice == pytest.approx(40 / 50)
    assert row.hd95_mm == pytest.approx(4 * 0.7)
    assert row.assd_mm == pytest.approx(0.7)
    assert row.surface_dice_mm == pytest.approx(1)


def test_too_much_and_too_little_are_told_apart():
    """Fault: precision and recall exchanged, or both of the union."""
    half = rectangle(10)
    half[:, 25:] = False
    row = measure(half, rectangle(10))
    assert (row.precision, row.recall) == (1, 0.5)
    row = measure(rectangle(10), half)
    assert (row.precision, row.recall) == (0.5, 1)


@pytest.mark.parametrize("side", [0.1, 0.175, 3.0])
def test_equal_sides_of_pixels_scale_every_distance(side):
    """Fault: a shortcut for pixels that are square which is not the plain way's result."""
    shifted = rectangle(13, left=12)
    row = measure(shifted, rectangle(10), spacing_mm=(side, side))
    plain = measure(shifted, rectangle(10), spacing_mm=(side, side * (1 + 1e-12)))
    for name in ("hd95_mm", "assd_mm", "surface_dice_mm"):
        assert getattr(row, name) == pytest.approx(getattr(plain, name), rel=1e-9)
    assert row.hd95_mm == pytest.approx(side * row.hd95_px)


def test_identical_masks_are_perfect():
    """Fault: a smoothing term left in the ratio."""
    row = measure(rectangle(5), rectangle(5), spacing_mm=(1.0, 1.0))
    assert (row.dice, row.iou, row.surface_dice, row.surface_dice_mm) == (1, 1, 1, 1)
    assert (row.hd95_px, row.assd_px, row.hd95_mm, row.assd_mm) == (0, 0, 0, 0)


def test_spacing_is_row_then_column():
    """Fault: spacing applied to the wrong axis."""
    row = measure(rectangle(10, left=14), rectangle(10, left=10), spacing_mm=(10.0, 0.5))
    assert row.hd95_px == pytest.approx(4)
    assert row.hd95_mm == pytest.approx(2)


EMPTY = np.zeros((64, 64), bool)


def test_two_empty_masks_have_no_figures():
    """Fault: an image without lung counted as a perfect mask or a total miss."""
    row = measure(EMPTY, EMPTY, spacing_mm=(1.0, 1.0))
    assert all(math.isnan(getattr(row, name)) for name in FIGURES)
    assert (row.predicted_px, row.reference_px) == (0, 0)


@pytest.mark.parametrize(("predicted", "reference"), [(EMPTY, rectangle(5)), (rectangle(5), EMPTY)])
def test_one_empty_mask_has_the_worst_of_every_figure(predicted, reference):
    """Fault: a total failure left out of a mean, which it then improves; mm taken for pixels."""
    # Another height than width, in pixels and in mm: 30, 40; 6.0, 4.8.
    row = measure(predicted[:30, :40], reference[:30, :40], spacing_mm=(0.2, 0.12))
    assert (row.dice, row.iou, row.surface_dice, row.surface_dice_mm) == (0, 0, 0, 0)
    assert (row.precision, row.recall) == (0, 0)
    assert row.hd95_px == row.assd_px == pytest.approx(50)
    assert row.hd95_mm == row.assd_mm == pytest.approx(math.hypot(6.0, 4.8))
    assert math.isnan(measure(predicted, reference).hd95_mm)


def test_counts_are_of_the_pixels_of_both_lungs():
    """Fault: a pixel of both lungs counted twice, one lung counted alone, or a float."""
    reference = np.stack([rectangle(10), rectangle(20)], axis=-1)
    row = measure(np.stack([rectangle(40), EMPTY], axis=-1), reference)
    assert (row.predicted_px, row.reference_px) == (20 * 30, 30 * 30)
    assert (type(row.predicted_px), type(row.reference_px)) == (int, int)


def test_exchanged_sides_are_seen_in_the_sides_alone():
    """Fault: a swap of right and left that no figure shows, or figures that do not compare."""
    right, left = np.zeros((2, 64, 64), bool)
    right[10:40, 5:25], left[10:40, 35:60] = True, True
    reference = np.stack([right, left], axis=-1)
    swapped = measure(reference[..., ::-1], reference, spacing_mm=(1.0, 1.0))
    assert (swapped.dice, swapped.iou, swapped.hd95_mm, swapped.surface_dice) == (1, 1, 0, 1)
    assert (swapped.dice_right, swapped.dice_left) == (0, 0)
    shifted = reference.copy()
    shifted[..., 1] = np.roll(left, 15, axis=0)
    row = measure(shifted, reference)
    assert (row.dice_right, row.dice_left) == pytest.approx((1, 0.5))
    union = measure(shifted.any(-1), reference.any(-1))
    assert (row.dice, row.hd95_px, row.assd_px) == (union.dice, union.hd95_px, union.assd_px)
    assert math.isnan(union.dice_right)


def test_a_lung_that_is_not_there_is_missed_only_where_it_is_invented():
    """Fault: a patient with one lung counted as a miss of the other, or its invention for free."""
    reference = np.stack([rectangle(10), EMPTY], axis=-1)
    row = measure(reference, reference)
    assert (row.dice, row.dice_right) == (1, 1)
    assert math.isnan(row.dice_left)
    invented = measure(np.stack([rectangle(10), rectangle(40)], axis=-1), reference)
    assert (invented.dice_right, invented.dice_left) == (1, 0)
    lost = measure(reference[..., ::-1], reference)
    assert (lost.dice_right, lost.dice_left) == (0, 0)


def test_unknown_spacing_has_no_figures_in_mm():
    """Fault: pixels reported as millimetres."""
    row = measure(rectangle(5), rectangle(6))
    assert math.isnan(row.hd95_mm)
    assert math.isnan(row.surface_dice_mm)


def test_summary_has_failures_in_its_means_and_counts():
    """Fault: NaN in a mean, a failure that improves it, or one kind counted as another."""
    rows = [
        measure(rectangle(5), rectangle(5)),
        measure(EMPTY, rectangle(5)),
        measure(EMPTY, rectangle(5)),
        measure(rectangle(5), EMPTY),
        *[measure(EMPTY, EMPTY)] * 3,
    ]
    summary = summarize(rows)
    assert summary["dice"] == pytest.approx(1 / 4)
    assert summary["hd95_px"] == pytest.approx(math.hypot(64, 64) * 3 / 4)
    assert "hd95_mm" not in summary
    assert summary["longer_side_px"] == 64
    counts = {name: count for name, count in summary.items() if name.startswith("num_")}
    assert counts == {
        "num_examples": 7, "num_patients": 1, "num_with_mm": 0,
        "num_without_lung": 4, "num_empty_predictions": 2, "num_false_lungs": 1,
    }  # fmt: skip


def test_distances_in_percent_are_those_of_the_image_at_any_size():
    """Fault: one number for another outline, because files are of other sizes."""
    small = measure(rectangle(5), rectangle(6))
    large = measure(*(np.kron(rectangle(x), np.ones((4, 4), bool)) for x in (5, 6)))
    assert small.hd95_px == 1
    assert large.hd95_px == 4
    assert small.hd95_percent == large.hd95_percent == pytest.approx(100 / 64)
    assert small.assd_percent == pytest.approx(small.assd_px * 100 / 64)


def test_the_longer_side_is_that_of_any_image():
    """Fault: distances that grow because an image is turned on its side."""
    masks = [np.zeros((96, 64), bool) for _ in range(2)]
    for mask, top in zip(masks, (5, 6), strict=True):
        mask[top : top + 20, 10:40] = True
    assert measure(*masks).hd95_percent == pytest.approx(100 / 96)
    assert measure(*(mask.T for mask in masks)).hd95_percent == pytest.approx(100 / 96)


def test_images_of_a_patient_widen_the_interval():
    """Fault: an interval by image, which ten equal images of each patient make a third of."""
    draws = np.random.default_rng(0).normal(0.9, 0.02, 20)
    row = measure(rectangle(5), rectangle(6))
    alone, together = (
        spread(
            [
                replace(row, id=f"{i}-{j}", patient=f"{i}", dice=float(dice))
                for i, dice in enumerate(draws)
                for j in range(images)
            ]
        )["dice"]["interval"]
        for images in (1, 10)
    )
    assert together == pytest.approx(alone, abs=1e-9)


def test_patients_are_named_by_their_first_image():
    """Fault: a hash, or a hospital's number, in a table that is passed on; patients mixed up."""
    row = measure(rectangle(5), rectangle(6))
    patients = {"a": "17", "b": "", "c": "23", "d": "17", "e": ""}
    rows = [replace(row, id=name, patient=patient) for name, patient in patients.items()]
    assert [row.patient for row in name_patients(rows)] == ["a", "b", "c", "a", "e"]
    # Fault: names by an order that differs from table to table.
    assert [row.patient for row in name_patients(rows[::-1])] == ["e", "a", "c", "b", "a"]
    assert summarize(rows)["num_patients"] == 4


def test_what_means_do_not_tell():
    """Fault: the good end of a distance called its worst; images without a figure counted."""
    rows = [
        replace(
            measure(rectangle(5), rectangle(6)),
            id=f"{number}",
            dice=number / 100,
            hd95_px=float(number) if number else math.nan,
        )
        for number in range(101)
    ]
    found = spread(rows)
    assert found["dice"]["median"] == pytest.approx(0.5)
    assert found["dice"]["worst_twentieth"] == pytest.approx(0.05)
    assert found["hd95_px"]["median"] == 50.5
    assert found["hd95_px"]["worst_twentieth"] == pytest.approx(95.05)
    assert found["dice"]["standard_deviation"] == pytest.approx(0.29300, abs=1e-5)
    low, high = found["dice"]["interval"]
    assert (low, high) == pytest.approx((0.5 - 1.96 * 0.0292, 0.5 + 1.96 * 0.0292), abs=2e-3)
    assert "hd95_mm" not in found
    assert spread(rows[:9])["dice"]["interval"] is None


def test_an_interval_keeps_to_the_range_of_its_metric():
    """Fault: a Dice above 1 or a negative distance, from one failure among good images."""
    dice = np.full(12, 0.99)
    dice[0] = 0.2
    values = np.stack([dice, 1000 * (1 - dice)], axis=1)
    patients = [f"{i}" for i in range(12)]
    assert mean_intervals(values, patients)[0, 1] > 1, "else there is nothing to keep"
    (low, high), (nearest, farthest) = metric_intervals(["dice", "hd95_px"], values, patients)
    assert (high, nearest) == (1.0, 0.0)
    assert low == pytest.approx(mean_intervals(values, patients)[0, 0])
    assert farthest > 100, "distances have no upper bound"


def test_areas_agree_within_limits_that_are_those_of_their_differences():
    """Fault: errors that cancel called agreement; percent of the prediction; an empty reference."""
    row = measure(rectangle(5), rectangle(6))
    areas = (*[(90, 100), (240, 200)] * 5, (5, 0))
    rows = [
        replace(row, id=f"{i}", predicted_px=p, reference_px=r) for i, (p, r) in enumerate(areas)
    ]
    # -10 and 20 %, five times each: mean 5, standard deviation 15 √(10 / 9).
    half = 1.96 * 15 * math.sqrt(10 / 9)
    found = area_agreement(rows)
    assert found is not None
    assert found["bias"] == pytest.approx(5)
    assert found["limits"] == pytest.approx([5 - half, 5 + half])
    assert area_agreement(rows[1:]) is None
