"""Compares two runs on the same test pictures, pair by pair.

Usage: python -m lungseg_jax.compare RUN_A RUN_B [--split=test]

RUN_A, RUN_B   folders of finished runs
--split=NAME   test (default) or val; external, of two folders of lungseg_jax.validate
"""

import csv
import dataclasses
import math
import sys
from collections.abc import Sequence

import numpy as np
from absl import flags
from etils import epath
from scipy.stats import wilcoxon

from lungseg_jax import evaluation_report, terminal
from lungseg_jax.command import run_command
from lungseg_jax.command_line import parse_flags
from lungseg_jax.errors import ConfigError, DataError
from lungseg_jax.workdir import run_folder

FIGURES = ("dice", "iou", "hd95_px", "assd_px", "surface_dice")

# By which a picture's reference and frame are known again.
REFERENCE = "reference_px"

Table = dict[str, dict[str, float]]

RESAMPLES = 10_000

AGAIN = "evaluate the run again by --mode=eval"


@dataclasses.dataclass(frozen=True)
class Difference:
    """How a figure differs between two runs, over the pictures where both have it.

    A picture without lung thus counts only if both runs predict some.

    Interval and test treat pictures as independent, which those of one patient are not.

    Attributes:
      figure: its name.
      first: mean of the first run.
      second: mean of the second.
      low: lower end of the 95 % bootstrap interval of the mean of second − first.
      high: upper end.
      p_value: of Wilcoxon's signed-rank test, two-sided; 1 where no picture differs.
      pictures: how many.
    """

    figure: str
    first: float
    second: float
    low: float
    high: float
    p_value: float
    pictures: int


def compare(first: epath.PathLike, second: epath.PathLike, split: str = "test") -> list[Difference]:
    """Returns the differences between two runs.

    Args:
      first: folder of a finished run.
      second: folder of another.
      split: whose pictures.

    Raises:
      ConfigError: an address that is no folder.
      DataError: a folder holds no table of the split, or the tables are of other pictures, other
        references or frames, or other tolerances.
    """
    tables = [_read(run_folder(workdir) / "eval" / f"{split}.csv") for workdir in (first, second)]
    if tables[0].keys() != tables[1].keys():
        common = len(tables[0].keys() & tables[1].keys())
        raise DataError(
            second,
            f"has {len(tables[1])} pictures, {common} shared with the {len(tables[0])} of {first}",
            "compare figures of the same pictures, such as of runs with the same data.splits",
        )
    _check_same_references(first, second, *tables)
    _check_same_tolerance(first, second, split)
    return [_differ(figure, *tables) for figure in FIGURES]


def _check_same_references(
    first: epath.PathLike, second: epath.PathLike, table: Table, other: Table
) -> None:
    """Raises DataError where pictures of one id differ in the size of their reference."""
    ids = sorted(key for key in table if table[key][REFERENCE] != other[key][REFERENCE])
    if ids:
        ours, theirs = (int(rows[ids[0]][REFERENCE]) for rows in (table, other))
        raise DataError(
            second,
            f"{len(ids)} of {len(table)} references have another size than in {first}: that of "
            f"{ids[0]} has {theirs} pixels, not {ours}",
            "compare runs on the same files, at the same size",
        )


def _check_same_tolerance(first: epath.PathLike, second: epath.PathLike, split: str) -> None:
    """Raises DataError where surface Dice was measured at another tolerance."""
    expected, found = (_tolerance(run_folder(workdir), split) for workdir in (first, second))
    if found != expected:
        raise DataError(
            second,
            f"was evaluated with evaluation.tolerance_px={found}, {first} with {expected}",
            "evaluate one again by --mode=eval --config.evaluation.tolerance_px=VALUE",
        )


def _tolerance(workdir: epath.Path, split: str) -> float:
    """Returns the tolerance of the surface Dice in a table, in pixels."""
    try:
        return float(evaluation_report.read_summary(workdir)[split]["tolerance_px"])
    except (OSError, ValueError, TypeError, KeyError) as error:
        fault = f"does not tell the tolerance of surface Dice ({type(error).__name__})"
        raise DataError(workdir / "metrics.json", fault, AGAIN) from error


def _differ(figure: str, first: Table, second: Table) -> Difference:
    pairs = np.array([(first[key][figure], second[key][figure]) for key in sorted(first)])
    values = pairs[np.isfinite(pairs).all(axis=1)]
    if not len(values):
        return Difference(figure, *[math.nan] * 5, pictures=0)
    change = values[:, 1] - values[:, 0]
    random = np.random.default_rng(0)
    means = [random.choice(change, len(change)).mean() for _ in range(RESAMPLES)]
    low, high = np.percentile(means, [2.5, 97.5])
    test = np.asarray(wilcoxon(change) if change.any() else (0.0, 1.0), np.float64)
    mean = values.mean(axis=0)
    return Difference(
        figure,
        float(mean[0]),
        float(mean[1]),
        float(low),
        float(high),
        float(test[1]),
        len(values),
    )


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
    if REFERENCE not in rows[0]:
        remedy = "compare with the version that wrote it, or train the run again"
        raise DataError(path, f"has no column {REFERENCE}", remedy)
    names = (*FIGURES, REFERENCE)
    return {row["id"]: {name: _number(path, row, name) for name in names} for row in rows}


def _number(path: epath.Path, row: dict[str, str | None], name: str) -> float:
    """Returns a number of a row, NaN where a figure has no meaning and its cell is empty."""
    cell = row[name]
    if cell == "" and name in FIGURES:
        return math.nan
    try:
        number = float(cell or "")
    except ValueError:
        number = math.nan
    # A row that was cut short has no cell.
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
    rows = [
        [
            difference.figure,
            f"{difference.first:.4f}",
            f"{difference.second:.4f}",
            f"{difference.second - difference.first:+.4f}",
            f"{difference.low:+.4f} to {difference.high:+.4f}",
            f"{difference.p_value:.2g}",
            str(difference.pictures),
        ]
        for difference in compare(runs[0], runs[1], str(split.value))
    ]
    header = ["figure", "first", "second", "second - first", "95 % interval", "p", "images"]
    terminal.show(terminal.table(header, rows))


if __name__ == "__main__":
    sys.exit(main(sys.argv))
