"""Measures masks that another program made, as validate measures those of predict.

Usage: python -m lungseg_jax.measure --config.data.manual_dir=FOLDER --predicted=MASKS --output=DIR

--predicted=MASKS        the masks to measure, with {id} for an image's name without extension (its
                         id in pairs.csv; the path there, of images that share a name), such as
                         'elsewhere/{id}.png': PNG or GIF files of both lungs (255 or 1), or DICOM
                         SEG files, at the images' own size; for masks of one lung each, given
                         twice, a pattern with left in it (the patient's) and one with right
--config.data.KEY=VALUE  the images and their reference masks, as for training: source (folder, if
                         not given), manual_dir, images (images/*), masks (masks/{stem}*); splits,
                         a file of which only the test split is measured; frontal_only,
                         correct_polarity, max_megapixels, sex_and_age; on_error=skip leaves bad
                         files out, up to max_bad_share
--config.evaluation.KEY=VALUE  tolerance_px (2) and tolerance_mm (2) of surface Dice
--output=DIR             where metrics.json, validation.json, eval/external.csv and overlays/ go

Every labelled image must have a mask, empty if nothing was found, except those whose header says
that they are no frontal chest: validate does not measure them either.
To compare two programs: lungseg_jax.compare DIR_A DIR_B --split=external.
"""

import concurrent.futures
import itertools
import sys
from collections.abc import Mapping, Sequence

import numpy as np
from absl import flags
from etils import epath
from jaxtyping import UInt8

from lungseg_jax import evaluation_report, external, terminal
from lungseg_jax.command import run_command
from lungseg_jax.config import DataConfig, EvaluationConfig
from lungseg_jax.errors import ConfigError, DataError
from lungseg_jax.external import ExternalMetrics
from lungseg_jax.imaging.structures import Structure
from lungseg_jax.paths import local_path
from lungseg_jax.runtime.ahead import map_ahead
from lungseg_jax.runtime.cores import num_readers
from tfds_builder.read_case import Labelled, read_labelled_and_mask
from tfds_builder.sources import Case, MaskFile

# In a pattern of masks, what stands for an image's id.
ID = "{id}"

_SIDES = {"right": Structure.RIGHT_LUNG, "left": Structure.LEFT_LUNG}


def measure(
    predicted: str | Sequence[str],
    data: DataConfig,
    output: epath.PathLike,
    evaluation: EvaluationConfig = EvaluationConfig(),
) -> evaluation_report.Summary:
    """Measures another program's masks of a folder's labelled images; writes the metrics.

    Args:
      predicted: the masks, with `{id}` for an image's id: of both lungs, or two, of each lung, the
        one called left and the other right.
      data: which images, and how they are read.
      output: folder to write to.
      evaluation: tolerances of surface Dice.

    Returns:
      What is in `metrics.json`: the figures of all images, and of each source.

    Raises:
      ConfigError: a pattern lacks `{id}`, two do not say left and right, or the split file is not
        of these images.
      DataError: there are no labelled images, a mask is absent or bad, an image is bad while bad
        ones are not skipped, too many are bad, all are left out, or the output is not on disk,
        holds files of something else or is in use.
    """
    predicted = [predicted] if isinstance(predicted, str) else list(predicted)
    patterns = _patterns(predicted)
    output = external.free_output(output, "measure")
    cases = external.list_cases(data)
    absent = _cases_without_mask(cases, patterns)
    with external.reader_of(output, data, read_labelled_and_mask) as reader:
        # First, so that a mask that is missed ends the command at once.
        for case in absent:
            _read(reader, patterns, case)
        return external.write_figures(
            output,
            _measure(reader, patterns, cases, data, evaluation),
            lambda case: _overlay(reader, patterns, case),
            {"masks": " ".join(predicted)},
            evaluation,
            {"command": "measure", "masks": predicted, "data": external.what_is_read(data)},
        )


