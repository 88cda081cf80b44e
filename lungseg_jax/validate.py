"""Measures on labelled images what predict makes of them, as those of another hospital.

Usage: python -m lungseg_jax.validate --config.data.manual_dir=FOLDER --output=DIR

--config.data.KEY=VALUE  the images, as for training: source (folder, if not given), manual_dir,
                         images (images/*), masks (masks/{stem}*); splits, a file of which only the
                         test split is measured; frontal_only, correct_polarity, max_megapixels,
                         sex_and_age; on_error=skip leaves bad files out, up to max_bad_share
--config.evaluation.KEY=VALUE  tolerance_px (2) and tolerance_mm (2) of surface Dice
--output=DIR             where metrics.json, validation.json, eval/external.csv and overlays/ go
--checkpoint=PATH        network to measure instead of the weights in the package: a file of
                         lungseg_jax.export, or the folder of a run; given several times, the
                         networks' mean
--both_ways              average with the prediction of the mirrored image, at twice the time

Every labelled image counts, except those whose header says that they are no frontal chest. For the
raw output of a run on its own test split: lungseg_jax.main --mode=eval.
"""

import contextlib
import dataclasses
import sys
from collections.abc import Sequence

import numpy as np
from absl import flags
from etils import epath
from jaxtyping import UInt8, UInt16

from lungseg_jax import evaluation_report, external
from lungseg_jax.command import run_command
from lungseg_jax.config import Config, DataConfig, EvaluationConfig
from lungseg_jax.errors import DataError
from lungseg_jax.external import SPLIT, ExternalMetrics
from lungseg_jax.find_weights import PACKAGED, find_weights, say_if_seen, say_if_trained_on
from lungseg_jax.imaging.opencv_memory import opencv_memory_errors
from lungseg_jax.imaging.structures import Structure
from lungseg_jax.prediction.many import segment_many
from lungseg_jax.prediction.segmentation import Segmentation
from lungseg_jax.prediction.segmenter import Prediction, Segmenter
from lungseg_jax.runtime.compilation_cache import use_compilation_cache
from tfds_builder.read_case import Labelled, read_labelled_input
from tfds_builder.sources import Case


@dataclasses.dataclass(frozen=True)
class Validated(ExternalMetrics):
    """Metrics of the mask that predict makes of an image, and predict's judgement of it.

    Attributes:
      status: `accepted` or `rejected`, as in `predictions.csv`.
      reason: what speaks against the mask.
      estimated_dice: the mask's estimated Dice.
    """

    status: str = dataclasses.field(kw_only=True)
    reason: str = dataclasses.field(kw_only=True)
    estimated_dice: float = dataclasses.field(kw_only=True)


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
      ConfigError: the split file is not of these images.
      DataError: there are no labelled images, one is bad while bad ones are not skipped, too many
        are bad, all are left out, or the output is not on disk, holds files of something else or is
        in use.
    """
    output = external.free_output(output, "validate")
    cases = external.list_cases(data)
    ids = [case.example_id for case in cases]
    for name, config in networks:
        say_if_seen(name, config, data.source, ids)
        say_if_trained_on(name, config.data, data, ids)
    with external.reader_of(output, data, read_labelled_input) as reader:
        figures = _measure(segmenter, cases, reader, data, evaluation)
        accepted = [
            row for row in figures.rows if isinstance(row, Validated) and row.status == "accepted"
        ]
        return external.write_figures(
            output,
            figures,
            lambda case: _overlay(segmenter, reader, case),
            {
                "accepted": evaluation_report.summary_of(accepted),
                "masks": f"as predict makes them, above {segmenter.threshold:.2f}",
            },
            evaluation,
            {
                "command": "validate",
                "networks": [name for name, _ in networks],
                "identity": segmenter.identity(),
                "data": external.what_is_read(data),
            },
        )


def _measure(
    segmenter: Segmenter,
    cases: Sequence[Case],
    reader: external.Reader,
    data: DataConfig,
    evaluation: EvaluationConfig,
) -> external.Figures:
    """Returns the metrics of all images."""

    def read(case: Case) -> tuple[UInt16[np.ndarray, "s s 1"] | None, Labelled | DataError]:
        answer = reader.read(case, read_labelled_input, segmenter.image_size)
        if isinstance(answer, DataError):
            return None, answer
        labelled, square = answer
        return square, labelled

    def finish(
        case: Case, answer: Labelled | DataError, prediction: Prediction | None
    ) -> Validated | DataError:
        if isinstance(answer, DataError):
            return answer
        assert prediction is not None
        return _metrics(segmenter, evaluation, case, answer, prediction)

    with contextlib.closing(segment_many(segmenter, cases, read, finish, reader.stop)) as answers:
        return external.collect(cases, answers, data, "validate")


def _metrics(
    segmenter: Segmenter,
    evaluation: EvaluationConfig,
    case: Case,
    labelled: Labelled,
    prediction: Prediction,
) -> Validated:
    with opencv_memory_errors():
        found = segmenter.finish(labelled.radiograph, prediction)
        return external.metrics_of(
            Validated,
            case,
            labelled,
            _structures(found),
            evaluation,
            status="accepted" if found.accepted else "rejected",
            reason="; ".join(found.doubts),
            estimated_dice=round(found.estimated_dice, 4),
        )


def _overlay(
    segmenter: Segmenter, reader: external.Reader, case: Case
) -> UInt8[np.ndarray, "h w 3"]:
    """Returns RGB pixels of an image that was read before, with its reference and its mask."""
    answer = reader.read(case, read_labelled_input, segmenter.image_size)
    if isinstance(answer, DataError):
        raise answer
    labelled, square = answer
    (prediction,) = segmenter.predict([square])
    found = segmenter.finish(labelled.radiograph, prediction)
    return external.overlay_of(labelled, _structures(found))


def _structures(found: Segmentation) -> UInt8[np.ndarray, "h w"]:
    """Returns a mask with a bit for each `Structure`."""
    right, left = (
        side * np.uint8(structure | Structure.LUNGS)
        for side, structure in (
            (found.right, Structure.RIGHT_LUNG),
            (found.left, Structure.LEFT_LUNG),
        )
    )
    return right | left


def main(arguments: Sequence[str]) -> int:
    """Measures what the command line names; returns the exit code."""
    again = "run the same command to start over"
    return run_command(arguments, str(__doc__), lambda: _run(arguments), again)


def _run(arguments: Sequence[str]) -> None:
    values = flags.FlagValues()
    checkpoints = flags.DEFINE_multi_string("checkpoint", [], "Network.", flag_values=values)
    both_ways = flags.DEFINE_boolean("both_ways", False, "Mirrored too.", flag_values=values)
    output, config = external.parse(values, arguments)
    use_compilation_cache()
    names = checkpoints.value or [PACKAGED]
    members = list(map(find_weights, names))
    segmenter = Segmenter(*members, both_ways=bool(both_ways.value))
    networks = [(name, one.config) for name, one in zip(names, members, strict=True)]
    figures = validate(segmenter, config.data, output, networks, config.evaluation)[SPLIT]
    external.say_figures({SPLIT: figures, "accepted": figures["accepted"]}, output)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
