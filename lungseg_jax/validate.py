"""Measures on labelled images what predict makes of them, as those of another hospital.

Usage: python -m lungseg_jax.validate --config.data.manual_dir=FOLDER --output=DIR

--config.data.KEY=VALUE  the images, as for training: source (folder, if not given), manual_dir,
                         images (images/*), masks (masks/{stem}*); splits, a file of which only the
                         test split is measured; how they are read; on_error=skip leaves bad files
                         out, up to max_bad_share
--config.evaluation.KEY=VALUE  tolerance_px (2) and tolerance_mm (2) of surface Dice
--output=DIR             where metrics.json, validation.json, eval/external.csv and overlays/ go
--checkpoint=PATH        network to measure instead of the weights in the package: a file of
                         lungseg_jax.export, or the folder of a run; given several times, the
                         networks' mean
--both_ways              average with the prediction of the mirrored image, at twice the time

All images with a mask count, but those that their header calls something else than a frontal
chest. For the raw output of a run on its own test split: lungseg_jax.main --mode=eval.
"""

import collections
import contextlib
import dataclasses
import functools
import json
import secrets
import sys
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
from absl import flags
from etils import epath
from jaxtyping import Bool, UInt16

from lungseg_jax import evaluation_report, terminal
from lungseg_jax.command import run_command
from lungseg_jax.command_line import READING_KEYS, define_keys, parse_flags_alone
from lungseg_jax.config import Config, DataConfig, EvaluationConfig, Labels, resolve
from lungseg_jax.data.labels import channels, has_sides
from lungseg_jax.errors import ConfigError, DataError, NotFrontalError
from lungseg_jax.find_weights import PACKAGED, find_weights, say_if_seen, say_if_trained_on
from lungseg_jax.imaging.files import why_no_file
from lungseg_jax.imaging.opencv_memory import opencv_memory_errors
from lungseg_jax.imaging.overlay import draw_overlay
from lungseg_jax.imaging.radiograph import read_options
from lungseg_jax.metrics import NAN, ImageMetrics, measure_masks, name_patients
from lungseg_jax.paths import VALIDATION, local_path, make_folder, write_whole
from lungseg_jax.prediction.many import segment_many
from lungseg_jax.prediction.segmentation import Segmentation
from lungseg_jax.prediction.segmenter import Prediction, Segmenter
from lungseg_jax.runtime.alone import alone_in
from lungseg_jax.runtime.compilation_cache import use_compilation_cache
from lungseg_jax.runtime.cores import num_readers
from lungseg_jax.runtime.environment import environment
from lungseg_jax.runtime.sandbox import Sandboxes
from tfds_builder.build_report import without_numbers
from tfds_builder.read_case import Labelled, read_labelled
from tfds_builder.sources import Case, FolderPatterns, list_source
from tfds_builder.splits import read_split_file

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
class Validated(ImageMetrics):
    """Metrics of the mask that predict makes of an image, and predict's judgement of it.

    Attributes:
      status: `accepted` or `rejected`, as in `predictions.csv`.
      reason: what speaks against the mask.
      estimated_dice: the mask's estimated Dice.
      notes: corrections of the image, and doubts about its reference.
    """

    status: str = dataclasses.field(kw_only=True)
    reason: str = dataclasses.field(kw_only=True)
    estimated_dice: float = dataclasses.field(kw_only=True)
    notes: str = dataclasses.field(kw_only=True)


