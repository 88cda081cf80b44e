"""Compares runs, or groups of runs, on the same test images, pair by pair; a patient counts as one.

Usage: python -m lungseg_jax.compare RUN_A RUN_B [--split=test]
       python -m lungseg_jax.compare RUN_A… vs RUN_B… [--split=test]

RUN_A, RUN_B   folders of finished runs: of two groups, for example, the seeds or the folds of a
               recipe each, with the word vs between them
--split=NAME   test (default) or val; external, of folders of lungseg_jax.validate

Interval and p are about other patients: two seeds of one recipe differ, too. Of groups of seeds,
"p (runs)" is about other seeds.
"""

import collections
import csv
import dataclasses
import functools
import itertools
import math
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import flags
from etils import epath
from jaxtyping import Float64
from scipy.stats import ttest_ind

from lungseg_jax import evaluation_report, terminal
from lungseg_jax.command import run_command
from lungseg_jax.command_line import parse_flags
from lungseg_jax.errors import ConfigError, DataError
from lungseg_jax.intervals import MIN_PATIENTS, mean_intervals, p_values
from lungseg_jax.metrics import DISTANCES, SIDE_FIGURES
from lungseg_jax.workdir import run_folder

# Metrics that are compared: those in pixels between files of one size, those in percent of the
# longer side between others, and optional ones if all tables have them.
_IN_PIXELS = ("hd95_px", "assd_px", "surface_dice")
_IN_PERCENT = ("hd95_percent", "assd_percent")
_OPTIONAL = (*SIDE_FIGURES, "hd95_mm", "surface_dice_mm")
COMPARED = ("dice", "iou", *_IN_PIXELS, *_IN_PERCENT, *_OPTIONAL)

# On a command line, between two groups of runs.
BETWEEN_GROUPS = "vs"

AGAIN = "evaluate the run again by --mode=eval, or validate again"


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
    patients: int


@dataclasses.dataclass(frozen=True)
class Table:
    """Metrics of a run's images.

    Attributes:
      workdir: the run's folder.
      tolerance_px: tolerance of surface Dice.
      patients: each image's patient, by the image's id.
      reference_px: pixels of each image's reference, which identify reference and frame.
      sizes: the longer sides of the files.
      optional: which of the optional metrics it has; of those in mm, for all of its images.
      metrics: of each image those of `COMPARED`; NaN where one has no meaning.
    """

    workdir: epath.Path
    tolerance_px: float
    patients: dict[str, str]
    reference_px: dict[str, int]
    sizes: frozenset[int]
    optional: frozenset[str]
    metrics: dict[str, list[float]]


def compare(
    first: Sequence[epath.PathLike], second: Sequence[epath.PathLike], split: str = "test"
) -> list[Difference]:
    """Returns the differences between two groups of runs, of a run or more each.

    Args:
      first: folders of finished runs, such as the seeds or the folds of a recipe.
      second: folders of others.
      split: the split whose images are compared.

    Raises:
      ConfigError: an address that is not a folder.
      DataError: a folder holds no table of the split, a run is given twice, or the tables differ
        in their images, references, frames or tolerances.
    """
    groups = [[_read(run_folder(workdir), split) for workdir in group] for group in (first, second)]
    expected, *others = itertools.chain(*groups)
    for other in others:
        _check_same_tolerance(expected, other)
    _check_given_once([expected, *others])
    for group in groups:
        _check_seeds_or_folds(group)
    _check_same_images(*groups)
    for before, other in itertools.combinations([expected, *others], 2):
        _check_same_references(before, other)
    return _differences(*groups)


def _check_given_once(tables: Sequence[Table]) -> None:
    """Raises DataError if a run is named several times: p over runs would count it as several."""
    folders = collections.Counter(os.path.realpath(table.workdir) for table in tables)
    folder, times = folders.most_common(1)[0]
    if times > 1:
        raise DataError(folder, f"is given {times} times", "name each run once")


def _check_seeds_or_folds(group: Sequence[Table]) -> None:
    """Raises DataError if some, but not all, images of two runs of a group are the same.

    Each table names patients by its own images.
    """
    for table, other in itertools.combinations(group, 2):
        common = table.metrics.keys() & other.metrics.keys()
        if common and table.metrics.keys() != other.metrics.keys():
            raise DataError(
                other.workdir,
                f"shares {len(common)} of {len(other.metrics)} images with {table.workdir}",
                "make groups of runs with the same test split, or of the folds of one split",
            )


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


