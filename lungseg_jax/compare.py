"""Compares two runs on the same test images, pair by pair; a patient counts as one.

Usage: python -m lungseg_jax.compare RUN_A RUN_B [--split=test]

RUN_A, RUN_B   folders of finished runs
--split=NAME   test (default) or val; external, of two folders of lungseg_jax.validate

Interval and p-value are of the choice of patients alone: two seeds of one recipe differ, too.
"""

import csv
import dataclasses
import itertools
import math
import sys
from collections.abc import Sequence

import numpy as np
from absl import flags
from etils import epath
from jaxtyping import Float64

from lungseg_jax import evaluation_report, terminal
from lungseg_jax.command import run_command
from lungseg_jax.command_line import parse_flags
from lungseg_jax.errors import ConfigError, DataError
from lungseg_jax.intervals import MIN_PATIENTS, mean_intervals, p_values
from lungseg_jax.metrics import DISTANCES
from lungseg_jax.workdir import run_folder

FIGURES = ("dice", "iou", "hd95_px", "assd_px", "surface_dice")

AGAIN = "evaluate the run again by --mode=eval, or validate again"


@dataclasses.dataclass(frozen=True)
class Difference:
    """How a metric differs between two runs, over the images where at least one of them has it.

    A run that finds no lung on an image without any has no metrics there. If the other finds some,
    the first gets the metric's best value: left out, the other's mistake would not count.

    Interval and test are about other patients, not other runs: seeds of one recipe differ, too.

    Attributes:
      figure: the metric's name.
      first: mean of the first run.
      second: mean of the second.
      low: lower end of the 95 % interval of the mean of second − first; NaN for few patients. See
        `mean_intervals`.
      high: upper end.
      p_value: two-sided p-value of that mean; see `p_values`.
      pictures: number of images.
      patients: number of patients.
    """

    figure: str
    first: float
    second: float
    low: float
    high: float
    p_value: float
    pictures: int
    patients: int


@dataclasses.dataclass(frozen=True)
class Table:
    """Metrics of a run's images, in the order of their ids.

    Attributes:
      ids: the images' ids.
      patients: each image's patient.
      reference_px: pixels of each image's reference, which identify reference and frame.
      figures: a column for each of `FIGURES`; NaN where one has no meaning.
    """

    ids: list[str]
    patients: list[str]
    reference_px: list[int]
    figures: Float64[np.ndarray, "n f"]


def compare(first: epath.PathLike, second: epath.PathLike, split: str = "test") -> list[Difference]:
    """Returns the differences between two runs.

    Args:
      first: folder of a finished run.
      second: folder of another.
      split: the split whose images are compared.

    Raises:
      ConfigError: an address that is not a folder.
      DataError: a folder holds no table of the split, or the tables differ in their images,
        references, frames or tolerances.
    """
    tables = [_read(run_folder(workdir) / "eval" / f"{split}.csv") for workdir in (first, second)]
    if tables[0].ids != tables[1].ids:
        common = len({*tables[0].ids} & {*tables[1].ids})
        ours, theirs = (len(table.ids) for table in tables)
        raise DataError(
            second,
            f"has {theirs} images, {common} shared with the {ours} of {first}",
            "compare figures of the same images, such as of runs with the same data.splits",
        )
    _check_same_references(first, second, *tables)
    _check_same_tolerance(first, second, split)
    return _differences(*tables)


def _check_same_references(
    first: epath.PathLike, second: epath.PathLike, table: Table, other: Table
) -> None:
    """Raises DataError if images of one id differ in the size of their reference."""
    rows = zip(table.ids, table.reference_px, other.reference_px, strict=True)
    if others := [row for row in rows if row[1] != row[2]]:
        name, ours, theirs = others[0]
        raise DataError(
            second,
            f"{len(others)} of {len(table.ids)} references have another size than in {first}: that "
            f"of {name} has {theirs} pixels, not {ours}",
            "compare runs on the same files, at the same size",
        )


def _check_same_tolerance(first: epath.PathLike, second: epath.PathLike, split: str) -> None:
    """Raises DataError if surface Dice was measured at different tolerances."""
    expected, found = (_tolerance(run_folder(workdir), split) for workdir in (first, second))
    if found != expected:
        raise DataError(
            second,
            f"was evaluated with evaluation.tolerance_px={found}, {first} with {expected}",
            "measure one again with --config.evaluation.tolerance_px=VALUE",
        )


