"""Evaluation in the original frame: every example of a split exactly once."""

import collections
import concurrent.futures
import functools
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils
from jaxtyping import Bool, Float, Float64

from lungseg_jax import evaluation_report, terminal
from lungseg_jax.checkpoint import Checkpoints, SavedWeights
from lungseg_jax.config import Config, EvaluationConfig
from lungseg_jax.data.labels import lungs_of
from lungseg_jax.data.records import (
    Example,
    Metadata,
    Records,
    check_same_records,
    identity,
    open_records,
)
from lungseg_jax.device_counts import check_space_shards
from lungseg_jax.imaging.geometry import channels_from_square
from lungseg_jax.imaging.overlay import draw_overlay
from lungseg_jax.metrics import COUNTS, FIGURES, NAN, ImageMetrics, measure_masks, name_patients
from lungseg_jax.network import Variables, abstract_variables, compute_dtype, make_forward
from lungseg_jax.parallel import Parallel, all_devices, batch_size_over
from lungseg_jax.paths import run_folder
from lungseg_jax.prediction.postprocessing import smooth
from lungseg_jax.runtime.ahead import map_ahead
from lungseg_jax.runtime.cores import usable_cores
from lungseg_jax.runtime.environment import digest_of_program, environment
from lungseg_jax.runtime.hosts import check_hosts_agree, without_folders
from lungseg_jax.workdir import alone_in_run, check_same_config, claim, record_start

THRESHOLD = 0.5

# What is measured for each example, in the order in which processes exchange it.
MEASURED = (*FIGURES, *COUNTS)

# The splits a run is judged by.
EVALUATED_SPLITS = ("val", "test")


def evaluate(
    config: Config, workdir: epath.PathLike, step: int | None = None
) -> evaluation_report.Summary:
    """Evaluates a checkpoint of a run and writes its report; returns the summary.

    Args:
      config: the run's configuration.
      workdir: the run's folder.
      step: step of the checkpoint; the best by validation Dice if not given.

    Raises:
      CheckpointError: the folder holds no checkpoint that can be read, or the data have changed.
      ConfigError: the run was trained with another configuration, or the devices do not divide into
        groups.
      DataError: the images cannot be used, or another job is in the folder.
    """
    workdir = run_folder(workdir)
    own_environment = environment()
    parallel = all_devices(
        config.parallel, config.space_shards, shard_optimizer=config.shard_optimizer
    )
    check_hosts_agree(
        configuration=without_folders(config),
        commit=own_environment["revision"],
        code=digest_of_program(),
    )
    check_same_config(workdir, config)
    with alone_in_run(workdir):
        return _evaluate(config, workdir, step, parallel, own_environment)


def _evaluate(
    config: Config,
    workdir: epath.Path,
    step: int | None,
    parallel: Parallel,
    own_environment: dict[str, Any],
) -> evaluation_report.Summary:
    check_space_shards(config, len(parallel.devices), jax.process_count())
    checkpoints = Checkpoints(workdir / "checkpoints", None, parallel)
    saved = checkpoints.restore_weights(abstract_variables(config), step)
    newest = checkpoints.latest_step()
    checkpoints.close()
    records = open_records(config)
    check_hosts_agree(records=identity(records)["content"])
    check_same_records(workdir, saved.data_state, records)
    terminal.say(f"Evaluating the checkpoint of step {saved.step} of {config.num_steps}")
    if newest is None or newest < config.num_steps:
        terminal.say(f"The run is not finished: figures are of what it reached by step {newest}")
    evaluator = Evaluator(config, parallel)
    summary = evaluate_splits(evaluator, saved, records, workdir, is_best=step is None)
    if step is not None:
        terminal.say(
            f"The run's metrics, tables and overlays are of step {step} now; without --step they "
            "become those of the best checkpoint again"
        )
    # Now the figures belong to this configuration's tolerances and to this environment.
    claim(workdir, config)
    record_start(
        workdir,
        config,
        own_environment,
        images=records["train"].images_digest,
        builder=records["train"].builder_version,
        dtype=str(compute_dtype(config)),
        step=saved.step,
        mode="eval",
    )
    return summary


