"""Uncertainty of means over images: intervals and tests in which a patient counts as one.

Images of one patient are alike. With ten images each of thirty patients, treating them as
independent calls two of five null differences significant. SciPy's bootstrap and permutation test
are not used, because they resample single values.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float, Float64
from scipy.stats import norm, t

RESAMPLES = 4_000
FLIPS = 10_000

# With fewer patients, bootstrap percentiles are no valid interval: with five, they cover the mean
# in three of four cases or less, where values have a long tail.
MIN_PATIENTS = 10

# With more patients, resampled means are normally distributed, and take minutes.
MANY_PATIENTS = 5_000

# Numbers in a batch of resamples.
_BATCH = 2**22


def mean_intervals(
    values: Float[np.ndarray, "n f"], patients: Sequence[str]
) -> Float64[np.ndarray, "f 2"]:
    """Returns the 95 % interval of each column's mean, by the bootstrap over patients.

    It is the percentile interval (Efron 1979, https://doi.org/10.1214/aos/1176344552), widened
    about the mean by as much as Student's interval is wider than a percentile interval: the spread
    of n patients is too small by √((n - 1) / n). With few patients and a long tail it is still too
    narrow. NaN for fewer than `MIN_PATIENTS`. For more than `MANY_PATIENTS` it is Student's
    interval of a ratio of sums.

    Args:
      values: one row per image; NaN where a metric has no meaning.
      patients: the patient of each image.
    """
    sums, counts = _by_patient(values, patients)
    # A patient with no image that has a metric tells nothing about it.
    num_patients = (counts > 0).sum(axis=0)
    few = num_patients < MIN_PATIENTS
    if few.all():
        return np.full((values.shape[1], 2), np.nan)
    if len(sums) > MANY_PATIENTS:
        return _student_intervals(sums, counts)
    resampled = []
    for random, size in _batches(len(sums), RESAMPLES):
        chosen = random.multinomial(len(sums), np.full(len(sums), 1 / len(sums)), size)
        with np.errstate(invalid="ignore"):
            resampled.append((chosen @ sums) / (chosen @ counts))
    means, found = np.concatenate(resampled), np.full((values.shape[1], 2), np.nan)
    for column in np.flatnonzero(~few):
        # A resample may hold no patient with the metric.
        ends = np.nanpercentile(means[:, column], [2.5, 97.5])
        mean, n = sums[:, column].sum() / counts[:, column].sum(), num_patients[column]
        wider = np.sqrt(n / (n - 1)) * t.ppf(0.975, n - 1) / norm.ppf(0.975)
        found[column] = mean + wider * (ends - mean)
    return found


def _student_intervals(
    sums: Float64[np.ndarray, "m f"], counts: Float64[np.ndarray, "m f"]
) -> Float64[np.ndarray, "f 2"]:
    """Returns the interval of each mean, a ratio of sums over patients (Cochran 1977, ch. 6)."""
    n, total = (counts > 0).sum(axis=0), counts.sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        means = sums.sum(axis=0) / total
        variances = ((sums - means * counts) ** 2).sum(axis=0) * n / (n - 1)
        half = t.ppf(0.975, n - 1) * np.sqrt(variances) / total
    found = np.stack([means - half, means + half], axis=-1)
    found[n < MIN_PATIENTS] = np.nan
    return found


def p_values(
    change: Float[np.ndarray, "n f"], patients: Sequence[str]
) -> Float64[np.ndarray, " f"]:
    """Returns two-sided p-values of each column's mean against zero, by flipping signs.

    If runs do not differ, a patient's change might as well have the other sign (Fisher 1935).
    The smallest value is 1 / (`FLIPS` + 1).

    Args:
      change: one row per image; NaN where a metric has no meaning.
      patients: the patient of each image.
    """
    sums, _ = _by_patient(change, patients)
    found = np.abs(sums.sum(axis=0))
    as_large = np.ones(len(found))
    for random, size in _batches(len(sums), FLIPS):
        flipped = np.abs(random.choice([-1.0, 1.0], (size, len(sums))) @ sums)
        # The same sum in another order differs by rounding.
        as_large += (flipped >= found * (1 - 1e-9)).sum(axis=0)
    return as_large / (FLIPS + 1)


def _by_patient(
    values: Float[np.ndarray, "n f"], patients: Sequence[str]
) -> tuple[Float64[np.ndarray, "m f"], Float64[np.ndarray, "m f"]]:
    """Returns the sum of each patient's values, and how many there are."""
    names, whose = np.unique(np.asarray(patients), return_inverse=True)
    sums, counts = np.zeros((2, len(names), values.shape[1]))
    np.add.at(sums, whose, np.nan_to_num(values))
    np.add.at(counts, whose, ~np.isnan(values))
    return sums, counts


def _batches(width: int, count: int) -> Iterator[tuple[np.random.Generator, int]]:
    """Yields a random generator and how many of `count` come next, to bound memory."""
    random, left = np.random.default_rng(0), count
    while left:
        size = min(left, max(1, _BATCH // width))
        left -= size
        yield random, size