def _tolerance(workdir: epath.Path, split: str) -> float:
    """Returns the tolerance of the surface Dice in a table, in pixels."""
    try:
        return float(evaluation_report.read_summary(workdir)[split]["tolerance_px"])
    except (OSError, ValueError, TypeError, KeyError) as error:
        fault = f"does not tell the tolerance of surface Dice ({type(error).__name__})"
        raise DataError(workdir / "metrics.json", fault, AGAIN) from error


def _differences(first: Table, second: Table) -> list[Difference]:
    ours, theirs = first.figures, second.figures
    best = np.array([0.0 if figure in DISTANCES else 1.0 for figure in FIGURES])
    ours, theirs = (
        np.where(np.isnan(one) & ~np.isnan(other), best, one)
        for one, other in ((ours, theirs), (theirs, ours))
    )
    change = theirs - ours
    intervals, tests = mean_intervals(change, first.patients), p_values(change, first.patients)
    found = []
    for column, figure in enumerate(FIGURES):
        has = ~np.isnan(change[:, column])
        mean, other = (
            float(one[has, column].mean()) if has.any() else math.nan for one in (ours, theirs)
        )
        low, high = intervals[column].tolist()
        patients = len(set(itertools.compress(first.patients, has)))
        p_value = float(tests[column])
        found.append(Difference(figure, mean, other, low, high, p_value, int(has.sum()), patients))
    return found


def _read(path: epath.Path) -> Table:
    try:
        rows = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
    except OSError as error:
        remedy = "give finished runs, or with --split=external folders of lungseg_jax.validate"
        raise DataError(path, error.strerror or "not readable", remedy) from error
    except (UnicodeDecodeError, csv.Error):
        rows = []
    if not rows or not {"id", "dice"} <= rows[0].keys():
        raise DataError(path, "is not a table of an evaluation", "give finished runs")
    if missing := [name for name in FIGURES if name not in rows[0]]:
        raise DataError(path, f"has no column {missing[0]}", AGAIN)
    if "patient" not in rows[0]:
        raise DataError(path, "has no column patient", AGAIN)
    if "reference_px" not in rows[0]:
        remedy = "compare with the version that wrote it, or train the run again"
        raise DataError(path, "has no column reference_px", remedy)
    rows.sort(key=lambda row: row["id"])
    figures = np.array([[_number(path, row, name) for name in FIGURES] for row in rows])
    return Table(
        [row["id"] for row in rows],
        [row["patient"] for row in rows],
        [int(_number(path, row, "reference_px")) for row in rows],
        figures,
    )


def _number(path: epath.Path, row: dict[str, str | None], name: str) -> float:
    """Returns a number from a row; NaN where a metric has no meaning and its cell is empty."""
    cell = row[name]
    if cell == "" and name in FIGURES:
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
    runs = parse_flags(values, arguments)
    if len(runs) != 2:
        raise ConfigError("command line", f"{len(runs)} runs are given", "name two folders")
    differences = compare(runs[0], runs[1], str(split.value))
    rows = [
        [
            difference.figure,
            f"{difference.first:.4f}",
            f"{difference.second:.4f}",
            f"{difference.second - difference.first:+.4f}",
            "-"
            if math.isnan(difference.low)
            else f"{difference.low:+.4f} to {difference.high:+.4f}",
            f"{difference.p_value:.2g}",
            str(difference.pictures),
            str(difference.patients),
        ]
        for difference in differences
    ]
    header = [
        "figure", "first", "second", "second - first", "95 % interval", "p", "images", "patients",
    ]  # fmt: skip
    terminal.show(terminal.table(header, rows))
    terminal.say(
        "Intervals and p are of other patients, not of training again: two seeds of one recipe "
        "may differ as much."
    )
    if min(difference.patients for difference in differences) < MIN_PATIENTS:
        terminal.say(f"Of fewer than {MIN_PATIENTS} patients there is no interval.")


if __name__ == "__main__":
    sys.exit(main(sys.argv))
