"""Sums up the runs of one recipe: the folds of a cross-validation, or several seeds.

Usage: python -m lungseg_jax.summarize RUN… [--split=test] [--output=FILE.json]

RUN…           folders of finished runs, of the same images (seeds) or of none in common (folds)
--split=NAME   test (default) or val; external, of folders of lungseg_jax.validate or measure
--output=FILE  the same as JSON, with each run's means

Each image counts once, with its mean over the runs that measured it. The interval is about other
patients, the standard deviation of the runs' means about other folds or seeds.
"""

import dataclasses
import itertools
import json
import math
import os
import sys
from collections.abc import Sequence

import numpy as np
from absl import flags
from etils import epath

from lungseg_jax import terminal
from lungseg_jax.command import run_command
from lungseg_jax.command_line import parse_flags
from lungseg_jax.errors import DataError
from lungseg_jax.intervals import MIN_PATIENTS
from lungseg_jax.metrics import decimals, metric_intervals
from lungseg_jax.paths import local_path, write_whole
from lungseg_jax.run_tables import (
    COMPARED,
    Runs,
    images_and_patients,
    metrics_of_runs,
    metrics_to_show,
    read_tables,
    say_if_builders_differ,
    say_if_nothing_counts,
    say_if_recipes_differ,
    which_checkpoint,
)

# The key by which this command knows a file of its own.
KEY = "metrics_of_runs"


@dataclasses.dataclass(frozen=True, kw_only=True)
class MetricOfRuns:
    """A metric of the runs of one recipe.

    Attributes:
      metric: its name.
      mean: mean over the images.
      interval: its 95 % interval over patients; `None` for few. See `metric_intervals`.
      run_means: each run's mean; `None` where a run has no image with the metric.
      deviation: standard deviation of these; `None` for fewer than two.
      images: number of images that have the metric.
      images_of_nothing: number of those of them where the reference is empty (of this lung, for its
        Dice) and some run rightly found nothing: it counts with the metric's best value.
      patients: number of their patients.
    """

    metric: str
    mean: float
    interval: tuple[float, float] | None
    run_means: tuple[float | None, ...]
    deviation: float | None
    images: int
    images_of_nothing: int
    patients: int


def summarize_runs(runs: Runs, split: str = "test") -> list[MetricOfRuns]:
    """Returns the metrics of runs, over all their images.

    Args:
      runs: folders of finished runs: the seeds, or the folds, of a recipe.
      split: the split whose images count.

    Raises:
      ConfigError: an address that is not a folder.
      DataError: a folder holds no table of the split, a run is given twice, or the tables share
        some of their images, or differ in references, frames or tolerances.
    """
    (tables,) = read_tables([runs], split)
    ids, patients = images_and_patients(tables)
    runs_of_all, of_nothing = metrics_of_runs(tables, ids)
    counts = (~np.isnan(runs_of_all)).sum(axis=0)
    # Sums, because NumPy warns of the mean of nothing.
    values = np.where(counts, np.nansum(runs_of_all, axis=0) / np.maximum(counts, 1), np.nan)
    intervals = metric_intervals(COMPARED, values, patients)
    found = []
    for column in metrics_to_show(tables):
        has = counts[:, column] > 0
        if not has.any():
            continue
        run_means = [
            None if np.isnan(run).all() else float(np.nanmean(run))
            for run in runs_of_all[..., column]
        ]
        known = [mean for mean in run_means if mean is not None]
        low, high = intervals[column].tolist()
        found.append(
            MetricOfRuns(
                metric=COMPARED[column],
                mean=float(values[has, column].mean()),
                interval=None if math.isnan(low) else (low, high),
                run_means=tuple(run_means),
                deviation=float(np.std(known, ddof=1)) if len(known) > 1 else None,
                images=int(has.sum()),
                images_of_nothing=int(np.any(of_nothing[..., column], axis=0).sum()),
                patients=len(set(itertools.compress(patients, has))),
            )
        )
    return found


def main(arguments: Sequence[str]) -> int:
    """Prints the sums; returns the exit code."""
    again = "run the same command to start over"
    return run_command(arguments, str(__doc__), lambda: _run(arguments), again)


def _run(arguments: Sequence[str]) -> None:
    values = flags.FlagValues()
    split = flags.DEFINE_enum(
        "split", "test", ["test", "val", "external"], "Split.", flag_values=values
    )
    path = flags.DEFINE_string("output", None, "JSON file.", flag_values=values)
    runs = parse_flags(values, arguments)
    output = None if path.value is None else _free(path.value)
    found = summarize_runs(runs, str(split.value))
    for place, workdir in enumerate(runs):
        dice = next((one.run_means[place] for one in found if one.metric == "dice"), None)
        shown = "" if dice is None else f": Dice {dice:.4f}"
        terminal.say(f"{which_checkpoint(workdir, str(split.value))}{shown}")
    terminal.show(_table(found))
    say_if_recipes_differ(runs)
    say_if_builders_differ(runs)
    say_if_nothing_counts({one.metric: one.images_of_nothing for one in found})
    if any(one.patients < MIN_PATIENTS for one in found):
        terminal.say(f"Of fewer than {MIN_PATIENTS} patients there is no interval.")
    if output is not None:
        content = {
            "runs": [os.fspath(run) for run in runs],
            "split": split.value,
            KEY: {one.metric: dataclasses.asdict(one) for one in found},
        }
        write_whole(output, (json.dumps(content, indent=2) + "\n").encode())


def _free(path: str) -> epath.Path:
    """Returns the file to write to, which may hold what an earlier call wrote.

    Raises:
      DataError: it holds something else, or lies in no folder.
    """
    output = local_path(path)
    if not output.parent.is_dir():
        raise DataError(output, "lies in no folder", "make the folder, or give another --output")
    if output.exists():
        try:
            ours = KEY in json.loads(output.read_text())
        except (OSError, ValueError, TypeError):
            ours = False
        if not ours:
            fault = "was not written by this command"
            raise DataError(output, fault, "give another --output")
    return output


def _table(found: Sequence[MetricOfRuns]) -> str:
    """Returns the metrics as text."""
    header = ["metric", "mean", "95 % interval", "SD of runs", "runs", "images", "patients"]
    return terminal.table(header, [_row(one) for one in found])


def _row(one: MetricOfRuns) -> list[str]:
    digits = decimals(one.metric)
    low, high = one.interval or (None, None)
    return [
        one.metric,
        f"{one.mean:.{digits}f}",
        "-" if low is None else f"{low:.{digits}f} to {high:.{digits}f}",
        "-" if one.deviation is None else f"{one.deviation:.{digits}f}",
        str(len(one.run_means) - one.run_means.count(None)),
        str(one.images),
        str(one.patients),
    ]


if __name__ == "__main__":
    sys.exit(main(sys.argv))