def evaluate_splits(
    evaluator: "Evaluator",
    saved: SavedWeights,
    records: dict[str, Records],
    workdir: epath.Path,
    *,
    is_best: bool = True,
) -> evaluation_report.Summary:
    """Measures the splits a run is judged by, then writes tables, overlays and `metrics.json`.

    Args:
      evaluator: measures a split.
      saved: the weights of a checkpoint.
      records: the records of each split.
      workdir: the run's folder.
      is_best: whether the checkpoint is the best, not one that was asked for.
    """
    rows = {split: evaluator.measure(saved.variables, records[split]) for split in EVALUATED_SPLITS}
    ranked = evaluation_report.images_to_show(rows["test"])
    overlays = evaluator.overlays(saved.variables, records["test"], list(ranked.values()))
    measured_by = {
        "checkpoint_step": saved.step,
        "checkpoint_is_best": is_best,
        "masks": f"network output above {THRESHOLD}",
        "tolerance_px": evaluator.evaluation.tolerance_px,
        "tolerance_mm": evaluator.evaluation.tolerance_mm,
    }
    # The tables written next may be at other tolerances than the old summary states.
    evaluation_report.remove_summary(workdir)
    summary = {
        split: evaluation_report.write_split(workdir, split, rows[split]) | measured_by
        for split in EVALUATED_SPLITS
    }
    summary["test"]["overlays"] = evaluation_report.ids_of(rows["test"], ranked)
    evaluation_report.write_summary(workdir, summary)
    evaluation_report.write_overlays(workdir, rows["test"], ranked, overlays)
    return summary


class Evaluator:
    """Predicts and measures with one compiled forward pass of one batch shape.

    Args:
      config: the run's configuration.
      parallel: the devices to use.

    Attributes:
      evaluation: how it measures.
      forward: compiled function from (variables, images of one batch over all devices) to the
        probability of each class.
      batch_size: images in such a batch; divisible by `parallel.batch_shards`.
    """

    def __init__(self, config: Config, parallel: Parallel) -> None:
        self.evaluation = config.evaluation
        self._parallel = parallel
        self.forward = parallel.wrap_forward(make_forward(config))
        self.batch_size = batch_size_over(parallel.batch_shards, self.evaluation.batch_size)

    def predict(
        self, variables: Variables, records: Records, positions: Sequence[int]
    ) -> Iterator[tuple[int, Float[np.ndarray, "s s c"]]]:
        """Yields (position, probabilities in the model's square) for this process's share.

        Positions are cut into batches of one shape. The last is padded with black images, whose
        results are dropped: one compilation, and every example counts once.
        """
        local = self.batch_size // jax.process_count()
        first = jax.process_index() * local
        starts = range(0, len(positions), self.batch_size)
        batches = [positions[start : start + self.batch_size] for start in starts]
        parts = [batch[first : first + local] for batch in batches]
        # Two in flight, so that the device works while results are fetched and measured.
        running: collections.deque[tuple[Sequence[int], jax.Array]] = collections.deque()
        for part, images in zip(parts, records.images_in_batches(parts, local), strict=True):
            running.append((part, self.forward(variables, self._parallel.shard(images))))
            if len(running) == 2:
                yield from self._collect(*running.popleft())
        while running:
            yield from self._collect(*running.popleft())

    def _collect(
        self, positions: Sequence[int], squares: jax.Array
    ) -> Iterator[tuple[int, Float[np.ndarray, "s s c"]]]:
        yield from zip(positions, self._parallel.collect(squares), strict=False)

    def measure(self, variables: Variables, records: Records) -> list[ImageMetrics]:
        """Returns the figures of every example of a split, in the records' order."""
        figures = np.full((len(records), len(MEASURED)), np.nan)
        measured_here = np.zeros(len(records), bool)
        measure = functools.partial(_measure, self.evaluation, records)
        with (
            terminal.progress(f"evaluate {records.split}", len(records), "image") as bar,
            concurrent.futures.ThreadPoolExecutor(usable_cores()) as pool,
        ):
            predicted = self.predict(variables, records, range(len(records)))
            # Bounded, so that a large split's full-size masks never pile up in memory.
            for position, row in map_ahead(pool, measure, predicted, 4 * self.batch_size):
                figures[position] = row
                measured_here[position] = True
                bar.update()
        figures = _gather(figures, measured_here)
        rows = [_as_metrics(records.metadata(i), row) for i, row in enumerate(figures)]
        return name_patients(rows)

    def overlays(
        self, variables: Variables, records: Records, positions: Sequence[int]
    ) -> dict[int, np.ndarray]:
        """Returns RGB images of reference and prediction for this process's share of examples."""
        overlays = {}
        for position, square in self.predict(variables, records, positions):
            example = records.example(position)
            overlays[position] = draw_overlay(
                to_original(records.images([position])[0] / np.float32(65535), example)[..., 0],
                predicted_mask(square, example),
                example.original_mask > 0,
            )
        return overlays


