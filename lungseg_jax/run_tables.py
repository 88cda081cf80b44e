"""The tables of finished runs, and what makes them comparable."""

import collections
import csv
import dataclasses
import functools
import itertools
import math
import os
from collections.abc import Mapping, Sequence

import numpy as np
from etils import epath
from jaxtyping import Bool, Float64

from lungseg_jax import evaluation_report, terminal
from lungseg_jax.errors import ConfigError, DataError, UserError
from lungseg_jax.metrics import DISTANCES, SIDE_FIGURES
from lungseg_jax.paths import read_file, run_folder
from lungseg_jax.workdir import measured_by, read_splits, read_starts, recipe_differences

# Metrics that are compared: those in pixels between files of one size, those in percent of the
# longer side between others, and optional ones if all tables have them.
_IN_PIXELS = ("hd95_px", "assd_px", "surface_dice")
_IN_PERCENT = ("hd95_percent", "assd_percent")
_OPTIONAL = (*SIDE_FIGURES, "hd95_mm", "surface_dice_mm")
COMPARED = ("dice", "iou", *_IN_PIXELS, *_IN_PERCENT, *_OPTIONAL)

# The folder of a finished run, or those of the seeds or the folds of a recipe.
Runs = epath.PathLike | Sequence[epath.PathLike]

AGAIN = "evaluate the run again by --mode=eval, or validate again"


@dataclasses.dataclass(frozen=True)
class Table:
    """Metrics of a run's images.

    Attributes:
      workdir: the run's folder.
      tolerance_px: tolerance of surface Dice in pixels.
      tolerance_mm: that in mm.
      patients: each image's patient, by the image's id.
      reference_px: pixels of each image's reference, which identify reference and frame.
      sizes: the longer sides of the files.
      optional: which of the optional metrics it has; of those in mm, for all of its images.
      metrics: of each image those of `COMPARED`; NaN where one has no meaning.
    """

    workdir: epath.Path
    tolerance_px: float
    tolerance_mm: float
    patients: dict[str, str]
    reference_px: dict[str, int]
    sizes: frozenset[int]
    optional: frozenset[str]
    metrics: dict[str, list[float]]


def read_tables(groups: Sequence[Runs], split: str) -> list[list[Table]]:
    """Returns the tables of groups of runs; a group's are of the same images, or of none in common.

    Args:
      groups: the runs of each group.
      split: the split whose images the tables are of.

    Raises:
      ConfigError: an address that is not a folder, or a group without a run.
      DataError: a folder holds no table of the split, a run is given twice, a group's tables share
        some of their images, or tables differ in references, frames or tolerances.
    """
    folders = [[group] if isinstance(group, str | os.PathLike) else group for group in groups]
    if not all(folders):
        raise ConfigError("runs", "none is given", "name the folders of finished runs")
    tables = [[_read(run_folder(workdir), split) for workdir in group] for group in folders]
    first, *others = itertools.chain(*tables)
    for other in others:
        _check_same_tolerance(first, other)
    _check_given_once([first, *others])
    for group in tables:
        _check_seeds_or_folds(group)
    for before, other in itertools.combinations([first, *others], 2):
        _check_same_references(before, other)
    return tables


def which_checkpoint(workdir: epath.PathLike, split: str) -> str:
    """Returns which checkpoint a run's table is of, as text: `--mode=eval --step` changes it."""
    summary = evaluation_report.read_summary(run_folder(workdir))[split]
    if "checkpoint_step" not in summary:
        return os.fspath(workdir)
    asked = "" if summary["checkpoint_is_best"] else ", which is not the best"
    return f"{os.fspath(workdir)}, checkpoint of step {summary['checkpoint_step']}{asked}"


def say_if_recipes_differ(runs: Sequence[epath.PathLike]) -> None:
    """Says in what runs differ that count as the seeds or the folds of one recipe.

    Raises:
      ConfigError: the configuration of a run cannot be read.
    """
    folders = [run_folder(workdir) for workdir in runs]
    differences = recipe_differences(folders)
    commands = [measured_by(folder) for folder in folders]
    if len({*commands}) > 1:
        differences["the command that measured"] = commands
    if trained_on := _other_images(folders):
        differences["the number of images to train on"] = trained_on
    if differences:
        told = "; ".join(
            f"{key} is {', '.join(str(value) for value in values)}"
            for key, values in differences.items()
        )
        terminal.say(f"Not runs of one recipe, so that they differ by more than chance: {told}")


def say_if_builders_differ(runs: Sequence[epath.PathLike]) -> None:
    """Says if runs were measured on records of several versions of the builder.

    Only runs that tell theirs count: those of earlier versions do not, nor do validations.
    """
    starts = [read_starts(run_folder(workdir)) for workdir in runs]
    told = (one[-1].get("builder") for one in starts if one)
    versions = {str(version) for version in told if version is not None}
    if len(versions) > 1:
        terminal.say(
            f"The runs' records are of versions {', '.join(sorted(versions))} of the builder, "
            "which may read some images otherwise"
        )