def validate(
    segmenter: Segmenter,
    data: DataConfig,
    output: epath.PathLike,
    networks: Sequence[tuple[str, Config]] = (),
    evaluation: EvaluationConfig = EvaluationConfig(),
) -> evaluation_report.Summary:
    """Measures masks of a folder's labelled images; writes and returns the metrics.

    Of all images, or, where `data.splits` names a file, of its test split.

    Args:
      segmenter: makes the masks.
      data: which images, and how they are read.
      output: folder to write to.
      networks: their names, for `validation.json`, and what they were trained with.
      evaluation: tolerances of surface Dice.

    Returns:
      What is in `metrics.json`: the figures of all images, of each source, and of those that
      predict accepts (`accepted`).

    Raises:
      ConfigError: the output is not on disk, or the split file is not of these images.
      DataError: there are no labelled images, one is bad while bad ones are not skipped, too many
        are bad, all are left out, or the output holds files of something else or is in use.
    """
    output = local_path(output)
    _check_free(output)
    patterns = FolderPatterns(data.images, data.masks)
    listing = list_source(data.source, data.manual_dir, patterns)
    terminal.say(f"{data.source}: {listing.describe()}")
    cases = _test_split(listing.cases, data.splits) if data.splits else listing.cases
    ids = [case.example_id for case in cases]
    for name, config in networks:
        say_if_seen(name, config, data.source, ids)
        say_if_trained_on(name, config.data, data, ids)
    make_folder(output)
    with (
        alone_in(output, "wait for its end, or give another --output"),
        Sandboxes(num_readers(), read_options(data).memory_bytes, read_labelled) as sandboxes,
    ):
        # Only which images share a patient is reported: nobody needs the key again.
        key = secrets.token_bytes(32)
        read = functools.partial(_read, sandboxes, data, segmenter.image_size, key)
        measure = functools.partial(_figures, segmenter, evaluation)
        rows, taken, left_out = _measure_all(segmenter, cases, read, measure, sandboxes.stop)
        _check_left_out(left_out, len(cases), data)
        ranked = evaluation_report.images_to_show(rows)
        overlays = {
            position: _overlay(segmenter, read(taken[position])) for position in ranked.values()
        }
        summary = {SPLIT: _summary(segmenter, rows, len(left_out), evaluation)}
        evaluation_report.remove_summary(output)
        _note(output, segmenter, data, [name for name, _ in networks], left_out)
        summary[SPLIT] |= evaluation_report.write_split(output, SPLIT, rows)
        evaluation_report.write_summary(output, summary)
        for earlier in output.glob("overlays/worst_*.png"):
            earlier.unlink()
        evaluation_report.write_overlays(output, rows, ranked, overlays)
    _say_if_sides_are_exchanged(rows)
    _say_what_is_noted(rows)
    _say_what_is_left_out(left_out)
    return summary


def _test_split(cases: Sequence[Case], splits: str) -> list[Case]:
    """Returns the cases that a split file tests."""
    wanted = set(read_split_file(splits)["test"])
    if unknown := wanted - {case.example_id for case in cases}:
        fault = f"test lists {min(unknown)!r}, which is not in the data"
        raise ConfigError(splits, fault, "give the file of these images")
    terminal.say(f"{splits}: {len(wanted)} images are of its test split")
    return [case for case in cases if case.example_id in wanted]


def _check_left_out(left_out: Sequence[DataError], num_cases: int, data: DataConfig) -> None:
    """Refuses metrics of none of the images, or of too few of them."""
    if len(left_out) == num_cases:
        fault = f"all {num_cases} labelled images are left out ({left_out[0].fault})"
        raise DataError(data.manual_dir, fault, "see why")
    bad = [error for error in left_out if not isinstance(error, NotFrontalError)]
    if len(bad) > data.max_bad_share * num_cases:
        fault = f"{len(bad)} of {num_cases} images are bad ({bad[0].fault})"
        raise DataError(data.manual_dir, fault, "mend them, or raise data.max_bad_share")


def _say_what_is_noted(rows: Sequence[Validated]) -> None:
    """Says how many images have each note: doubtful references make doubtful figures."""
    notes = (note for row in rows for note in filter(None, row.notes.split("; ")))
    for note, count in collections.Counter(map(without_numbers, notes)).most_common(MOST_SHOWN):
        terminal.say(f"noted of {count} of {len(rows)} images: {note}")


def _say_what_is_left_out(left_out: Sequence[DataError]) -> None:
    for error in left_out[:MOST_SHOWN]:
        terminal.say(f"left out: {error.subject}: {error.fault}")
    if len(left_out) > MOST_SHOWN:
        terminal.say(f"and {len(left_out) - MOST_SHOWN} more")


def _check_free(output: epath.Path) -> None:
    """Refuses a folder whose metrics are a run's, or someone else's."""
    if (output / VALIDATION).exists():
        terminal.say(f"Figures of an earlier call in {output} will be replaced")
        return
    overlays = [f"overlays/{rank}.png" for rank in ("best", "median", "worst")]
    for name in ("config.json", "metrics.json", f"eval/{SPLIT}.csv", *overlays):
        if (output / name).exists():
            fault = "was not written by this command"
            raise DataError(output / name, fault, "give another --output")