def _check_same_references(table: Table, other: Table) -> None:
    """Raises DataError if images of one id differ in the size of their reference."""
    common = [name for name in table.reference_px if name in other.reference_px]
    pairs = ((name, table.reference_px[name], other.reference_px[name]) for name in common)
    if differing := [pair for pair in pairs if pair[1] != pair[2]]:
        name, ours, theirs = differing[0]
        raise DataError(
            other.workdir,
            f"{len(differing)} of {len(common)} references have another size than in "
            f"{table.workdir}: that of {name} has {theirs} pixels, not {ours}",
            "compare runs on the same files, at the same size (phantoms are made from the seed)",
        )


def _check_same_tolerance(table: Table, other: Table) -> None:
    """Raises DataError if surface Dice was measured at different tolerances."""
    if other.tolerance_px != table.tolerance_px:
        raise DataError(
            other.workdir,
            f"was evaluated with evaluation.tolerance_px={other.tolerance_px}, "
            f"{table.workdir} with {table.tolerance_px}",
            "measure one again with --config.evaluation.tolerance_px=VALUE",
        )


def _tolerance(workdir: epath.Path, split: str) -> float:
    """Returns the tolerance of the surface Dice in a table, in pixels."""
    try:
        return float(evaluation_report.read_summary(workdir)[split]["tolerance_px"])
    except (OSError, ValueError, TypeError, KeyError) as error:
        fault = f"does not tell the tolerance of surface Dice ({type(error).__name__})"
        raise DataError(workdir / "metrics.json", fault, AGAIN) from error


def _differences(first: Sequence[Table], second: Sequence[Table]) -> list[Difference]:
    patient_of = {name: patient for table in first for name, patient in table.patients.items()}
    ids = sorted(patient_of)
    patients = [patient_of[name] for name in ids]
    runs = _metrics_of_runs([*first, *second], ids)
    ours, theirs = runs[: len(first)], runs[len(first) :]
    with warnings.catch_warnings():
        # Of metrics that no run has.
        warnings.filterwarnings("ignore", "Mean of empty slice", RuntimeWarning)
        change = np.nanmean(theirs, axis=0) - np.nanmean(ours, axis=0)
    intervals, tests = mean_intervals(change, patients), p_values(change, patients)
    hidden = _hidden([*first, *second])
    found = []
    for column, metric in enumerate(COMPARED):
        if metric in hidden:
            continue
        has = ~np.isnan(change[:, column])
        our_runs, their_runs = (group[:, has, column] for group in (ours, theirs))
        low, high = intervals[column].tolist()
        found.append(
            Difference(
                metric=metric,
                first=_mean(our_runs),
                second=_mean(their_runs),
                first_deviation=_deviation(our_runs),
                second_deviation=_deviation(their_runs),
                low=low,
                high=high,
                p_patients=float(tests[column]),
                p_runs=_p_runs(our_runs, their_runs),
                images=int(has.sum()),
                patients=len(set(itertools.compress(patients, has))),
            )
        )
    return found


def _hidden(tables: Sequence[Table]) -> set[str]:
    """Returns the metrics that not all tables have, or that do not suit files of these sizes."""
    sizes = frozenset().union(*(table.sizes for table in tables))
    shared = frozenset.intersection(*(table.optional for table in tables))
    return {*_OPTIONAL} - shared | {*(_IN_PIXELS if len(sizes) > 1 else _IN_PERCENT)}


def _metrics_of_runs(tables: Sequence[Table], ids: Sequence[str]) -> Float64[np.ndarray, "r n f"]:
    """Returns each run's metrics of all images; NaN where it has not measured one.

    What a run lacks of an image that it has measured, and another run has, is the best value.
    """
    nothing = [math.nan] * len(COMPARED)
    runs = np.array([[table.metrics.get(name, nothing) for name in ids] for table in tables])
    measured = np.array([[name in table.metrics for name in ids] for table in tables])
    best = np.array([0.0 if metric in DISTANCES else 1.0 for metric in COMPARED])
    known = ~np.isnan(runs).all(axis=0)
    return np.where(np.isnan(runs) & measured[..., None] & known, best, runs)


def _mean(runs: Float64[np.ndarray, "r n"]) -> float:
    """Returns the mean over images of their means over the runs that measured them."""
    return float(np.nanmean(runs, axis=0).mean()) if runs.size else math.nan


def _deviation(runs: Float64[np.ndarray, "r n"]) -> float:
    """Returns the standard deviation of the runs' means; NaN if they are not of the same images."""
    return float(runs.mean(axis=1).std(ddof=1)) if len(runs) > 1 and runs.size else math.nan


