"""What means over images are worth: intervals and tests in which a patient counts as one.

Images of a patient are alike. Taken for independent, ten images each of thirty patients call
two of five differences that are none significant. Not by SciPy, whose bootstrap and permutation
test resample single values.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float, Float64
from scipy.stats import norm, t

RESAMPLES = 4_000
FLIPS = 10_000

# Of fewer patients the percentiles of a bootstrap are no interval: of five they hold the mean in
# three of four cases or less, where values have a long tail.
MIN_PATIENTS = 10

# Numbers of a batch of resamples.
_BATCH = 2**22


def mean_intervals(
    values: Float[np.ndarray, "n f"], patients: Sequence[str]
) -> Float64[np.ndarray, "f 2"]:
    """Returns the 95 % interval of each column's mean, by the bootstrap over patients.

    It is the percentiles' (Efron 1979, https://doi.org/10.1214/aos/1176344552), widened about the
    mean by as much as Student's interval is wider than one of percentiles, n patients' spread being
    too small by √((n - 1) / n). Of few patients with a long tail it is still too narrow. NaN of
    fewer than `MIN_PATIENTS`.

    Args:
      values: a row an image; NaN where a figure has no meaning.
      patients: of the images.
    """
    sums, counts = _by_patient(values, patients)
    # A patient none of whose images has a figure tells nothing of it.
    num_patients = (counts > 0).sum(axis=0)
    few = num_patients < MIN_PATIENTS
    if few.all():
        return np.full((values.shape[1], 2), np.nan)
    resampled = []
    for random, size in _batches(len(sums), RESAMPLES):
        chosen = random.multinomial(len(sums), np.full(len(sums), 1 / len(sums)), size)
        with np.errstate(invalid="ignore"):
            resampled.append((chosen @ sums) / (chosen @ counts))
    means, found = np.concatenate(resampled), np.full((values.shape[1], 2), np.nan)
    for column in np.flatnonzero(~few):
        # A resample may hold no patient with the figure.
        ends = np.nanpercentile(means[:, column], [2.5, 97.5])
        mean, n = sums[:, column].sum() / counts[:, column].sum(), num_patients[column]
        wider = np.sqrt(n / (n - 1)) * t.ppf(0.975, n - 1) / norm.ppf(0.975)
        found[column] = mean + wider * (ends - mean)
    return found


def p_values(
    change: Float[np.ndarray, "n f"], patients: Sequence[str]
) -> Float64[np.ndarray, " f"]:
    """Returns two-sided p-values of each column's mean against zero, by flipping signs.

    Where runs do not differ, a patient's change might as well have the other sign (Fisher 1935).
    The least value is 1 / (`FLIPS` + 1).

    Args:
      change: a row an image; NaN where a figure has no meaning.
      patients: of the images.
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
    """Yields a generator of random numbers and how many of `count` are next, in bounded memory."""
    random, left = np.random.default_rng(0), count
    while left:
        size = min(left, max(1, _BATCH // width))
        left -= size
        yield random, size