def _note(
    output: epath.Path,
    segmenter: Segmenter,
    data: DataConfig,
    names: Sequence[str],
    left_out: Sequence[DataError],
) -> None:
    """Writes what was measured, and with what."""
    keys = dataclasses.asdict(data)
    content = {
        "networks": list(names),
        "identity": segmenter.identity(),
        "data": {key: keys[key] for key in (*IMAGE_KEYS, *READING_KEYS)},
        "left_out": [f"{error.subject}: {error.fault}" for error in left_out],
        **environment(),
    }
    text = json.dumps(content, indent=2) + "\n"
    write_whole(output / VALIDATION, text.encode())


def _read(
    sandboxes: Sandboxes, data: DataConfig, size: int, key: bytes, case: Case
) -> Labelled | DataError:
    """Returns a labelled image, or why it is left out.

    Raises:
      DataError: the image is bad, and bad ones are not skipped.
    """
    try:
        for path in case.files():
            if fault := why_no_file(path):
                raise DataError(path, fault, "replace or remove it")
        return sandboxes.call(case.image, read_labelled, case, read_options(data), size, key)
    except NotFrontalError as error:
        return error
    except DataError as error:
        if data.on_error == "fail":
            raise
        return error


def _measure_all(
    segmenter: Segmenter,
    cases: Sequence[Case],
    read: Callable[[Case], Labelled | DataError],
    measure: Callable[[Case, Labelled, Prediction], Validated],
    stop_reading: Callable[[], None],
) -> tuple[list[Validated], list[Case], list[DataError]]:
    """Returns the metrics of the images, their cases, and why others are left out.

    Args:
      segmenter: makes the masks.
      cases: the images.
      read: reads one image.
      measure: measures one predicted image.
      stop_reading: ends what is being read.
    """

    def read_input(case: Case) -> tuple[UInt16[np.ndarray, "s s 1"] | None, Labelled | DataError]:
        answer = read(case)
        return answer.square if isinstance(answer, Labelled) else None, answer

    def finish(
        case: Case, answer: Labelled | DataError, prediction: Prediction | None
    ) -> Validated | DataError:
        if isinstance(answer, DataError) or prediction is None:
            return cast(DataError, answer)
        return measure(case, answer, prediction)

    rows: list[Validated] = []
    taken: list[Case] = []
    left_out: list[DataError] = []
    with (
        terminal.progress("validate", len(cases), "image") as bar,
        contextlib.closing(
            segment_many(segmenter, cases, read_input, finish, stop_reading)
        ) as answers,
    ):
        for case, answer in zip(cases, answers, strict=True):
            if isinstance(answer, DataError):
                left_out.append(answer)
            else:
                rows.append(answer)
                taken.append(case)
            bar.update()
    return name_patients(rows), taken, left_out


def _figures(
    segmenter: Segmenter,
    evaluation: EvaluationConfig,
    case: Case,
    labelled: Labelled,
    prediction: Prediction,
) -> Validated:
    with opencv_memory_errors():
        found = segmenter.finish(labelled.radiograph, prediction)
        labels, lungs = _as_measured(labelled, found)
        figures = measure_masks(
            lungs,
            channels(labelled.mask[..., None], labels, case.example_id) > 0,
            spacing_mm=found.spacing_mm,
            tolerance_px=evaluation.tolerance_px,
            tolerance_mm=evaluation.tolerance_mm,
        )
    clinical = labelled.clinical
    return Validated(
        case.example_id,
        case.source,
        patient=labelled.patient_id,
        finding=clinical.finding,
        sex=clinical.sex,
        age_years=NAN if clinical.age_years is None else clinical.age_years,
        **cast(Any, figures),
        status="accepted" if found.accepted else "rejected",
        reason="; ".join(found.doubts),
        estimated_dice=round(found.estimated_dice, 4),
        notes="; ".join(labelled.radiograph.notes + labelled.mask_notes),
    )


