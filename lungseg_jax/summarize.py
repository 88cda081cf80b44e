"""Sums up the runs of one recipe: the folds of a cross-validation, or several seeds.

Usage: python -m lungseg_jax.summarize RUN… [--split=test] [--output=FILE.json]

RUN…           folders of finished runs, of the same images (seeds) or of none in common (folds)
--split=NAME   test (default) or val; external, of folders of lungseg_jax.validate
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

from lungseg_jax import terminal
from lungseg_jax.command import run_command
from lungseg_jax.command_line import parse_flags
from lungseg_jax.errors import ConfigError
from lungseg_jax.intervals import MIN_PATIENTS, mean_intervals
from lungseg_jax.run_tables import COMPARED, Runs, metrics_run_means, metrics_to_show, read_tables
from lungseg_jax.workdir import run_folder, write_whole


@dataclasses.dataclass(frozen=True, kw_only=True)
class MetricOfRuns:
    """A metric of the runs of one recipe.

    Attributes:
      metric: its name.
      mean: mean over the images.
      interval: its 95 % interval over patients; `None` for few. See `mean_intervals`.
      run_means: each run's mean.
      deviation: standard deviation of these; `None` for one run.
      images: number of images that have the metric.
      patients: number of their patients.
    """

    metric: str
    mean: float
    interval: tuple[float, float] | None
    run_means: tuple[float, ...]
    deviation: float | None
    images: int
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
    patient_of = {name: patient for table in tables for name, patient in table.patients.items()}
    ids = sorted(patient_of)
    patients = [patient_of[name] for name in ids]
    runs_of_all = metrics_run_means(tables, ids)
    counts = (~np.isnan(runs_of_all)).sum(axis=0)
    # Sums, because NumPy warns of the mean of nothing.
    values = np.where(counts, np.nansum(runs_of_all, axis=0) / np.maximum(counts, 1), np.nan)
    intervals = mean_intervals(values, patients)
    found = []
    for column in metrics_to_show(tables):
        has = counts[:, column] > 0
        if not has.any():
            continue
        run_means = [
            float(np.nanmean(run)) for run in runs_of_all[..., column] if not np.isnan(run).all()
        ]
        low, high = intervals[column].tolist()
        found.append(
            MetricOfRuns(
                metric=COMPARED[column],
                mean=float(values[has, column].mean()),
                interval=None if math.isnan(low) else (low, high),
                run_means=tuple(run_means),
                deviation=float(np.std(run_means, ddof=1)) if len(run_means) > 1 else None,
                images=int(has.sum()),
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
    output = flags.DEFINE_string("output", None, "JSON file.", flag_values=values)
    runs = parse_flags(values, arguments)
    if not runs:
        raise ConfigError("command line", "no run is given", "name the folders of finished runs")
    found = summarize_runs(runs, str(split.value))
    terminal.show(_table(found))
    if min(one.patients for one in found) < MIN_PATIENTS:
        terminal.say(f"Of fewer than {MIN_PATIENTS} patients there is no interval.")
    if output.value:
        content = {
            "runs": [os.fspath(run) for run in runs],
            "split": split.value,
            "metrics": {one.metric: dataclasses.asdict(one) for one in found},
        }
        write_whole(run_folder(output.value), (json.dumps(content, indent=2) + "\n").encode())


def _table(found: Sequence[MetricOfRuns]) -> str:
    """Returns the metrics as text."""
    header = ["metric", "mean", "95 % interval", "SD of runs", "runs", "images", "patients"]
    rows = [
        [
            one.metric,
            f"{one.mean:.4f}",
            "-" if one.interval is None else f"{one.interval[0]:.4f} to {one.interval[1]:.4f}",
            "-" if one.deviation is None else f"{one.deviation:.4f}",
            str(len(one.run_means)),
            str(one.images),
            str(one.patients),
        ]
        for one in found
    ]
    return terminal.table(header, rows)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
