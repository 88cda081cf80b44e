"""Labelled images that no run has split, such as another hospital's, and the figures of masks."""

import collections
import contextlib
import dataclasses
import json
import math
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar, cast

import numpy as np
from absl import flags
from etils import epath
from jaxtyping import Bool, UInt8

from lungseg_jax import evaluation_report, terminal
from lungseg_jax.command_line import READING_KEYS, define_keys, parse_flags_alone
from lungseg_jax.config import Config, DataConfig, EvaluationConfig, resolve
from lungseg_jax.data.labels import channels, has_sides
from lungseg_jax.errors import ConfigError, DataError, NotFrontalError
from lungseg_jax.imaging.files import why_no_file
from lungseg_jax.imaging.overlay import draw_overlay
from lungseg_jax.imaging.radiograph import read_options
from lungseg_jax.metrics import NAN, ImageMetrics, measure_masks, name_patients
from lungseg_jax.paths import VALIDATION, local_path, make_folder, write_whole
from lungseg_jax.runtime.alone import alone_in
from lungseg_jax.runtime.cores import num_readers
from lungseg_jax.runtime.environment import environment
from lungseg_jax.runtime.sandbox import Sandboxes
from lungseg_jax.workdir import measured_by
from tfds_builder.read_case import Labelled
from tfds_builder.sources import Case, FolderPatterns, list_source
from tfds_builder.splits import read_split_file

Reading = TypeVar("Reading")
Row = TypeVar("Row", bound="ExternalMetrics")

# What the images are called in place of a run's splits.
SPLIT = "external"

# Keys of `DataConfig`: which images, and what happens to bad ones.
IMAGE_KEYS = (
    "source", "manual_dir", "images", "masks", "splits", "on_error", "max_bad_share", "sex_and_age",
)  # fmt: skip

# Keys of `EvaluationConfig`.
TOLERANCE_KEYS = ("tolerance_px", "tolerance_mm")

# Most left-out images, and kinds of notes, that are named at the end.
MOST_SHOWN = 20


@dataclasses.dataclass(frozen=True)
class ExternalMetrics(ImageMetrics):
    """Metrics of the mask of one image.

    Attributes:
      notes: corrections of the image, and doubts about its reference.
    """

    notes: str = dataclasses.field(kw_only=True)


@dataclasses.dataclass(frozen=True)
class Figures:
    """Metrics of images, and which have none.

    Attributes:
      rows: the metrics.
      cases: their images.
      left_out: why others are left out.
    """

    rows: Sequence[ExternalMetrics]
    cases: Sequence[Case]
    left_out: Sequence[DataError]


class Reader:
    """Reads labelled images in worker processes.

    Args:
      sandboxes: the processes.
      data: how images are read, and what happens to bad ones.
    """

    def __init__(self, sandboxes: Sandboxes, data: DataConfig) -> None:
        self.stop = sandboxes.stop
        self._sandboxes, self._data, self._options = sandboxes, data, read_options(data)
        # Only which images share a patient is reported: nobody needs the key again.
        self._key = secrets.token_bytes(32)

    def read(
        self, case: Case, function: Callable[..., Reading], *arguments: object
    ) -> Reading | DataError:
        """Returns what a function reads of a case, or why the case is left out.

        Args:
          case: the image and its masks.
          function: takes the case, options, a key for patients' identifiers, and `arguments`.
          *arguments: see above.

        Raises:
          DataError: the image is bad, and bad ones are not skipped.
        """
        try:
            for path in case.files():
                if fault := why_no_file(path):
                    raise DataError(path, fault, "replace or remove it")
            given = case, self._options, self._key, *arguments
            return self._sandboxes.call(case.image, function, *given)
        except NotFrontalError as error:
            return error
        except DataError as error:
            if self._data.on_error == "fail":
                remedy = f"{error.remedy}, or leave bad files out: --config.data.on_error=skip"
                raise DataError(error.subject, error.fault, remedy) from error
            return error


