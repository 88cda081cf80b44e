"""The estimate of Dice without a reference."""

import math

import cv2
import numpy as np
import pytest

from lungseg_jax.prediction.quality import (
    NOTCH_WEIGHT,
    estimate_dice,
    expected_dice,
    fit_line,
    notched_share,
    outline_doubt,
)
from lungseg_jax.weights import MARGIN, Calibration


def half_plane(side: int, ramp: float, degrees: float = 0.0) -> np.ndarray:
    """Probabilities that rise from 0 to 1 over so many pixels, across a line through the middle."""
    rows, columns = np.mgrid[:side, :side] + 0.5 - side / 2
    angle = np.deg2rad(degrees)
    return np.clip((columns * np.cos(angle) + rows * np.sin(angle)) / ramp + 0.5, 0, 1)


def doubt_of(square: np.ndarray) -> float:
    return outline_doubt(square, square > 0.5)


def test_doubt_is_the_width_of_what_is_undecided():
    """Fault: a factor, or a width that grows with the length of the outline.

    Over a ramp of w columns the entropy sums to w / (2 ln 2) bits: the mean over p of the entropy
    of p is 1 / (2 ln 2).
    """
    side, ramp = 256, 8.0
    expected = ramp / (2 * math.log(2)) / side
    once = half_plane(side, ramp)
    for degrees in (0, 10, 22.5, 45, 90):
        turned = doubt_of(half_plane(side, ramp, degrees))
        assert turned == pytest.approx(expected, rel=0.08), degrees
    twice = np.minimum(np.roll(once, -60, axis=1), np.roll(once, -60, axis=1)[:, ::-1])
    twice[:, -60:] = 0
    assert doubt_of(twice) == pytest.approx(expected, rel=0.08)


def test_doubt_does_not_depend_on_the_size_of_the_square():
    """Fault: widths in pixels, with which a network of larger squares always looks worse."""
    small, large = doubt_of(half_plane(256, 6.0)), doubt_of(half_plane(512, 12.0))
    assert small == pytest.approx(large, rel=0.05)


def test_a_sharp_smooth_outline_has_no_doubt_and_an_empty_mask_the_worst():
    """Fault: not a number, or the best figure, for the worst prediction."""
    disc = cv2.circle(np.zeros((256, 256)), (128, 128), 70, 1.0, -1)
    assert doubt_of(disc) < 1e-3
    nothing = np.zeros((64, 64))
    assert doubt_of(nothing) == math.inf
    assert estimate_dice(nothing, Calibration()) == 0
    assert estimate_dice(nothing, Calibration(slope=0.0, intercept=0.9)) == 0


def test_lungs_that_are_unsure_inside_are_doubtful_too():
    """Fault: a sharp step from .1 to .6 called a good mask, for nothing but its outline is seen."""
    calibration = Calibration(0.5, -12.0, 1.05)
    sure = cv2.circle(np.zeros((256, 256)), (128, 128), 70, 1.0, -1)
    assert estimate_dice(sure, calibration) == 1
    unsure = 0.1 + 0.5 * sure
    expected = expected_dice(unsure, unsure > 0.5)
    assert expected < 0.7
    assert estimate_dice(unsure, calibration) == pytest.approx(expected + MARGIN)


def test_without_a_calibration_it_is_what_the_probabilities_expect():
    """Fault: another network's line, by which good masks of small squares are rejected."""
    square = half_plane(64, 3.0)
    assert estimate_dice(square, Calibration()) == expected_dice(square, square > 0.5)


def test_the_mask_is_that_of_the_calibrated_threshold():
    """Fault: an estimate of 0, and a mask rejected, for lungs that are found below one half."""
    square = np.full((64, 64), 0.4)
    # All is lung: 2 * .4 / (.4 + 1).
    assert estimate_dice(square, Calibration(0.3)) == pytest.approx(0.8 / 1.4)
    assert estimate_dice(square, Calibration(0.5)) == 0


def test_expected_dice_by_hand():
    """Fault: a factor of two, or probability outside the mask left out."""
    square = np.array([[1.0, 0.8], [0.4, 0.0]])
    # 2 * 1.8 / (2.2 + 2)
    assert expected_dice(square, square > 0.5) == pytest.approx(3.6 / 4.2)
    assert expected_dice(square * 0, square > 2) == 0


def test_notches_and_spikes_are_those_a_disc_does_not_fit():
    """Fault: the lungs' own curves counted, or notches that are not or raise no doubt."""
    lung = cv2.ellipse(np.zeros((256, 256), np.uint8), (128, 128), (40, 90), 0, 0, 360, 1, -1) > 0
    assert notched_share(lung) < 0.005
    notched, spiked = lung.copy(), lung.copy()
    notched[120:126, 88:118] = False
    spiked[120:126, 168:198] = True
    for changed in (notched, spiked):
        share = np.count_nonzero(changed ^ lung) / np.count_nonzero(changed)
        assert notched_share(changed) == pytest.approx(share, rel=0.25)
        # An outline this sharp has no width.
        doubt = doubt_of(changed.astype(np.float64))
        assert doubt == pytest.approx(NOTCH_WEIGHT * notched_share(changed), rel=0.02)


def test_the_line_is_not_turned_by_bad_masks():
    """Fault: two failures on validation data that make every estimate wrong."""
    doubt = np.linspace(0.006, 0.02, 40)
    dice = 1.08 - 12 * doubt
    dice[[3, 17]] = 0.2
    doubt[17] = math.inf
    slope, intercept = fit_line(doubt, dice)
    assert slope == pytest.approx(-12, abs=0.3)
    assert intercept + slope * 0.01 == pytest.approx(0.96, abs=0.005)


def test_a_line_that_rises_is_not_used():
    """Fault: of three validation images, the most doubtful called the best from then on."""
    slope, intercept = fit_line(np.array([0.01, 0.012, 0.014]), np.array([0.91, 0.95, 0.96]))
    assert (slope, intercept) == (0, 0.95)


def test_equal_doubts_have_no_slope(recwarn):
    """Fault: a division by zero, and SciPy's warnings of it on the screen of an export."""
    assert fit_line(np.full(3, 0.1), np.array([0.5, 0.6, 0.8])) == (0, 0.6)
    assert fit_line(np.array([0.1]), np.array([0.5])) == (0, 0.5)
    assert not recwarn.list


def test_images_without_a_mask_do_not_count():
    """Fault: an estimate of 0 for all, for most validation images had no mask."""
    doubt, dice = np.array([math.inf, 0.01, math.inf]), np.array([0.0, 0.9, 0.0])
    assert fit_line(doubt, dice) == (0, 0.9)


def test_estimates_stay_in_range():
    """Fault: a Dice above 1 or below 0 in the table."""
    square = half_plane(64, 4.0)
    assert expected_dice(square, square > 0.5) + MARGIN > 1
    assert estimate_dice(square, Calibration(0.5, -12.0, 3.0)) == 1
    assert estimate_dice(square, Calibration(0.5, -1e4, 1.0)) == 0