def _p_runs(first: Float64[np.ndarray, "r n"], second: Float64[np.ndarray, "s n"]) -> float:
    """Returns the p-value of Welch's t-test of the runs' means; NaN without a deviation."""
    # Means of equal runs differ by rounding.
    if not _deviation(first) + _deviation(second) > 1e-12 * _mean(first):
        return math.nan
    test: Any = ttest_ind(first.mean(axis=1), second.mean(axis=1), equal_var=False)
    return float(test.pvalue)


def _read(workdir: epath.Path, split: str) -> Table:
    path = workdir / "eval" / f"{split}.csv"
    try:
        rows = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
    except OSError as error:
        remedy = "give finished runs, or with --split=external folders of lungseg_jax.validate"
        raise DataError(path, error.strerror or "not readable", remedy) from error
    except (UnicodeDecodeError, csv.Error):
        rows = []
    if not rows or not {"id", "dice"} <= rows[0].keys():
        raise DataError(path, "is not a table of an evaluation", "give finished runs")
    for name in (*COMPARED, "patient", "reference_px", "height", "width"):
        if name not in rows[0] and name not in _OPTIONAL:
            raise DataError(path, f"has no column {name}", AGAIN)
    metrics = {row["id"]: [_number(path, row, name) for name in COMPARED] for row in rows}
    return Table(
        workdir,
        _tolerance(workdir, split),
        {row["id"]: row["patient"] for row in rows},
        {row["id"]: int(_number(path, row, "reference_px")) for row in rows},
        frozenset(int(max(_number(path, row, x) for x in ("height", "width"))) for row in rows),
        frozenset(filter(functools.partial(_has, rows), _OPTIONAL)),
        metrics,
    )


def _has(rows: Sequence[dict[str, str]], metric: str) -> bool:
    """Whether a table has an optional metric: in mm, of every image that has one in pixels."""
    cells = [row.get(metric, "") for row in rows if row["hd95_px"]]
    return all(cells) if metric.endswith("_mm") else any(cells)


def _number(path: epath.Path, row: dict[str, str | None], name: str) -> float:
    """Returns a number from a row; NaN where a metric has no meaning and its cell is empty."""
    cell = row.get(name, "") if name in _OPTIONAL else row[name]
    if cell == "" and name in COMPARED:
        return math.nan
    try:
        number = float(cell or "")
    except ValueError:
        number = math.nan
    # A truncated row has no such cell.
    if not math.isfinite(number):
        fault = f"{name} of {row['id']} is {cell!r}" if cell else f"{row['id']} has no {name}"
        raise DataError(path, fault, AGAIN)
    return number


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
    terminal.show(_table(differences))
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
    if min(difference.patients for difference in differences) < MIN_PATIENTS:
        terminal.say(f"Of fewer than {MIN_PATIENTS} patients there is no interval.")


def _groups(runs: list[str]) -> tuple[list[str], list[str]]:
    """Returns the folders of two groups, of a run each if nothing stands between them."""
    if len(runs) == 2 and BETWEEN_GROUPS not in runs:
        return runs[:1], runs[1:]
    parts = itertools.groupby(runs, lambda word: word == BETWEEN_GROUPS)
    groups = [list(part) for is_between, part in parts if not is_between]
    if len(groups) != 2 or runs.count(BETWEEN_GROUPS) != 1:
        fault = f"{len(runs)} words are given"
        remedy = f"name two folders, or two groups with {BETWEEN_GROUPS} between"
        raise ConfigError("command line", fault, remedy)
    return groups[0], groups[1]


def _table(differences: Sequence[Difference]) -> str:
    """Returns the differences as text."""
    header = [
        "metric", "first", "second", "second - first", "95 % interval", "p", "p (runs)", "images",
        "patients",
    ]  # fmt: skip
    rows = [
        [
            one.metric,
            _with_deviation(one.first, one.first_deviation),
            _with_deviation(one.second, one.second_deviation),
            f"{one.second - one.first:+.4f}",
            "-" if math.isnan(one.low) else f"{one.low:+.4f} to {one.high:+.4f}",
            f"{one.p_patients:.2g}",
            "-" if math.isnan(one.p_runs) else f"{one.p_runs:.2g}",
            str(one.images),
            str(one.patients),
        ]
        for one in differences
    ]
    return terminal.table(header, rows)


def _with_deviation(mean: float, deviation: float) -> str:
    return f"{mean:.4f}" if math.isnan(deviation) else f"{mean:.4f} ± {deviation:.4f}"


if __name__ == "__main__":
    sys.exit(main(sys.argv))