def _measure(
    reader: external.Reader,
    patterns: Mapping[Structure, str],
    cases: Sequence[Case],
    data: DataConfig,
    evaluation: EvaluationConfig,
) -> external.Figures:
    """Returns the metrics of all images."""

    def metrics(case: Case) -> ExternalMetrics | DataError:
        answer = _read(reader, patterns, case)
        if isinstance(answer, DataError):
            return answer
        return external.metrics_of(ExternalMetrics, case, *answer, evaluation)

    workers = num_readers()
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        try:
            answers = map_ahead(pool, metrics, cases, workers)
            return external.collect(cases, answers, data, "measure")
        except BaseException:
            # After a fault or an interrupt: otherwise what is being read would be waited for.
            pool.shutdown(wait=False, cancel_futures=True)
            reader.stop()
            raise


def _overlay(
    reader: external.Reader, patterns: Mapping[Structure, str], case: Case
) -> UInt8[np.ndarray, "h w 3"]:
    """Returns RGB pixels of an image that was read before, with its reference and its mask."""
    answer = _read(reader, patterns, case)
    if isinstance(answer, DataError):
        raise answer
    return external.overlay_of(*answer)


def _read(
    reader: external.Reader, patterns: Mapping[Structure, str], case: Case
) -> tuple[Labelled, UInt8[np.ndarray, "h w"]] | DataError:
    """Returns an image and the mask to measure, or why the image is left out.

    Raises:
      DataError: the mask is absent or bad, whatever happens to bad images: to leave the image out
        would improve the figures of a program that failed on it. Or see `external.Reader.read`.
    """
    answer = reader.read(case, read_labelled_and_mask, _masks_of(case, patterns))
    if isinstance(answer, DataError):
        return answer
    labelled, mask = answer
    if isinstance(mask, DataError):
        raise mask
    return labelled, mask


def _patterns(predicted: Sequence[str]) -> dict[Structure, str]:
    """Returns the pattern of each structure's masks."""
    for pattern in predicted:
        if ID not in pattern:
            raise ConfigError("--predicted", f"is {pattern!r}", f"write {ID} for an image's id")
    if len(predicted) == 1:
        return {Structure.LUNGS: predicted[0]}
    # Only what differs tells the side: both may lie in a folder that is called left.
    alike = itertools.takewhile(lambda letters: len({*letters}) == 1, zip(*predicted, strict=False))
    shared = len(list(alike))
    patterns = {
        structure: pattern
        for pattern in predicted
        for word, structure in _SIDES.items()
        if word in pattern[shared:].lower()
    }
    if len(predicted) != 2 or {*patterns.values()} != {*predicted}:
        remedy = "give it once, or twice, with left in the one and right in the other"
        raise ConfigError("--predicted", f"is given {len(predicted)} times", remedy)
    return patterns


def _masks_of(case: Case, patterns: Mapping[Structure, str]) -> tuple[MaskFile, ...]:
    return tuple(
        MaskFile(local_path(pattern.replace(ID, case.example_id)), structure)
        for structure, pattern in patterns.items()
    )


def _cases_without_mask(cases: Sequence[Case], patterns: Mapping[Structure, str]) -> Sequence[Case]:
    """Returns the cases that lack a mask, and says how many masks are absent.

    A case that is left out, such as a lateral image, needs none.
    """
    absent = [
        (case, mask.path)
        for case in cases
        for mask in _masks_of(case, patterns)
        if not mask.path.exists()
    ]
    if absent:
        count, (_, first) = len(cases) * len(patterns), absent[0]
        terminal.say(f"{len(absent)} of {count} masks are absent, such as {first}")
    return [case for case, _ in absent]


def main(arguments: Sequence[str]) -> int:
    """Measures what the command line names; returns the exit code."""
    again = "run the same command to start over"
    return run_command(arguments, str(__doc__), lambda: _run(arguments), again)


def _run(arguments: Sequence[str]) -> None:
    values = flags.FlagValues()
    predicted = flags.DEFINE_multi_string("predicted", [], "Masks.", flag_values=values)
    output, config = external.parse(values, arguments)
    if not predicted.value:
        raise ConfigError("--predicted", "is missing", f"give the masks, such as 'DIR/{ID}.png'")
    summary = measure(predicted.value, config.data, output, config.evaluation)
    external.say_figures(summary, output)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
