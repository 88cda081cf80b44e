"""Makes a file of weights from a run, calibrated on its validation split.

Usage: python -m lungseg_jax.export --checkpoint=RUN --output=FILE.safetensors

--checkpoint=RUN     folder of a trained run, or RUN/checkpoints/N for another step than the best
--output=FILE        file to write; its checksum goes to FILE.sha256
--config.KEY=VALUE   where the run's images or records are now: data.manual_dir, data.data_dir
--calibration=FILE   exported weights of another run with the same recipe, to copy the calibration
                     from; for a run that kept no images aside to calibrate on
"""

import dataclasses
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from absl import flags
from etils import epath
from jaxtyping import Bool, Float32

from lungseg_jax import terminal
from lungseg_jax.command import run_command
from lungseg_jax.command_line import define_keys, parse_flags_alone
from lungseg_jax.config import Config
from lungseg_jax.data.labels import lungs_of
from lungseg_jax.data.records import Records, are_same_records, check_same_records, open_records
from lungseg_jax.errors import CheckpointError, ConfigError, DataError
from lungseg_jax.evaluate import EVALUATED_SPLITS, Evaluator, lung_probability
from lungseg_jax.find_weights import restore_weights, run_and_step
from lungseg_jax.metrics import dice_of
from lungseg_jax.parallel import all_devices
from lungseg_jax.paths import local_path, make_folder, run_folder
from lungseg_jax.prediction import quality
from lungseg_jax.prediction.postprocessing import keep_lungs
from lungseg_jax.runtime.compilation_cache import use_compilation_cache
from lungseg_jax.weights import MARGIN, SUFFIX, Calibration, Weights, load_weights, save_weights
from lungseg_jax.workdir import read_splits

THRESHOLDS = np.arange(0.3, 0.71, 0.05)

# What `predictions` yields for an image.
Found = tuple[Float32[np.ndarray, "s s"], Float32[np.ndarray, "h w"], Bool[np.ndarray, "h w"]]


def calibrated_weights_of_run(workdir: epath.PathLike, **places: str) -> Weights:
    """Returns the weights of a run's best checkpoint, calibrated on its validation split.

    Args:
      workdir: the run's folder, or that of another of its checkpoints.
      **places: `manual_dir` and `data_dir`, where they differ from the run's.

    Raises:
      ConfigError: the folder holds no run.
      CheckpointError: it holds no checkpoint that can be read, or the data have changed.
      DataError: the images cannot be used, or none of the split has lungs.
    """
    workdir = run_folder(workdir)
    weights, data_state = restore_weights(workdir)
    data = dataclasses.replace(weights.config.data, **places)
    records = open_records(dataclasses.replace(weights.config, data=data))
    check_same_images(run_and_step(workdir)[0], data_state, records)
    return dataclasses.replace(weights, calibration=calibrate(weights, records["val"]))


def check_same_images(
    workdir: epath.Path, data_state: dict[str, Any], records: dict[str, Records]
) -> None:
    """Checks that the records are those of a run, or that at least their splits hold the same ids.

    Another version may have read the same images differently; `splits.json` tells which they were.

    Raises:
      CheckpointError: they are not.
    """
    if are_same_records(data_state, records):
        return
    try:
        splits = read_splits(workdir)
    except ConfigError:
        check_same_records(workdir, data_state, records)
        return
    for split in EVALUATED_SPLITS:
        examples = records[split]
        if {*splits[split]} != {examples.metadata(i).example_id for i in range(len(examples))}:
            raise CheckpointError(
                workdir,
                f"its {split} split had other images than the data as they are now",
                "restore the data it was trained on",
            )


def calibrate(weights: Weights, records: Records) -> Calibration:
    """Returns the calibration that `fit_calibration` finds on a split.

    Args:
      weights: the network's weights.
      records: records of a split that it was not trained on and will not be judged by.

    Raises:
      DataError: no image of the split has lungs.
    """
    with_lungs = (found for found in predictions(weights, records) if found[2].any())
    calibration = fit_calibration(with_lungs)
    if calibration is None:
        raise DataError(records.name, f"no lungs in its {records.split} split", "use other data")
    return calibration


