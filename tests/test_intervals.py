"""Intervals and tests in which patients count, not images."""

import itertools

import numpy as np
import pytest

from lungseg_jax import intervals
from lungseg_jax.intervals import FLIPS, MIN_PATIENTS, mean_intervals, p_values


def drawn(seed: int, patients: int, images: int) -> tuple[np.ndarray, list[str]]:
    """Values of mean 0 of which half of the variance is the patient's, and whose they are."""
    random = np.random.default_rng(seed)
    whose = np.repeat(np.arange(patients), images)
    values = random.normal(size=patients)[whose] + random.normal(size=len(whose))
    return values[:, None], [f"{name}" for name in whose]


def test_images_of_few_patients_are_no_proof():
    """Fault: ten images each of thirty patients taken for three hundred patients.

    Then 40 % of such draws are called significant, and 60 % of the intervals hold the mean.
    """
    draws = [drawn(seed, 30, 10) for seed in range(100)]
    held = [low <= 0 <= high for low, high in (mean_intervals(*draw)[0] for draw in draws)]
    significant = [p_values(*draw)[0] < 0.05 for draw in draws]
    assert np.mean(held) > 0.85
    assert np.mean(significant) < 0.13


def test_of_single_images_the_interval_is_that_of_the_mean():
    """Fault: an interval of 90 %, or one of the values in place of their mean."""
    values, whose = drawn(0, 400, 1)
    ((low, high),) = mean_intervals(values, whose)
    half = 1.96 * values.std() / 20
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.01)


def test_patients_weigh_by_their_images():
    """Fault: an interval of another mean than the one printed beside it, which is of images."""
    # A patient of 99 images at 1 beside 99 patients of one at 0: the mean is a half.
    values = np.repeat([1.0, 0.0], 99)[:, None]
    whose = ["many"] * 99 + [f"{number}" for number in range(99)]
    ((low, high),) = mean_intervals(values, whose)
    # Resamples without that patient have a mean of 0; with it twice, of two thirds. Student's
    # interval of 100 is wider by 2 %.
    assert low == pytest.approx(-0.01, abs=0.005)
    assert high > 0.6


def test_of_many_patients_the_bootstrap_is_not_missed(monkeypatch):
    """Fault: another interval for a large archive than for a small one, or one of images."""
    random = np.random.default_rng(1)
    whose = np.repeat(np.arange(3000), random.integers(1, 6, 3000))
    # Skewed, the same within a patient, and of few in the last column.
    values = random.exponential(size=(3000, 3))[whose] * [1, 10, 1]
    values[whose > 4, 2] = np.nan
    patients = [f"{name}" for name in whose]
    slow = mean_intervals(values, patients)
    monkeypatch.setattr(intervals, "MANY_PATIENTS", 2999)
    fast = mean_intervals(values, patients)
    width = slow[:2, 1] - slow[:2, 0]
    np.testing.assert_allclose(fast[:2], slow[:2], atol=0.05 * width.max())
    np.testing.assert_allclose(fast[:2, 1] - fast[:2, 0], width, rtol=0.05)
    assert np.isnan(fast[2]).all()
    assert np.isnan(slow[2]).all()


def test_p_is_the_share_of_flips_that_do_as_much():
    """Fault: one side counted for two, or images flipped that belong to one patient."""
    change = np.array([3.0, 1.0, -0.5, 2.0, 0.7])
    flips = np.array(list(itertools.product([-1, 1], repeat=5))) @ change
    exact = np.mean(np.abs(flips) >= change.sum() - 1e-9)
    # Each patient's change comes in two images.
    halves = np.repeat(change / 2, 2)[:, None]
    found = p_values(halves, [f"{number // 2}" for number in range(10)])
    assert found[0] == pytest.approx(exact, abs=0.01)


def test_flips_that_do_as_much_but_for_rounding_count():
    """Fault: a p-value that is too small, or another on each machine, by the order of a sum."""
    tenths = np.array([2, 4, -2, -4, 4])
    flips = np.array(list(itertools.product([-1, 1], repeat=5))) @ tenths
    # In whole numbers, where sums are exact; most of these flips do exactly as much.
    exact = np.mean(np.abs(flips) >= tenths.sum())
    assert exact - np.mean(np.abs(flips) > tenths.sum()) > 0.3
    (found,) = p_values(tenths[:, None] / 10, [f"{number}" for number in range(5)])
    assert found == pytest.approx(exact, abs=0.02)


def test_figures_without_meaning_do_not_count():
    """Fault: NaN in every interval, or an image without lung taken for one without change."""
    values, whose = drawn(1, 40, 1)
    values = values + 2
    padded = np.concatenate([values, np.full_like(values, np.nan)])
    both = [*whose, *(f"empty {name}" for name in whose)]
    np.testing.assert_allclose(
        mean_intervals(padded, both), mean_intervals(values, whose), atol=0.1
    )
    assert p_values(padded, both)[0] == pytest.approx(1 / (FLIPS + 1), rel=1e-6)


def test_more_patients_than_fit_at_once(monkeypatch):
    """Fault: the same resamples in each batch, of which there are then but a few."""
    values, whose = drawn(3, 50, 1)
    whole = mean_intervals(values, whose), p_values(values, whose)
    monkeypatch.setattr(intervals, "_BATCH", 50 * 4)
    cut = mean_intervals(values, whose), p_values(values, whose)
    np.testing.assert_allclose(cut[0], whole[0], atol=0.03)
    assert cut[1] == pytest.approx(whole[1], abs=0.02)


def test_the_interval_agrees_with_the_test_where_patients_are_few():
    """Fault: an interval that calls a difference one where p does not."""
    draws = [drawn(seed, 10, 1) for seed in range(200)]
    wide = [not low <= 0 <= high for low, high in (mean_intervals(*draw)[0] for draw in draws)]
    assert np.mean(wide) < 0.09


def test_few_patients_have_no_interval():
    """Fault: an interval of no width around one image."""
    for patients, some in ((MIN_PATIENTS - 1, False), (MIN_PATIENTS, True)):
        values, whose = drawn(2, patients, 5)
        columns = np.concatenate([values, np.full_like(values, np.nan)], axis=1)
        found = mean_intervals(columns, whose)
        assert np.isfinite(found[0]).all() == some
        assert np.isnan(found[1]).all()
