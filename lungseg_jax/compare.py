"""Compares runs, or groups of runs, on the same test images, pair by pair; a patient counts as one.

Usage: python -m lungseg_jax.compare RUN_A RUN_B [--split=test]
       python -m lungseg_jax.compare RUN_A… vs RUN_B… [--split=test]

RUN_A, RUN_B   folders of finished runs: of two groups, for example, the seeds or the folds of a
               recipe each, with the word vs between them
--split=NAME   test (default) or val; external, of folders of lungseg_jax.validate or measure

Interval and p are about other patients: two seeds of one recipe differ, too. Of groups of seeds,
"p (runs)" is about other seeds.
"""

import dataclasses
import itertools
import math
import sys
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import flags
from jaxtyping import Float64
from scipy.stats import ttest_ind

from lungseg_jax import terminal
from lungseg_jax.command import run_command
from lungseg_jax.command_line import parse_flags
from lungseg_jax.errors import ConfigError, DataError
from lungseg_jax.intervals import MIN_PATIENTS, mean_intervals, p_values
from lungseg_jax.metrics import decimals
from lungseg_jax.run_tables import (
    COMPARED,
    Runs,
    Table,
    deviation_of_runs,
    images_and_patients,
    metrics_of_runs,
    metrics_to_show,
    read_tables,
    say_if_builders_differ,
    say_if_nothing_counts,
    say_if_recipes_differ,
    which_checkpoint,
)

# On a command line, between two groups of runs.
BETWEEN_GROUPS = "vs"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Difference:
    """How a metric differs between two groups of runs, over the images where some run has it.

    An image counts with its mean over the group's runs that measured it. A run that finds no lung
    on an image without any has no metrics there. If another run finds some, the first gets the
    metric's best value: left out, the other's mistake would not count.

    Attributes:
      metric: its name.
      first: mean of the first group.
      second: mean of the second.
      first_deviation: standard deviation of the means of the first group's runs; NaN for one run,
        or if they measured different images.
      second_deviation: that of the second.
      low: lower end of the 95 % interval of the mean of second − first, over patients; NaN for few.
        See `mean_intervals`.
      high: upper end.
      p_patients: two-sided p-value of that mean; see `p_values`. It is about other patients, not
        about other runs: seeds of one recipe differ, too.
      p_runs: two-sided p-value of the difference of the runs' means, about other runs on these
        patients (Welch 1947, https://doi.org/10.1093/biomet/34.1-2.28); NaN if a deviation is.
      images: number of images.
      images_of_nothing: number of those of them where the reference is empty (of this lung, for its
        Dice) and some run rightly found nothing: it counts with the metric's best value.
      patients: number of patients.
    """

    metric: str
    first: float
    second: float
    first_deviation: float
    second_deviation: float
    low: float
    high: float
    p_patients: float
    p_runs: float
    images: int
    images_of_nothing: int
    patients: int


def compare(first: Runs, second: Runs, split: str = "test") -> list[Difference]:
    """Returns the differences between two groups of runs, of a run or more each.

    Args:
      first: folder of a finished run, or those of the seeds or the folds of a recipe.
      second: that of another, or those of others.
      split: the split whose images are compared.

    Raises:
      ConfigError: an address that is not a folder.
      DataError: a folder holds no table of the split, a run is given twice, or the tables differ
        in their images, references, frames or tolerances.
    """
    ours, theirs = read_tables([first, second], split)
    _check_same_images(ours, theirs)
    return _differences(ours, theirs)


def _check_same_images(first: Sequence[Table], second: Sequence[Table]) -> None:
    """Raises DataError if a group measured images that the other did not."""
    ours, theirs = (
        {name for table in group for name in table.metrics} for group in (first, second)
    )
    if ours != theirs:
        raise DataError(
            second[0].workdir,
            f"has {len(theirs)} images, {len(ours & theirs)} shared with the {len(ours)} of "
            f"{first[0].workdir}",
            "compare figures of the same images, such as of runs with the same data.splits",
        )


def _differences(first: Sequence[Table], second: Sequence[Table]) -> list[Difference]:
    ids, patients = images_and_patients(first)
    runs, filled = metrics_of_runs([*first, *second], ids)
    best = np.any(filled, axis=0)
    ours, theirs = runs[: len(first)], runs[len(first) :]
    with warnings.catch_warnings():
        # Of metrics that no run has.
        warnings.filterwarnings("ignore", "Mean of empty slice", RuntimeWarning)
        change = np.nanmean(theirs, axis=0) - np.nanmean(ours, axis=0)
    intervals, tests = mean_intervals(change, patients), p_values(change, patients)
    found = []
    for column in metrics_to_show([*first, *second]):
        has = ~np.isnan(change[:, column])
        our_runs, their_runs = (group[:, has, column] for group in (ours, theirs))
        low, high = intervals[column].tolist()
        found.append(
            Difference(
                metric=COMPARED[column],
                first=_mean(our_runs),
                second=_mean(their_runs),
                first_deviation=deviation_of_runs(our_runs),
                second_deviation=deviation_of_runs(their_runs),
                low=low,
                high=high,
                p_patients=float(tests[column]),
                p_runs=_p_runs(our_runs, their_runs),
                images=int(has.sum()),
                images_of_nothing=int((has & best[:, column]).sum()),
                patients=len(set(itertools.compress(patients, has))),
            )
        )
    return found


