"""Intervals and tests in which patients count, not pictures."""

import itertools

import numpy as np
import pytest

from lungseg_jax.intervals import MIN_PATIENTS, RESAMPLES, mean_intervals, p_values


def drawn(seed: int, patients: int, pictures: int) -> tuple[np.ndarray, list[str]]:
    """Values of mean 0 of which half of the variance is the patient's, and whose they are."""
    random = np.random.default_rng(seed)
    whose = np.repeat(np.arange(patients), pictures)
    values = random.normal(size=patients)[whose] + random.normal(size=len(whose))
    return values[:, None], [f"{name}" for name in whose]


def test_pictures_of_few_patients_are_no_proof():
    """Fault: ten pictures each of thirty patients taken for three hundred patients.

    Then 40 % of such draws are called significant, and 60 % of the intervals hold the mean.
    """
    draws = [drawn(seed, 30, 10) for seed in range(100)]
    held = [low <= 0 <= high for low, high in (mean_intervals(*draw)[0] for draw in draws)]
    significant = [p_values(*draw)[0] < 0.05 for draw in draws]
    assert np.mean(held) > 0.85
    assert np.mean(significant) < 0.13


def test_of_single_pictures_the_interval_is_that_of_the_mean():
    """Fault: an interval of 90 %, or one of the values in place of their mean."""
    values, whose = drawn(0, 400, 1)
    ((low, high),) = mean_intervals(values, whose)
    half = 1.96 * values.std() / 20
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.01)


def test_patients_weigh_by_their_pictures():
    """Fault: an interval of another mean than the one printed beside it, which is of pictures."""
    # A patient of 99 pictures at 1 beside 99 patients of one at 0: the mean is a half.
    values = np.repeat([1.0, 0.0], 99)[:, None]
    whose = ["many"] * 99 + [f"{number}" for number in range(99)]
    ((low, high),) = mean_intervals(values, whose)
    # Resamples without that patient have a mean of 0; with it twice, of two thirds.
    assert low == 0
    assert high > 0.6


def test_p_is_the_share_of_flips_that_do_as_much():
    """Fault: one side counted for two, or pictures flipped that belong to one patient."""
    change = np.array([3.0, 1.0, -0.5, 2.0, 0.7])
    flips = np.array(list(itertools.product([-1, 1], repeat=5))) @ change
    exact = np.mean(np.abs(flips) >= change.sum() - 1e-9)
    # Each patient's change comes in two pictures.
    halves = np.repeat(change / 2, 2)[:, None]
    found = p_values(halves, [f"{number // 2}" for number in range(10)])
    assert found[0] == pytest.approx(exact, abs=0.01)


def test_figures_without_meaning_do_not_count():
    """Fault: NaN in every interval, or a picture without lung taken for one without change."""
    values, whose = drawn(1, 40, 1)
    values = values + 2
    padded = np.concatenate([values, np.full_like(values, np.nan)])
    both = [*whose, *(f"empty {name}" for name in whose)]
    np.testing.assert_allclose(
        mean_intervals(padded, both), mean_intervals(values, whose), atol=0.1
    )
    assert p_values(padded, both)[0] == pytest.approx(1 / (RESAMPLES + 1), rel=1e-6)


def test_few_patients_have_no_interval():
    """Fault: an interval of no width around one picture."""
    for patients, some in ((MIN_PATIENTS - 1, False), (MIN_PATIENTS, True)):
        values, whose = drawn(2, patients, 5)
        columns = np.concatenate([values, np.full_like(values, np.nan)], axis=1)
        found = mean_intervals(columns, whose)
        assert np.isfinite(found[0]).all() == some
        assert np.isnan(found[1]).all()
