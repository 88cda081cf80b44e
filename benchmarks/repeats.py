"""How results vary by chance: runs of one recipe and split with different seeds, and their mean.

  python -m benchmarks.repeats NAME WORKDIR WORKDIR…

Measures the test split, with the two lungs kept, in the original frame: each run's metrics, their
spread, the metrics of the mean of all networks, and how well masks of two networks agree, which
needs no reference. Thresholds come from each run's validation split. Writes
`benchmarks/results/repeats_NAME.json`.
"""

import itertools
import json
from collections.abc import Sequence

import numpy as np

from benchmarks.accuracy import by_source, figures_of, starts_of
from benchmarks.command import call_with_arguments
from benchmarks.result_files import write_result
from lungseg_jax.data.records import Records, open_records
from lungseg_jax.evaluate import Evaluator, lung_probability
from lungseg_jax.export import calibrated_weights_of_run
from lungseg_jax.metrics import ImageMetrics, dice_of
from lungseg_jax.parallel import all_devices
from lungseg_jax.prediction.postprocessing import keep_lungs
from lungseg_jax.runtime.environment import environment
from lungseg_jax.weights import Weights

SUMMARY = ("dice", "hd95_px", "assd_px")


def main(name: str, first: str, second: str, *others: str) -> None:
    """Measures and writes."""
    own_environment, workdirs = environment(), (first, second, *others)
    members = [calibrated_weights_of_run(workdir) for workdir in workdirs]
    records = [open_records(member.config)["test"] for member in members]
    ids = [[split.metadata(i).example_id for i in range(len(split))] for split in records]
    assert all(member_ids == ids[0] for member_ids in ids), "runs of other test images"
    squares = [_squares(member, split) for member, split in zip(members, records, strict=True)]
    thresholds = [member.calibration.threshold for member in members]
    mean_threshold = float(np.mean(thresholds))
    rows: list[list[ImageMetrics]] = [[] for _ in (*members, "mean")]
    agreement = []
    for position in range(len(ids[0])):
        example = records[0].example(position)
        each = [lung_probability(member_squares[position], example) for member_squares in squares]
        masks = [keep_lungs(*pair) for pair in zip(each, thresholds, strict=True)]
        agreement.append(_agreement(masks))
        masks.append(keep_lungs(np.mean(each, axis=0), mean_threshold))
        for network_rows, mask in zip(rows, masks, strict=True):
            network_rows.append(figures_of(mask, example, members[0].config))
    *single, mean = rows
    dice = np.array([[row.dice for row in network_rows] for network_rows in single])
    dice = dice[:, ~np.isnan(dice).any(axis=0)]
    result = {
        "measured_with": own_environment,
        "seeds": [member.config.seed for member in members],
        "starts": [starts_of(workdir) for workdir in workdirs],
        "runs": [_summary(network_rows) for network_rows in single],
        "spread_of_runs": _spread([_summary(network_rows) for network_rows in single]),
        "mean_of_networks": by_source(mean),
        "agreement_of_networks": {
            "dice": round(float(np.nanmean(agreement)), 4),
            "worst_twentieth": round(float(np.nanpercentile(agreement, 5)), 4),
            "correlation_of_their_dice_with_references": round(
                float(
                    np.mean([np.corrcoef(*pair)[0, 1] for pair in itertools.combinations(dice, 2)])
                ),
                3,
            ),
        },
    }
    write_result(f"repeats_{name}", result)
    print(json.dumps(result, indent=2))


def _agreement(masks: Sequence[np.ndarray]) -> float:
    """Returns the mean Dice of all pairs of masks; NaN if both masks of a pair are empty."""
    pairs = itertools.combinations(masks, 2)
    return float(np.mean([dice_of(*pair) if np.any(pair) else np.nan for pair in pairs]))


def _squares(weights: Weights, records: Records) -> dict[int, np.ndarray]:
    parallel = all_devices("mesh")
    evaluator = Evaluator(weights.config, parallel)
    variables = parallel.replicate(weights.variables)
    return dict(evaluator.predict(variables, records, range(len(records))))


def _summary(rows: Sequence[ImageMetrics]) -> dict[str, dict[str, float]]:
    """Returns the mean of some metrics, over all rows and over each source."""
    return {
        source: {name: figures[name]["mean"] for name in SUMMARY if name in figures}
        for source, figures in by_source(rows).items()
    }


def _spread(runs: Sequence[dict]) -> dict[str, dict[str, list[float]]]:
    """Returns the mean and standard deviation over runs of each of their metrics."""
    return {
        source: {
            figure: [
                round(float(function([run[source][figure] for run in runs])), 4)
                for function in (np.mean, lambda x: np.std(x, ddof=1))
            ]
            for figure in runs[0][source]
        }
        for source in runs[0]
    }


if __name__ == "__main__":
    call_with_arguments(main, __doc__)