def _mean(runs: Float64[np.ndarray, "r n"]) -> float:
    """Returns the mean over images of their means over the runs that measured them."""
    return float(np.nanmean(runs, axis=0).mean()) if runs.size else math.nan


def _p_runs(first: Float64[np.ndarray, "r n"], second: Float64[np.ndarray, "s n"]) -> float:
    """Returns the p-value of Welch's t-test of the runs' means; NaN without a deviation."""
    # Means of equal runs differ by rounding.
    if not deviation_of_runs(first) + deviation_of_runs(second) > 1e-12 * _mean(first):
        return math.nan
    with warnings.catch_warnings():
        # Of a group whose runs are equal.
        warnings.filterwarnings("ignore", "Precision loss occurred", RuntimeWarning)
        test: Any = ttest_ind(first.mean(axis=1), second.mean(axis=1), equal_var=False)
    return float(test.pvalue)


def main(arguments: Sequence[str]) -> int:
    """Prints the comparison; returns the exit code."""
    again = "run the same command to start over"
    return run_command(arguments, str(__doc__), lambda: _run(arguments), again)


def _run(arguments: Sequence[str]) -> None:
    values = flags.FlagValues()
    split = flags.DEFINE_enum(
        "split", "test", ["test", "val", "external"], "Split.", flag_values=values
    )
    first, second = _groups(parse_flags(values, arguments))
    differences = compare(first, second, str(split.value))
    for name, group in (("first", first), ("second", second)):
        for workdir in group:
            terminal.say(f"{name}: {which_checkpoint(workdir, str(split.value))}")
    terminal.show(_table(differences))
    for group in (first, second):
        say_if_recipes_differ(group)
    say_if_builders_differ([*first, *second])
    if any(not math.isnan(difference.p_runs) for difference in differences):
        terminal.say(
            "The interval and p say what other patients might give, p (runs) what other runs would "
            "(Welch's t-test)."
        )
    else:
        terminal.say(
            "The interval and p say what other patients might give, not what training again would: "
            "two seeds of one recipe may differ as much."
        )
    terminal.say("Each p is of one metric alone: choose the one that decides before you look.")
    if unclear := [one.metric for one in differences if _interval_and_p_disagree(one)]:
        terminal.say(
            f"Interval and p disagree for {', '.join(unclear)}: a few images decide, or the "
            f"difference is at the limit of what these can show. See both eval/{split.value}.csv."
        )
    say_if_nothing_counts({one.metric: one.images_of_nothing for one in differences})
    if min(difference.patients for difference in differences) < MIN_PATIENTS:
        terminal.say(f"Of fewer than {MIN_PATIENTS} patients there is no interval.")


def _interval_and_p_disagree(one: Difference) -> bool:
    """Whether one of the two calls a difference significant at 5 %, but the other does not."""
    if math.isnan(one.low):
        return False
    return (one.low > 0 or one.high < 0) != (one.p_patients < 0.05)


def _groups(runs: list[str]) -> tuple[list[str], list[str]]:
    """Returns the folders of two groups, of a run each if nothing stands between them."""
    if len(runs) == 2 and BETWEEN_GROUPS not in runs:
        return runs[:1], runs[1:]
    parts = itertools.groupby(runs, lambda word: word == BETWEEN_GROUPS)
    groups = [list(part) for is_between, part in parts if not is_between]
    if len(groups) != 2 or runs.count(BETWEEN_GROUPS) != 1:
        fault = f"runs are not two: {' '.join(runs) or 'none'}"
        remedy = f"name two folders, or two groups with {BETWEEN_GROUPS} between"
        raise ConfigError("command line", fault, remedy)
    return groups[0], groups[1]


def _table(differences: Sequence[Difference]) -> str:
    """Returns the differences as text."""
    header = [
        "metric", "first", "second", "second - first", "95 % interval", "p", "p (runs)", "images",
        "patients",
    ]  # fmt: skip
    rows = [_row(one) for one in differences]
    place = header.index("p (runs)")
    if all(row[place] == "-" for row in rows):
        for row in (header, *rows):
            del row[place]
    return terminal.table(header, rows)


def _row(one: Difference) -> list[str]:
    digits = decimals(one.metric)
    means = [(one.first, one.first_deviation), (one.second, one.second_deviation)]
    return [
        one.metric,
        *(
            f"{mean:.{digits}f}" + ("" if math.isnan(deviation) else f" ± {deviation:.{digits}f}")
            for mean, deviation in means
        ),
        f"{one.second - one.first:+.4f}",
        "-" if math.isnan(one.low) else f"{one.low:+.4f} to {one.high:+.4f}",
        f"{one.p_patients:.2g}",
        "-" if math.isnan(one.p_runs) else f"{one.p_runs:.2g}",
        str(one.images),
        str(one.patients),
    ]


if __name__ == "__main__":
    sys.exit(main(sys.argv))
