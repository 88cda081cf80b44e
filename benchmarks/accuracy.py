"""Accuracy of a run's predictions, with and without post-processing and averaging.

  python -m benchmarks.accuracy NAME WORKDIR… [on FOLDER SPLITS]

Measures the test split of the run; of all runs together if they are the folds of a
cross-validation; or, for a run on phantoms, the test split of SPLITS on Kaggle's "Chest Xray Masks
and Labels" in FOLDER. Measured in the original frame: mean, spread, 5th percentile and 95 %
bootstrap intervals, by source; how the estimate of Dice ranks images, and how many bad masks it
finds at 5 % false alarms among the same images. Threshold and calibration come from the validation
split alone. Writes `benchmarks/results/accuracy_NAME.json`.
"""

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import Bool
from scipy.stats import spearmanr

from benchmarks.command import call_with_arguments
from benchmarks.result_files import write_result
from lungseg_jax.config import Config
from lungseg_jax.data.records import Example, Records, open_records
from lungseg_jax.evaluate import Evaluator, lung_probability, to_original
from lungseg_jax.export import calibrated_weights_of_run
from lungseg_jax.metrics import DISTANCES, ImageMetrics, measure_masks, spread, summarize
from lungseg_jax.parallel import all_devices
from lungseg_jax.prediction import quality
from lungseg_jax.prediction.plausibility import MIN_DICE
from lungseg_jax.prediction.postprocessing import keep_lungs
from lungseg_jax.runtime.environment import environment
from lungseg_jax.weights import Weights
from lungseg_jax.workdir import read_starts

FALSE_ALARMS = 0.05

# Metrics whose means are kept.
METRICS = ("dice", "iou", "hd95_px", "assd_px", "surface_dice")

Rows = dict[str, list[ImageMetrics]]


def main(name: str, workdir: str, *others: str) -> None:
    """Measures and writes."""
    own_environment = environment()
    workdirs, elsewhere = (workdir, *others), ()
    if others[-3:-2] == ("on",):
        workdirs, elsewhere = (workdir, *others[:-3]), others[-2:]
    rows: Rows = {"threshold only": [], "two lungs kept": [], "and both ways": []}
    runs, estimates, calibrations = [], [], []
    for workdir in workdirs:
        weights = calibrated_weights_of_run(workdir)
        config = _on(weights.config, *elsewhere) if elsewhere else weights.config
        run_rows, run_estimates = measure(weights, open_records(config)["test"])
        for way, way_rows in run_rows.items():
            rows[way] += way_rows
        runs.append({"seed": weights.config.seed, "starts": starts_of(workdir)})
        estimates.append(run_estimates)
        calibrations.append(dataclasses.asdict(weights.calibration))
    kept = rows["two lungs kept"]
    assert len({row.id for row in kept}) == len(kept), "runs that share test images"
    ranked = sorted((row for row in kept if not np.isnan(row.dice)), key=lambda row: row.dice)
    worse = [
        {"id": after.id, "before": before.hd95_px, "after": after.hd95_px}
        for before, after in zip(rows["threshold only"], kept, strict=True)
        if after.hd95_px > before.hd95_px
    ]
    result = {
        "measured_with": own_environment,
        "runs": runs,
        "calibrations": calibrations,
        "test": {way: by_source(way_rows) for way, way_rows in rows.items()},
        "hd95_worse_by_post_processing": worse,
        "quality": judge_quality(np.concatenate(estimates), np.array([row.dice for row in kept])),
        "worst": [
            {"id": row.id, "dice": round(row.dice, 4), "hd95_px": round(row.hd95_px, 1)}
            for row in ranked[:10]
        ],
    }
    write_result(f"accuracy_{name}", result)
    print(json.dumps(result, indent=2))


def starts_of(workdir: str) -> list[dict]:
    """Returns what a run was made with, without folders of the machine on which it was made."""
    starts = read_starts(epath.Path(workdir))
    for start in starts:
        if "start_from" in start:
            start["start_from"] = epath.Path(start["start_from"]).name
    return starts


def _on(config: Config, folder: str, splits: str) -> Config:
    data = dataclasses.replace(config.data, source="kaggle", manual_dir=folder, splits=splits)
    return dataclasses.replace(config, data=data)