def parse(values: flags.FlagValues, arguments: Sequence[str]) -> tuple[str, Config]:
    """Returns the folder for figures, and which images are measured, how they are read, tolerances.

    Args:
      values: where the flags that only one command has are defined; they are parsed, too.
      arguments: the command's arguments.

    Raises:
      ConfigError: an unknown flag or key, no folder, a value out of range, or phantoms, which have
        no files.
    """
    given = list(arguments)
    output = flags.DEFINE_string("output", None, "Where figures go.", flag_values=values)
    data = {key: getattr(DataConfig(), key) for key in (*IMAGE_KEYS, *READING_KEYS)}
    tolerances = {key: getattr(EvaluationConfig(), key) for key in TOLERANCE_KEYS}
    # The default source is the layout that every folder can have.
    keys = {"data": data | {"source": "folder"}, "evaluation": tolerances}
    config = define_keys(values, given, keys)
    parse_flags_alone(values, given)
    if not output.value:
        raise ConfigError("--output", "is missing", "give the folder that figures go to")
    if config.value.data.source == "phantom":
        remedy = "read them as source folder, with --config.data.masks='masks/*/{stem}*'"
        raise ConfigError("data.source", "is phantom, which only training generates", remedy)
    return output.value, resolve(config.value)


def list_cases(data: DataConfig) -> list[Case]:
    """Returns the labelled images of a folder or, where `data.splits` is given, of its test split.

    Raises:
      ConfigError: the split file is not of these images.
      DataError: the folder is not of its layout, or holds no labelled image.
    """
    patterns = FolderPatterns(data.images, data.masks)
    listing = list_source(data.source, data.manual_dir, patterns)
    terminal.say(f"{data.source}: {listing.describe()}")
    if not data.splits:
        return list(listing.cases)
    wanted = set(read_split_file(data.splits)["test"])
    if unknown := wanted - {case.example_id for case in listing.cases}:
        fault = f"test lists {min(unknown)!r}, which is not in the data"
        raise ConfigError(data.splits, fault, "give the file of these images")
    terminal.say(f"{data.splits}: {len(wanted)} images are of its test split")
    return [case for case in listing.cases if case.example_id in wanted]


def free_output(output: epath.PathLike, command: str) -> epath.Path:
    """Returns the folder for figures, which may hold those of an earlier call of the command.

    Raises:
      DataError: it is not on disk, or holds figures of a run, of another command, or files of
        someone else.
    """
    output = local_path(output)
    if (output / VALIDATION).exists():
        if (writer := measured_by(output)) != command:
            fault = f"holds figures of lungseg_jax.{writer}"
            raise DataError(output, fault, "give another --output")
        terminal.say(f"Figures of an earlier call in {output} will be replaced")
        return output
    overlays = [f"overlays/{rank}.png" for rank in ("best", "median", "worst")]
    for name in ("config.json", "metrics.json", f"eval/{SPLIT}.csv", *overlays):
        if (output / name).exists():
            fault = "was not written by this command"
            raise DataError(output / name, fault, "give another --output")
    return output


@contextlib.contextmanager
def reader_of(output: epath.Path, data: DataConfig, function: Callable) -> Iterator[Reader]:
    """Yields a reader, and keeps other calls out of the output folder, which is made if need be.

    Args:
      output: the folder.
      data: how images are read.
      function: what will read them.

    Raises:
      DataError: the folder cannot be made, or is in use.
    """
    make_folder(output)
    with (
        alone_in(output, "wait for its end, or give another --output"),
        Sandboxes(num_readers(), read_options(data).memory_bytes, function) as sandboxes,
    ):
        yield Reader(sandboxes, data)