def fit_calibration(found: Iterable[Found]) -> Calibration | None:
    """Returns the threshold of the best mean Dice, and the line from `outline_doubt` to Dice.

    Where too few images tell the line, the estimate of Dice is left uncalibrated.

    Networks trained for few steps reach a higher Dice than their probabilities suggest: the margin
    is wide enough for all images found.

    Args:
      found: what `predictions` yields for images with lungs; `None` is returned for none.
    """
    dice, squares = [], []
    for square, probabilities, reference in found:
        masks = [keep_lungs(probabilities, float(threshold)) for threshold in THRESHOLDS]
        dice.append([dice_of(mask, reference) for mask in masks])
        squares.append(square)
    if not dice:
        return None
    best = int(np.mean(dice, axis=0).argmax())
    threshold = round(float(THRESHOLDS[best]), 2)
    reached = np.array(dice)[:, best]
    masks = [keep_lungs(square, threshold) for square in squares]
    pairs = list(zip(squares, masks, strict=True))
    slope, intercept = quality.fit_line(
        np.array([quality.outline_doubt(*pair) for pair in pairs]), reached
    )
    if not slope:
        # The same estimate for all images would accept or reject all.
        return Calibration(threshold)
    expected = np.array([quality.expected_dice(*pair) for pair in pairs])
    margin = min(1.0, max(MARGIN, float((reached - expected).max())))
    return Calibration(threshold, slope, intercept, margin)


def calibration_of(path: epath.PathLike, config: Config) -> Calibration:
    """Returns the calibration in a file of weights whose network has the same form as the run's.

    Raises:
      CheckpointError: the file cannot be used.
      ConfigError: its network differs from the run's in image size, labels or form.
    """
    weights = load_weights(path)
    expected, found = (
        # A network's calibration is the same however it is computed.
        (
            one.data.image_size,
            one.data.labels,
            dataclasses.replace(one.model, dtype="auto", remat=False),
        )
        for one in (config, weights.config)
    )
    if found != expected:
        raise ConfigError(
            "--calibration",
            f"{path} belongs to another network",
            "give one with the run's data.image_size, data.labels and model keys",
        )
    return weights.calibration


def predictions(weights: Weights, records: Records) -> Iterator[Found]:
    """Yields three arrays for each example.

    They are the probability of lung in the model's square, the same in the image's own frame,
    smoothed, and the reference there.
    """
    parallel = all_devices("mesh")
    evaluator = Evaluator(weights.config, parallel)
    variables = parallel.replicate(weights.variables)
    for position, square in evaluator.predict(variables, records, range(len(records))):
        example = records.example(position)
        square = lungs_of(square, records.labels)
        reference = np.any(lungs_of(example.original_mask, records.labels) > 0, axis=-1)
        yield square.max(axis=-1), lung_probability(square, example), reference


def main(arguments: Sequence[str]) -> int:
    """Makes the file; returns the exit code."""
    again = "run the same command to start over"
    return run_command(arguments, str(__doc__), lambda: _run(arguments), again)


def _run(arguments: Sequence[str]) -> None:
    values = flags.FlagValues()
    checkpoint = flags.DEFINE_string("checkpoint", None, "Folder of a run.", flag_values=values)
    output = flags.DEFINE_string("output", None, "File to write.", flag_values=values)
    other = flags.DEFINE_string("calibration", None, "Weights.", flag_values=values)
    given = list(arguments)
    places = define_keys(values, given, {"data": {"manual_dir": "", "data_dir": ""}})
    parse_flags_alone(values, given)
    if not checkpoint.value or not output.value:
        missing = "--output" if checkpoint.value else "--checkpoint"
        raise ConfigError("command line", f"{missing} is missing", "see --help")
    path, calibrated = local_path(output.value), other.value and local_path(other.value)
    if not output.value.endswith(SUFFIX):
        raise ConfigError("--output", f"is {output.value}", f"end it in {SUFFIX}")
    make_folder(path.parent)
    use_compilation_cache()
    if calibrated:
        weights, _ = restore_weights(run_folder(checkpoint.value))
        calibration = calibration_of(calibrated, weights.config)
        weights = dataclasses.replace(weights, calibration=calibration)
    else:
        moved = {key: place for key, place in places.value.data.items() if place}
        weights = calibrated_weights_of_run(checkpoint.value, **moved)
    save_weights(path, weights)
    threshold = weights.calibration.threshold
    terminal.say(f"{output.value} written; a pixel is lung above a probability of {threshold}")
    if weights.calibration.slope is None:
        terminal.say(
            "estimated_dice is not calibrated, because the validation images are too few or too "
            "much alike: it rejects nothing"
        )


if __name__ == "__main__":
    sys.exit(main(sys.argv))