def say_if_nothing_counts(images_of_nothing: Mapping[str, int]) -> None:
    """Says why means are not those of the runs' own figures, where images have no lung.

    Args:
      images_of_nothing: by metric, the images where some run rightly found nothing.
    """
    if empty := images_of_nothing.get("dice"):
        terminal.say(
            f"{empty} of the images have no lung: a run that finds none there counts with the best "
            "value, and not, as in its own figures, with none."
        )


def _other_images(folders: Sequence[epath.Path]) -> list[int]:
    """Returns how many images each run was trained on, if others, though they have one test split.

    Nothing if they are the same, or not known.
    """
    try:
        splits = [read_splits(folder) for folder in folders]
    except UserError:
        return []
    tested, trained = ({tuple(sorted(of[name])) for of in splits} for name in ("test", "train"))
    seeds = len(tested) == 1
    return [len(of["train"]) for of in splits] if seeds and len(trained) > 1 else []


def metrics_to_show(tables: Sequence[Table]) -> list[int]:
    """Returns the places in `COMPARED` of what all tables have and suits files of their sizes."""
    sizes = frozenset().union(*(table.sizes for table in tables))
    shared = frozenset.intersection(*(table.optional for table in tables))
    hidden = {*_OPTIONAL} - shared | {*(_IN_PIXELS if len(sizes) > 1 else _IN_PERCENT)}
    if len({table.tolerance_mm for table in tables}) > 1:
        hidden.add("surface_dice_mm")
    return [place for place, metric in enumerate(COMPARED) if metric not in hidden]


def images_and_patients(tables: Sequence[Table]) -> tuple[list[str], list[str]]:
    """Returns the ids of all images, sorted, and the patient of each."""
    patient_of = {name: patient for table in tables for name, patient in table.patients.items()}
    ids = sorted(patient_of)
    return ids, [patient_of[name] for name in ids]


def metrics_of_runs(
    tables: Sequence[Table], ids: Sequence[str]
) -> tuple[Float64[np.ndarray, "r n f"], Bool[np.ndarray, "r n f"]]:
    """Returns each run's metrics of all images, and which of them are the best for finding nothing.

    A metric is NaN where a run has not measured an image. What a run lacks of an image that it has
    measured, and another run has, is the best value: where the reference is empty (of a lung, for
    its Dice), this run rightly found nothing.
    """
    nothing = [math.nan] * len(COMPARED)
    runs = np.array([[table.metrics.get(name, nothing) for name in ids] for table in tables])
    measured = np.array([[name in table.metrics for name in ids] for table in tables])
    best = np.array([0.0 if metric in DISTANCES else 1.0 for metric in COMPARED])
    right = np.isnan(runs) & measured[..., None] & ~np.isnan(runs).all(axis=0)
    return np.where(right, best, runs), right


def deviation_of_runs(runs: Float64[np.ndarray, "r n"]) -> float:
    """Returns the standard deviation of the runs' means; NaN if they are not of the same images."""
    return float(runs.mean(axis=1).std(ddof=1)) if len(runs) > 1 and runs.size else math.nan


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


def _tolerances(workdir: epath.Path, split: str) -> tuple[float, float]:
    """Returns the tolerances of the surface Dice in a table, in pixels and in mm."""
    try:
        summary = evaluation_report.read_summary(workdir)[split]
        return float(summary["tolerance_px"]), float(summary["tolerance_mm"])
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        fault = f"does not tell the tolerance of surface Dice ({type(error).__name__})"
        raise DataError(workdir / "metrics.json", fault, AGAIN) from error


def _read(workdir: epath.Path, split: str) -> Table:
    path = workdir / "eval" / f"{split}.csv"
    try:
        rows = list(csv.DictReader(read_file(path).splitlines()))
    except OSError as error:
        remedy = "give finished runs, or with --split=external folders of validate or measure"
        raise DataError(path, error.strerror or "not readable", remedy) from error
    except (UnicodeDecodeError, csv.Error):
        rows = []
    if not rows or not {"id", "dice"} <= rows[0].keys():
        raise DataError(path, "is not a table of an evaluation", "give finished runs")
    for name in (*COMPARED, "patient", "reference_px", "height", "width"):
        if name not in rows[0] and name not in _OPTIONAL:
            raise DataError(path, f"has no column {name}", AGAIN)
    metrics = {row["id"]: [_number(path, row, name) for name in COMPARED] for row in rows}
    if len(metrics) < len(rows):
        raise DataError(path, "has an image twice", AGAIN)
    return Table(
        workdir,
        *_tolerances(workdir, split),
        {row["id"]: row["patient"] for row in rows},
        {row["id"]: int(_number(path, row, "reference_px")) for row in rows},
        _sizes(path, rows),
        frozenset(filter(functools.partial(_has, rows), _OPTIONAL)),
        metrics,
    )


def _sizes(path: epath.Path, rows: Sequence[dict[str, str | None]]) -> frozenset[int]:
    """Returns the longer sides of a table's images."""
    sides = ("height", "width")
    return frozenset(int(max(_number(path, row, side) for side in sides)) for row in rows)


def _has(rows: Sequence[dict[str, str | None]], metric: str) -> bool:
    """Whether a table has an optional metric: in mm, of all images that have one in pixels."""
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