def collect(
    cases: Sequence[Case],
    answers: Iterable[ExternalMetrics | DataError],
    data: DataConfig,
    activity: str,
) -> Figures:
    """Returns the metrics of all images, whose answers come in their order.

    Args:
      cases: the images.
      answers: the metrics of each, or why it is left out.
      data: how many images may be bad.
      activity: what the progress bar says.

    Raises:
      DataError: all are left out, or too many are bad.
    """
    rows: list[ExternalMetrics] = []
    taken: list[Case] = []
    left_out: list[DataError] = []
    with terminal.progress(activity, len(cases), "image") as bar:
        for case, answer in zip(cases, answers, strict=True):
            if isinstance(answer, DataError):
                left_out.append(answer)
            else:
                rows.append(answer)
                taken.append(case)
            bar.update()
    if len(left_out) == len(cases):
        fault = f"all {len(cases)} labelled images are left out ({left_out[0].fault})"
        raise DataError(data.manual_dir, fault, "name other images; docs/data.md says why")
    bad = [error for error in left_out if not isinstance(error, NotFrontalError)]
    if len(bad) > data.max_bad_share * len(cases):
        fault = f"{len(bad)} of {len(cases)} images are bad ({bad[0].fault})"
        raise DataError(data.manual_dir, fault, "fix them, or raise data.max_bad_share")
    return Figures(name_patients(_with_sides_that_are_told(rows)), taken, left_out)


def _with_sides_that_are_told(rows: Sequence[Row]) -> list[Row]:
    """Returns the rows, those with an empty mask without sides if no other of the source has them.

    An empty mask has no sides to tell, and fails on both only where others tell them.
    """

    def both_there(row: ExternalMetrics) -> bool:
        return bool(row.predicted_px and row.reference_px)

    telling = {
        row.source
        for row in rows
        if both_there(row) and not (math.isnan(row.dice_right) and math.isnan(row.dice_left))
    }
    return [
        row
        if both_there(row) or row.source in telling
        else dataclasses.replace(row, dice_right=NAN, dice_left=NAN)
        for row in rows
    ]


def metrics_of(
    kind: type[Row],
    case: Case,
    labelled: Labelled,
    found: UInt8[np.ndarray, "h w"],
    evaluation: EvaluationConfig,
    **others: object,
) -> Row:
    """Returns the metrics of a mask.

    Args:
      kind: the type of the metrics.
      case: the image.
      labelled: the image as it was read.
      found: the mask, with a bit for each `Structure`, in the frame of the file.
      evaluation: tolerances of surface Dice.
      **others: what `kind` has beyond `ExternalMetrics`.
    """
    clinical = labelled.clinical
    figures = measure_masks(
        *_masks(labelled, found),
        spacing_mm=labelled.radiograph.stored_spacing_mm,
        tolerance_px=evaluation.tolerance_px,
        tolerance_mm=evaluation.tolerance_mm,
    )
    return kind(
        case.example_id,
        case.source,
        patient=labelled.patient_id,
        finding=clinical.finding,
        sex=clinical.sex,
        age_years=NAN if clinical.age_years is None else clinical.age_years,
        notes="; ".join(labelled.radiograph.notes + labelled.mask_notes),
        **cast(Any, figures),
        **cast(Any, others),
    )


def overlay_of(labelled: Labelled, found: UInt8[np.ndarray, "h w"]) -> UInt8[np.ndarray, "y x 3"]:
    """Returns RGB pixels of an image, upright, with its reference and a mask of `metrics_of`."""
    upright = labelled.radiograph.orientation.to_upright
    masks = (
        np.stack([upright(mask) for mask in np.moveaxis(classes, -1, 0)], axis=-1)
        for classes in _masks(labelled, found)
    )
    return draw_overlay(labelled.radiograph.pixels, *masks)


def _masks(
    labelled: Labelled, found: UInt8[np.ndarray, "h w"]
) -> tuple[Bool[np.ndarray, "h w c"], Bool[np.ndarray, "h w c"]]:
    """Returns a mask and its reference: of each side where both tell the sides.

    So it shows if one takes the right lung for the left.
    """
    labels = "left_right" if has_sides(found) and has_sides(labelled.mask) else "lungs"
    found_classes, reference = (
        channels(mask[..., None], labels, "mask") > 0 for mask in (found, labelled.mask)
    )
    return found_classes, reference