def _as_measured(
    labelled: Labelled, found: Segmentation
) -> tuple[Labels, Bool[np.ndarray, "h w c"]]:
    """Returns what is measured, and predict's masks of it.

    Sides where the reference has them, to see whether predict takes one for the other.
    """
    if has_sides(labelled.mask):
        return "left_right", np.stack([found.right, found.left], axis=-1)
    return "lungs", found.mask[..., None]


def _summary(
    segmenter: Segmenter,
    rows: Sequence[Validated],
    num_left_out: int,
    evaluation: EvaluationConfig,
) -> dict:
    """Returns what a summary has besides the metrics of all images."""
    accepted = [row for row in rows if row.status == "accepted"]
    return {
        "accepted": evaluation_report.summary_of(accepted),
        "num_left_out": num_left_out,
        "masks": f"as predict makes them, above {segmenter.threshold:.2f}",
        "tolerance_px": evaluation.tolerance_px,
        "tolerance_mm": evaluation.tolerance_mm,
    }


def _overlay(segmenter: Segmenter, labelled: Labelled | DataError) -> np.ndarray:
    """Returns RGB pixels of an image that was read before, with its reference and its mask."""
    if isinstance(labelled, DataError):
        raise labelled
    (prediction,) = segmenter.predict([labelled.square])
    found = segmenter.finish(labelled.radiograph, prediction)
    labels, lungs = _as_measured(labelled, found)
    reference = channels(labelled.mask[..., None], labels, "reference") > 0
    upright = labelled.radiograph.orientation.to_upright
    masks = (
        np.stack([upright(mask) for mask in np.moveaxis(classes, -1, 0)], axis=-1)
        for classes in (lungs, reference)
    )
    return draw_overlay(labelled.radiograph.pixels, *masks)


def _say_if_sides_are_exchanged(rows: Sequence[Validated]) -> None:
    """Warns if lungs are found, but taken for the other side's."""
    exchanged = [row for row in rows if row.dice > 0.5 and max(row.dice_right, row.dice_left) < 0.1]
    if exchanged:
        terminal.say(
            f"Masks and predict differ in what is right and left in {len(exchanged)} of "
            f"{len(rows)} images, such as {exchanged[0].id}: check that left masks are of the "
            "patient's left"
        )


def main(arguments: Sequence[str]) -> int:
    """Measures what the command line names; returns the exit code."""
    again = "run the same command to start over"
    return run_command(arguments, str(__doc__), lambda: _run(arguments), again)


def _run(arguments: Sequence[str]) -> None:
    values, given = flags.FlagValues(), list(arguments)
    output = flags.DEFINE_string("output", None, "Where figures go.", flag_values=values)
    checkpoints = flags.DEFINE_multi_string("checkpoint", [], "Network.", flag_values=values)
    both_ways = flags.DEFINE_boolean("both_ways", False, "Mirrored too.", flag_values=values)
    defaults = {key: getattr(DataConfig(), key) for key in (*IMAGE_KEYS, *READING_KEYS)}
    # The default source is the layout that every folder can have.
    tolerances = {key: getattr(EvaluationConfig(), key) for key in TOLERANCE_KEYS}
    keys = {"data": defaults | {"source": "folder"}, "evaluation": tolerances}
    config = define_keys(values, given, keys)
    parse_flags_alone(values, given)
    if not output.value:
        raise ConfigError("--output", "is missing", "give the folder that figures go to")
    if config.value.data.source == "phantom":
        remedy = "read them as source folder, with --config.data.masks='masks/*/{stem}*'"
        raise ConfigError("data.source", "is phantom, which only training generates", remedy)
    resolved = resolve(config.value)
    data = resolved.data
    use_compilation_cache()
    names = checkpoints.value or [PACKAGED]
    members = list(map(find_weights, names))
    segmenter = Segmenter(*members, both_ways=bool(both_ways.value))
    networks = [(name, one.config) for name, one in zip(names, members, strict=True)]
    summary = validate(segmenter, data, output.value, networks, resolved.evaluation)
    figures = summary[SPLIT]
    shown = {SPLIT: figures, "accepted": figures["accepted"]}
    words = [evaluation_report.closing_table(shown), evaluation_report.areas_in_words(figures)]
    terminal.say("\n" + "\n\n".join([*filter(None, words), f"Figures and images: {output.value}"]))


if __name__ == "__main__":
    sys.exit(main(sys.argv))