def measure(weights: Weights, records: Records) -> tuple[Rows, np.ndarray]:
    """Returns each example's metrics for each way of making a mask, and its estimated Dice."""
    parallel = all_devices("mesh")
    evaluator = Evaluator(weights.config, parallel)
    variables = parallel.replicate(weights.variables)
    mirrored = _mirrored(evaluator, parallel, variables, records)
    rows: Rows = {"threshold only": [], "two lungs kept": [], "and both ways": []}
    estimates = []
    threshold = weights.calibration.threshold
    for position, square in evaluator.predict(variables, records, range(len(records))):
        example, patient = records.example(position), records.metadata(position).patient_id
        probabilities = to_original(square, example).max(axis=-1)
        both = (square + mirrored[position]) / 2
        estimates.append(quality.estimate_dice(square.max(axis=-1), weights.calibration))
        masks = (
            probabilities > threshold,
            *(keep_lungs(lung_probability(x, example), threshold) for x in (square, both)),
        )
        for way_rows, mask in zip(rows.values(), masks, strict=True):
            way_rows.append(figures_of(mask, example, weights.config, patient))
    return rows, np.array(estimates)


def figures_of(
    mask: Bool[np.ndarray, "h w"], example: Example, config: Config, patient: str = ""
) -> ImageMetrics:
    """Returns the metrics of a mask of both lungs; distances in pixels of the original frame."""
    figures: Any = measure_masks(
        mask[..., None],
        np.any(example.original_mask > 0, axis=-1, keepdims=True),
        spacing_mm=None,
        tolerance_px=config.evaluation.tolerance_px,
        tolerance_mm=config.evaluation.tolerance_mm,
    )
    return ImageMetrics(example.example_id, example.source, patient=patient, **figures)


def _mirrored(evaluator: Evaluator, parallel, variables, records: Records) -> dict[int, np.ndarray]:  # noqa: ANN001
    """Returns the probabilities of each example's mirror image, mirrored back."""
    found = {}
    for start in range(0, len(records), evaluator.batch_size):
        positions = list(range(start, min(start + evaluator.batch_size, len(records))))
        filled = positions + [0] * (evaluator.batch_size - len(positions))
        images = records.images(filled)[:, :, ::-1]
        squares = parallel.collect(evaluator.forward(variables, parallel.shard(images)))
        found |= dict(zip(positions, squares[:, :, ::-1], strict=False))
    return found


def by_source(rows: Sequence[ImageMetrics]) -> dict[str, dict]:
    """Returns the metrics of all rows, and of each source."""
    sources = sorted({row.source for row in rows})
    groups = {"all": list(rows)} | {
        source: [row for row in rows if row.source == source] for source in sources
    }
    return {name: figures_with_spread(group) for name, group in groups.items()}


def figures_with_spread(rows: Sequence[ImageMetrics]) -> dict:
    """Returns counts of failures, and each metric's mean, deviation, worst twentieth and interval.

    A metric that no row has is left out. A single row has no standard deviation, and few rows have
    no interval.
    """
    summary, spreads = summarize(rows), spread(rows)
    result: dict = {
        "images": len(rows),
        "empty_predictions": summary["num_empty_predictions"],
        "false_lungs": summary["num_false_lungs"],
    }
    for figure in METRICS:
        if figure in spreads:
            values = [getattr(row, figure) for row in rows]
            told = spreads[figure]
            result[figure] = {
                "mean": _rounded(summary[figure]),
                "standard_deviation": _rounded(told["standard_deviation"]),
                "worst_twentieth": _rounded(told["worst_twentieth"]),
                "worst": _rounded((np.nanmax if figure in DISTANCES else np.nanmin)(values)),
                "mean_between": told["interval"] and [_rounded(end) for end in told["interval"]],
            }
    return result


def _rounded(figure: float | None) -> float | None:
    return None if figure is None else round(float(figure), 4)


def judge_quality(estimates: np.ndarray, dice: np.ndarray) -> dict:
    """Returns how the estimate of Dice agrees with Dice, over the images that have a Dice."""
    known = ~np.isnan(dice)
    estimates, dice = estimates[known], dice[known]
    bad = dice < MIN_DICE
    result: dict = {
        "rank_correlation": _rank_correlation(estimates, dice),
        "mean_absolute_error": round(float(np.abs(estimates - dice).mean()), 4)
        if len(dice)
        else None,
        "bad_masks": int(bad.sum()),
        "points": np.round(np.stack([estimates, dice], axis=1), 4).tolist(),
    }
    if bad.any() and not bad.all():
        bound = np.quantile(estimates[~bad], FALSE_ALARMS)
        result["bad_masks_found_at_5_percent_false_alarms"] = int((estimates[bad] < bound).sum())
    return result


def _rank_correlation(first: np.ndarray, second: np.ndarray) -> float | None:
    """Returns Spearman's coefficient; `None` if one side has only one value, or none."""
    if len(first) < 2 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return None
    return round(float(np.asarray(spearmanr(first, second))[0]), 3)


if __name__ == "__main__":
    call_with_arguments(main, __doc__)