def write_figures(
    output: epath.Path,
    figures: Figures,
    overlay: Callable[[Case], UInt8[np.ndarray, "h w 3"]],
    more: Mapping[str, object],
    evaluation: EvaluationConfig,
    made_with: Mapping[str, object],
) -> evaluation_report.Summary:
    """Writes metrics, tables and overlays, and says what is odd; returns `metrics.json`.

    Args:
      output: the folder.
      figures: the metrics.
      overlay: draws an image with its masks.
      more: what the summary has besides the metrics of all images.
      evaluation: the tolerances they were measured at.
      made_with: what was measured, for `validation.json`.
    """
    rows = figures.rows
    ranked = evaluation_report.images_to_show(rows)
    overlays = {position: overlay(figures.cases[position]) for position in ranked.values()}
    reasons = [f"{error.subject}: {error.fault}" for error in figures.left_out]
    evaluation_report.remove_summary(output)
    note = {**made_with, "left_out": reasons, **environment()}
    write_whole(output / VALIDATION, (json.dumps(note, indent=2) + "\n").encode())
    tolerances = {key: getattr(evaluation, key) for key in TOLERANCE_KEYS}
    of_all = evaluation_report.write_split(output, SPLIT, rows)
    shown = {"overlays": evaluation_report.ids_of(rows, ranked)}
    summary = {SPLIT: {**more, "num_left_out": len(reasons), **tolerances, **of_all, **shown}}
    evaluation_report.write_summary(output, summary)
    for earlier in output.glob("overlays/worst_*.png"):
        earlier.unlink()
    evaluation_report.write_overlays(output, rows, ranked, overlays)
    _say_if_sides_are_exchanged(rows)
    _say_if_made_from_each_other(rows)
    notes = (told for row in rows for told in filter(None, row.notes.split("; ")))
    # Doubtful references make doubtful figures.
    by_kind: dict[str, list[str]] = collections.defaultdict(list)
    for told in notes:
        by_kind[terminal.without_numbers(told)].append(told)
    for alike in sorted(by_kind.values(), key=len, reverse=True)[:MOST_SHOWN]:
        terminal.say(f"noted of {len(alike)} of {len(rows)} images: {alike[0]}")
    for reason in reasons[:MOST_SHOWN]:
        terminal.say(f"left out: {reason}")
    if len(reasons) > MOST_SHOWN:
        terminal.say(f"and {len(reasons) - MOST_SHOWN} more")
    return summary


def what_is_read(data: DataConfig) -> dict[str, object]:
    """Returns the keys that say which images were measured, and how they were read."""
    keys = dataclasses.asdict(data)
    return {key: keys[key] for key in (*IMAGE_KEYS, *READING_KEYS)}


def say_figures(shown: evaluation_report.Summary, output: epath.PathLike) -> None:
    """Says the figures, those of all images first, and where they are."""
    areas = evaluation_report.areas_in_words(shown[SPLIT])
    words = [evaluation_report.closing_table(shown), *filter(None, [areas])]
    terminal.say("\n" + "\n\n".join([*words, f"Figures and images: {output}"]))


def _say_if_made_from_each_other(rows: Sequence[ExternalMetrics]) -> None:
    """Warns if masks equal their references, as no two readers' do."""
    equal = [row for row in rows if row.reference_px and row.dice == 1]
    if equal:
        terminal.say(
            f"{len(equal)} of {len(rows)} masks are their references to the pixel, such as that of "
            f"{equal[0].id}: if one was made from the other, these figures mean nothing"
        )


def _say_if_sides_are_exchanged(rows: Sequence[ExternalMetrics]) -> None:
    """Warns if lungs are found, but taken for the other side's."""
    exchanged = [row for row in rows if row.dice > 0.5 and max(row.dice_right, row.dice_left) < 0.1]
    if exchanged:
        terminal.say(
            f"Masks and references differ in what is right and left in {len(exchanged)} of "
            f"{len(rows)} images, such as {exchanged[0].id}: check that left masks are of the "
            "patient's left"
        )
