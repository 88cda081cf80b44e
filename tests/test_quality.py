"""The estimate of Dice without a reference."""

import numpy as np
import pytest

from lungseg_jax.quality import estimate_dice, expected_dice, fit_line
from lungseg_jax.weights import Calibration


def test_expected_dice_by_hand():
    """Fault: a factor of two, or probability outside the mask left out."""
    probabilities = np.array([[1.0, 0.8, 0.4, 0.0]], np.float32)
    mask = probabilities > 0.5
    # 2 * 1.8 / (2.2 + 2)
    assert expected_dice(probabilities, mask) == pytest.approx(3.6 / 4.2)
    assert expected_dice(mask.astype(np.float32), mask) == 1
    assert expected_dice(probabilities, np.zeros_like(mask)) == 0


def test_it_is_the_expectation_where_probabilities_are_right():
    """Fault: another figure than the one it is named after."""
    rng = np.random.default_rng(0)
    probabilities = rng.beta(0.3, 0.3, (80, 80)).astype(np.float32)
    mask = probabilities > 0.5
    dice = []
    for _ in range(50):
        truth = rng.random(mask.shape) < probabilities
        dice.append(2 * (truth & mask).sum() / (truth.sum() + mask.sum()))
    assert expected_dice(probabilities, mask) == pytest.approx(float(np.mean(dice)), abs=0.005)


def test_the_line_is_not_turned_by_bad_masks():
    """Fault: two failures on validation data that make every estimate wrong."""
    expected = np.linspace(0.9, 1.0, 40)
    dice = 0.1 + 0.88 * expected
    dice[[3, 17]] = 0.2
    slope, intercept = fit_line(expected, dice)
    assert slope == pytest.approx(0.88, abs=0.02)
    assert estimate_dice(0.95, Calibration(0.5, slope, intercept)) == pytest.approx(0.936, abs=2e-3)


def test_a_line_that_falls_is_none():
    """Fault: of three validation pictures, the surest called the worst from then on."""
    slope, intercept = fit_line(np.array([0.9, 0.92, 0.94]), np.array([0.96, 0.95, 0.91]))
    assert (slope, intercept) == (0, 0.95)


def test_estimates_stay_in_range():
    """Fault: a Dice above 1 in the table."""
    assert estimate_dice(1.0, Calibration(0.5, 1.2, 0.1)) == 1
    assert estimate_dice(0.0, Calibration(0.5, 1.2, -0.5)) == 0