def predicted_mask(
    square: Float[np.ndarray, "s s c"], example: Example
) -> Bool[np.ndarray, "h w c"]:
    """Returns the masks, in the original frame, that probabilities in the model's square give.

    Probabilities are resized, then thresholded, so that the outline is placed to a fraction of one
    of the square's pixels.
    """
    return to_original(square, example) > THRESHOLD


def lung_probability(
    square: Float[np.ndarray, "s s c"], example: Example
) -> Float[np.ndarray, "h w"]:
    """Returns the probability of either lung in the frame of an example's file, smoothed.

    `make_segmentation` computes the same for a file, before `keep_lungs`.
    """
    return to_original(smooth(square), example).max(axis=-1)


def to_original(square: Float[np.ndarray, "s s c"], example: Example) -> Float[np.ndarray, "h w c"]:
    """Returns values of the model's square in the frame of an example's file."""
    seen = channels_from_square(square, example.field)
    return example.field.paste(seen, *example.original_mask.shape[:2])


def _measure(
    config: EvaluationConfig, records: Records, predicted: tuple[int, Float[np.ndarray, "s s c"]]
) -> tuple[int, Float64[np.ndarray, " f"]]:
    """Returns the position of an example and what is measured of it."""
    position, square = predicted
    example = records.example(position)
    # The figures are those of the lungs, whatever other classes there are.
    probability = lungs_of(to_original(square, example), records.labels)
    figures = measure_masks(
        probability > THRESHOLD,
        lungs_of(example.original_mask, records.labels) > 0,
        spacing_mm=example.spacing_mm,
        tolerance_px=config.tolerance_px,
        tolerance_mm=config.tolerance_mm,
        probability=probability,
    )
    return position, np.array([figures.get(name, NAN) for name in MEASURED])


def _as_metrics(metadata: Metadata, numbers: Float[np.ndarray, " f"]) -> ImageMetrics:
    """Returns the metrics of an example from the numbers that `MEASURED` lists."""
    values = dict(zip(MEASURED, numbers.tolist(), strict=True))
    # Counts travel as float64, which holds whole numbers exactly up to 2⁵³.
    return ImageMetrics(
        metadata.example_id,
        metadata.source,
        patient=metadata.patient_id,
        finding=metadata.finding,
        sex=metadata.sex,
        age_years=metadata.age_years,
        **values | {name: int(values[name]) for name in COUNTS},
    )


def _gather(
    figures: Float[np.ndarray, "n f"], measured_here: Bool[np.ndarray, " n"]
) -> Float[np.ndarray, "n f"]:
    """Returns the rows of all processes, each from the process that measured it.

    Raises:
      AssertionError: an example was measured twice or not at all.
    """
    if jax.process_count() == 1:
        assert measured_here.all(), "an example was not evaluated"
        return figures
    # As halves of 32 bits, because JAX would round float64 to float32.
    halves, measured_by = multihost_utils.process_allgather(
        (figures.view(np.uint32), measured_here)
    )
    assert (np.sum(measured_by, axis=0) == 1).all(), "an example was not evaluated exactly once"
    owner = np.argmax(measured_by, axis=0)
    return np.asarray(halves)[owner, np.arange(len(owner))].view(np.float64)


if __name__ == "__main__":
    command = "python -m lungseg_jax.main --mode=eval --workdir=RUN"
    sys.exit(f"Error: lungseg_jax.evaluate is no command: {command} evaluates")
