"""Figures of the accuracy tables, from rows whose figures are known by hand."""

import dataclasses
import json

import numpy as np
import pytest

from benchmarks.accuracy import METRICS, by_source, judge_quality
from lungseg_jax.metrics import COUNTS, ImageMetrics


def row(
    name: str, source: str, dice: float, hd95_px: float, pixels: tuple[int, int] = (9, 8)
) -> ImageMetrics:
    figures = dict.fromkeys(METRICS, 1.0) | {"dice": dice, "hd95_px": hd95_px}
    counts = dict(zip(COUNTS, (*pixels, 9, 8), strict=True))
    return ImageMetrics(name, source, **figures, **counts)


def test_figures_by_source():
    """Fault: the worst of a distance taken at the wrong end; an empty mask hidden by means."""
    rows = [
        row("a", "one", 0.9, 2.0), row("b", "one", 0.7, 6.0),
        row("c", "two", 0.5, 9.0, (0, 8)), row("d", "two", 0.7, 4.0), row("e", "two", 0.7, 4.0),
        row("f", "two", 0.7, 5.0, (9, 0)), row("g", "two", 0.7, 5.0, (9, 0)),
    ]  # fmt: skip
    found = by_source(rows)
    assert list(found) == ["all", "one", "two"]
    assert found["all"]["dice"]["mean"] == pytest.approx(0.7)
    assert found["all"]["dice"]["worst"] == 0.5
    assert found["all"]["hd95_px"]["worst"] == 9.0
    assert found["all"]["hd95_px"]["mean"] == 5.0
    assert (found["all"]["empty_predictions"], found["all"]["false_lungs"]) == (1, 2)
    assert (found["one"]["empty_predictions"], found["one"]["false_lungs"]) == (0, 0)
    assert found["one"]["dice"]["worst_twentieth"] == pytest.approx(0.71)
    assert found["one"]["hd95_px"]["worst_twentieth"] == pytest.approx(5.8)
    assert found["one"]["dice"]["standard_deviation"] == pytest.approx(np.sqrt(0.02), abs=1e-4)


def test_images_without_figures_leave_no_nan():
    """Fault: a result file that no strict reader of JSON takes, or that is not written at all."""
    nothing = row("a", "one", np.nan, np.nan, (0, 0))
    nothing = dataclasses.replace(nothing, iou=np.nan, assd_px=np.nan, surface_dice=np.nan)
    found = by_source([nothing, nothing, row("b", "two", 0.5, 2.0)])
    json.dumps(found, allow_nan=False)
    assert found["one"] == {"images": 2, "empty_predictions": 0, "false_lungs": 0}
    assert found["all"]["dice"]["mean"] == found["two"]["dice"]["mean"] == 0.5
    assert found["two"]["dice"]["standard_deviation"] is None
    assert found["two"]["dice"]["mean_between"] is None


def test_bad_masks_found():
    """Fault: false alarms counted among all images, or high estimates taken for alarms."""
    dice = np.array([0.95] * 100 + [0.5, 0.6, 0.7])
    estimates = np.array([*np.linspace(0.8, 1.0, 100), 0.7, 0.805, 0.9])
    found = judge_quality(estimates, dice)
    # Five of a hundred good masks have an estimate below .81.
    assert found["bad_masks"] == 3
    assert found["bad_masks_found_at_5_percent_false_alarms"] == 2
    assert judge_quality(dice, dice)["rank_correlation"] == 1.0
    assert judge_quality(-dice, dice)["rank_correlation"] == -1.0
    assert judge_quality(dice - 0.1, dice)["mean_absolute_error"] == pytest.approx(0.1)


def test_quality_is_judged_by_images_that_have_a_dice():
    """Fault: NaN in place of a correlation and an error, because one image shows no lung."""
    estimates, dice = np.array([0.9, 0.3, 0.8, 0.7]), np.array([0.8, np.nan, 0.7, 0.6])
    found = judge_quality(estimates, dice)
    json.dumps(found, allow_nan=False)
    assert found["rank_correlation"] == 1.0
    assert found["mean_absolute_error"] == pytest.approx(0.1)
    assert found["points"] == [[0.9, 0.8], [0.8, 0.7], [0.7, 0.6]]
    # All of one estimate have no ranks.
    assert judge_quality(np.full(4, 0.5), dice)["rank_correlation"] is None
