"""Writes the tables of figures in README, docs and model card from the committed result files.

python -m benchmarks.readme_tables
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.command import call_with_arguments
from benchmarks.document_style import without_leading_zeros
from benchmarks.model_forms import FORMS
from benchmarks.result_files import RESULTS, read_result
from lungseg_jax.config import ModelConfig
from lungseg_jax.performance.flops import forward_flops, training_flops
from lungseg_jax.performance.hardware import ACCELERATORS

ROOT = Path(__file__).parent.parent
EXPERIMENTS = {"unet": "phantoms", "kaggle": "Montgomery + Shenzhen"}

# Results of `benchmarks/accuracy.py`, and what the networks were trained on.
PROTOCOLS = {
    "pooled": "70 % of Montgomery and Shenzhen",
    "folds": "70 % of both, five times (cross-validation)",
    "montgomery_to_shenzhen": "Montgomery",
    "shenzhen_to_montgomery": "Shenzhen",
    "phantoms_to_real": "phantoms alone",
}

BATCHES = (32, 64, 128)


def results_table() -> str:
    """Returns the table of every experiment's test split and each source in it."""
    lines = [
        "| config | test images | Dice | IoU | HD95 px | ASSD px | time | hardware |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for experiment, data in EXPERIMENTS.items():
        result = read_result(experiment)
        test = result["metrics"]["test"]
        time = f"{result['seconds'] / 60:.1f} min"
        lines.append(_row(f"`configs/{experiment}.py`", data, test, time, result["hardware"]))
        for source, figures in test.get("by_source", {}).items():
            lines.append(_row("", source.capitalize(), figures, "", ""))
    return "\n".join(lines)


def accuracy_table(*, by_source: bool) -> str:
    """Returns the table of every protocol's test images and, if wanted, each source in them."""
    lines = [
        "| trained on | tested on | images | Dice (95 % interval) | 5th percentile | HD95 px "
        "| ASSD px | surface Dice (2 px) |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for protocol, trained_on in PROTOCOLS.items():
        groups = read_result(f"accuracy_{protocol}")["test"]["two lungs kept"]
        # With a single source, the row of all images says the same.
        names = [name for name in groups if name != "all" or len(groups) > 2]
        names = names if by_source else names[:1]
        for name in names:
            figures = groups[name]
            between = figures["dice"]["mean_between"]
            interval = f" ({between[0]:.4f} to {between[1]:.4f})" if between else ""
            cells = [
                trained_on if name == names[0] else "",
                "both" if name == "all" else name.capitalize(),
                str(figures["images"]),
                f"{figures['dice']['mean']:.4f}{interval}",
                f"{figures['dice']['worst_twentieth']:.4f}",
                f"{figures['hd95_px']['mean']:.2f}",
                f"{figures['assd_px']['mean']:.2f}",
                f"{figures['surface_dice']['mean']:.4f}",
            ]
            lines.append(_line(cells))
    return "\n".join(lines)


def estimate_table() -> str:
    """Returns the table of how the estimate of Dice agrees with Dice, by protocol."""
    lines = [
        "| trained on | images | estimate minus Dice, mean | off by, mean "
        "| the best constant guess | rank correlation with Dice "
        "| masks below 0.9 found at 5 % false alarms |",
        "|---|---|---|---|---|---|---|",
    ]
    for protocol, trained_on in PROTOCOLS.items():
        quality = read_result(f"accuracy_{protocol}")["quality"]
        estimate, dice = np.array(quality["points"]).T
        cells = [
            trained_on,
            str(len(dice)),
            f"{np.mean(estimate - dice):+.3f}",
            f"{np.mean(np.abs(estimate - dice)):.3f}",
            f"{np.mean(np.abs(dice - np.median(dice))):.3f}",
            f"{quality['rank_correlation']:.2f}",
            f"{quality['bad_masks_found_at_5_percent_false_alarms']} of {quality['bad_masks']}",
        ]
        lines.append(_line(cells))
    return "\n".join(lines)


def forms_table() -> str:
    """Returns the table of predicted TPU performance and accuracy of forms of the network."""
    predicted, runs = read_result("tpu"), read_result("forms")["runs"]
    lines = [
        "| form | images | v5e images/s | MFU | v6e images/s | MFU "
        "| Dice at a quarter of the width |",
        "|---|---|---|---|---|---|---|",
    ]
    for form, model in FORMS.items():
        name = f"{form.replace('-', ' ')}: width {model.width}, depth {model.depth}"
        dice = [run["test_dice"] for run in runs[f"{form}-{model.width // 4}"].values()]
        for batch in BATCHES:
            found = [predicted.get(f"{kind}:2x2:{form}:256:{batch}") for kind in ("v5e", "v6e")]
            if not any(found):
                continue
            first = batch == BATCHES[0]
            accuracy = f"{np.mean(dice):.4f} ± {np.std(dice, ddof=1):.4f}" if first else ""
            cells = [name if first else "", str(batch), *_rates(found), accuracy]
            lines.append(_line(cells))
    large = [predicted[f"{kind}:2x2:blocks-of-4-wide:512:16"] for kind in ("v5e", "v6e")]
    model = large[0]["model"]
    name = f"blocks of 4: width {model['width']}, depth {model['depth']}, at 512²"
    lines.append(_line([name, "16", *_rates(large), ""]))
    return "\n".join(lines)


def _rates(predictions: Sequence[Mapping[str, Any] | None]) -> list[str]:
    """Returns the cells of rate and MFU of each prediction, empty where there is none."""
    cells = []
    for prediction in predictions:
        step = prediction["train_step"] if prediction else {}
        cells.append(f"{step['images_per_second_per_device']:,.0f}" if step else "")
        cells.append(f"{step['mfu']:.1%}" if step else "")
    return cells


def gpu_table() -> str:
    """Returns the table of races against PyTorch on GPUs."""
    lines = [
        "| GPU | work | images/s | MFU (of the measured peak) | PyTorch images/s | MFU | ratio |",
        "|---|---|---|---|---|---|---|",
    ]
    for file in sorted(path.stem for path in RESULTS.glob("gpu_*.json")):
        for case in read_result(file).get("cases", {}).values():
            ratio = case["ratios"]["bfloat16"]
            if ratio is None:
                continue
            ours, theirs = (case["programs"][ratio[side]] for side in ("ours", "theirs"))
            share = ours.get("mfu_of_measured_peak")
            measured = f" ({share:.1%})" if share else ""
            cells = [
                case["hardware"],
                f"{ours['task']}, {ours['batch_size']} at a time",
                f"{ours['median']:,.0f}",
                f"{_vendor_mfu(case['hardware'], ours):.1%}{measured}",
                f"{theirs['median']:,.0f}",
                f"{_vendor_mfu(case['hardware'], theirs):.1%}",
                _with_range(ratio),
            ]
            lines.append(_line(cells))
    return "\n".join(lines)


def cpu_table() -> str:
    """Returns the table of races against PyTorch on a CPU."""
    lines = [
        "| work | PyTorch in | images/s of the fastest PyTorch | lungseg_jax | ratio "
        "| OpenVINO with the exported network | ratio |",
        "|---|---|---|---|---|---|---|",
    ]
    for case in read_result("peers_cpu")["cases"].values():
        for dtype, ratio in case["ratios"].items():
            if ratio is None:
                continue
            programs, exported = case["programs"], case["exported_ratios"][dtype]
            ours, theirs = programs[ratio["ours"]], programs[ratio["theirs"]]
            size = f"{ours['image_size']}², width {ours['width']}, batch {ours['batch_size']}"
            cells = [
                f"{ours['task']}, {size}",
                "bfloat16 autocast" if dtype == "bfloat16" else dtype,
                f"{theirs['median']:.1f} ({ratio['theirs'].removeprefix('pytorch ')})",
                f"{ours['median']:.1f} ({ours['dtype']})",
                _with_range(ratio),
                f"{programs[exported['ours']]['median']:.1f}" if exported else "",
                _with_range(exported) if exported else "",
            ]
            lines.append(_line(cells))
    return "\n".join(lines)


def _with_range(ratio: Mapping[str, Any]) -> str:
    """Returns the median of a ratio, and the range over turns."""
    low, high = min(ratio["by_turn"]), max(ratio["by_turn"])
    return f"{ratio['median']:.2f} ({low:.2f} to {high:.2f})"


def _vendor_mfu(hardware: str, program: Mapping[str, Any]) -> float:
    """Returns a program's share of the vendor's dense bfloat16 peak."""
    model = ModelConfig(**{key: program[key] for key in ("width", "depth", "block_size")})
    count_flops = {"train": training_flops, "inference": forward_flops}[program["task"]]
    size = program["image_size"]
    done = program["median"] * count_flops(model, size, size)
    return done / (1e12 * ACCELERATORS[hardware].tflops)


def pods_table() -> str:
    """Returns the table of predicted efficiencies by kind and number of devices."""
    result = read_result("scaling")
    compiled, predicted = result["compiled"], result["predicted"]
    counts = sorted({found["num_devices"] for found in compiled.values()})
    devices = [f"{count} devices" for count in counts]
    rates = f"images/s on {counts[0]} | images/s on {counts[-1]}"
    lines = [
        f"| | step ms | efficiency on {' | '.join(devices)} | {rates} |",
        "|---" * (len(counts) + 4) + "|",
    ]
    for kind in sorted({topology.partition(":")[0] for topology in compiled}):
        rows = {
            found["num_devices"]: predicted[name]
            for name, found in compiled.items()
            if name.startswith(f"{kind}:")
        }
        step = f"{rows[counts[0]]['step_ms']:.2f}"
        lines.append(_line([f"TPU {kind}", step, *_by_count(rows, counts, "")]))
    # Of any kind of TPU, whose modules have the same gradients.
    gpus = {found["num_devices"]: predicted[name] for name, found in compiled.items()}
    images = result["images_per_device"] * counts[0]
    rate = gpus[counts[0]]["h200_images_per_second"] / gpus[counts[0]]["h200_efficiency"]
    step = f"{1e3 * images / rate:.2f} (assumed)"
    lines.append(_line(["H200, eight per node", step, *_by_count(gpus, counts, "h200_")]))
    return "\n".join(lines)


def _by_count(
    rows: Mapping[int, Mapping[str, float]], counts: Sequence[int], prefix: str
) -> list[str]:
    """Returns the cells of efficiencies, and of the rates of the fewest and the most devices."""
    efficiencies = [f"{rows[count][f'{prefix}efficiency']:.1%}" for count in counts]
    rates = [
        _rounded(rows[count][f"{prefix}images_per_second"]) for count in (counts[0], counts[-1])
    ]
    return [*efficiencies, *rates]


def scaling_table() -> str:
    """Returns the table of what each compiled topology communicates in a step."""
    result = read_result("scaling")
    lines = [
        "| topology | devices | GiB per device | gradients MiB | their all-reduce ms "
        "| other all-reduces | bytes | ms | efficiency | images/s at most |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for topology, found in result["compiled"].items():
        predicted, reduced = result["predicted"][topology], found["collectives"]["all-reduce"]
        cells = [
            f"`{topology}`",
            str(found["num_devices"]),
            f"{found['memory']['used_gib']:.1f}",
            f"{reduced['largest'] / 2**20:.1f}",
            f"{predicted['gradient_all_reduce_ms']:.2f}",
            str(reduced["count"] - 1),
            f"{reduced['bytes'] - reduced['largest']:,}",
            f"{predicted['small_all_reduces_ms']:.2f}",
            f"{predicted['efficiency']:.1%}",
            _rounded(predicted["images_per_second"]),
        ]
        lines.append(_line(cells))
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _rounded(rate: float) -> str:
    """Returns a predicted rate to three digits, more than it is good for."""
    return f"{float(f'{rate:.3g}'):,.0f}"


Tables = Mapping[str, Callable[[], str]]

# The tables of each document, by the name in their markers.
TABLES: Mapping[str, Tables] = {
    "README.md": {
        "protocols": functools.partial(accuracy_table, by_source=False),
        "pods": pods_table,
    },
    "docs/accuracy.md": {"results": results_table},
    "docs/benchmarking.md": {"cpu": cpu_table, "gpu": gpu_table},
    "docs/tpu.md": {"forms": forms_table, "scaling": scaling_table},
    "lungseg_jax/pretrained/MODEL_CARD.md": {
        "accuracy": functools.partial(accuracy_table, by_source=True),
        "estimate": estimate_table,
    },
}


def with_tables(text: str, tables: Tables) -> str:
    """Returns a document with the tables between their markers replaced.

    Raises:
      ValueError: a marker is not there exactly once.
    """
    for name, table in tables.items():
        marks = f"<!-- {name}: benchmarks/readme_tables.py -->", f"<!-- end of {name} -->"
        for mark in marks:
            if text.count(mark) != 1:
                raise ValueError(f"{text.count(mark)} times in the document: {mark}")
        start, end = marks
        before, _, rest = text.partition(start)
        told = without_leading_zeros(table())
        text = f"{before}{start}\n{told}\n{end}{rest.partition(end)[2]}"
    return text


def _row(config: str, data: str, figures: dict, time: str, hardware: str) -> str:
    cells = [
        config,
        f"{figures['num_examples']} ({data})",
        *(f"{figures[key]:.4f}" for key in ("dice", "iou")),
        *(f"{figures[key]:.2f}" for key in ("hd95_px", "assd_px")),
        time,
        hardware,
    ]
    return _line(cells)


def main() -> None:
    """Writes all tables."""
    for document, tables in TABLES.items():
        path = ROOT / document
        path.write_text(with_tables(path.read_text(), tables))


if __name__ == "__main__":
    call_with_arguments(main, __doc__)
