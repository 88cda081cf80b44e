"""How another runtime, and bfloat16 in it, changes the packaged network's masks.

  python -m benchmarks.onnx_masks FOLDER

FOLDER holds Kaggle's data set. Each image's mask in the model's square, at the calibrated
threshold, is compared with JAX's, for ONNX Runtime and for OpenVINO in float32 and in bfloat16.
Writes `benchmarks/results/onnx_masks.json`.
"""

import json
from typing import Any

import numpy as np

from benchmarks.command import call_with_arguments
from benchmarks.result_files import write_result
from lungseg_jax.export_onnx import onnx_of
from lungseg_jax.find_weights import PACKAGED, find_weights
from lungseg_jax.imaging.network_input import read_network_input
from lungseg_jax.imaging.radiograph import ReadOptions
from lungseg_jax.metrics import dice_of
from lungseg_jax.prediction.segmenter import Segmenter
from lungseg_jax.runtime.environment import environment
from tfds_builder.sources import FolderPatterns, list_source


def main(folder: str) -> None:
    """Compares and writes."""
    own_environment, weights = environment(), find_weights(PACKAGED)
    segmenter, runtimes = Segmenter(weights), _runtimes(onnx_of(weights).SerializeToString())
    threshold, size = weights.calibration.threshold, weights.config.data.image_size
    dice: dict[str, list[float]] = {name: [] for name in runtimes}
    furthest: dict[str, float] = dict.fromkeys(runtimes, 0.0)
    for case in list_source("kaggle", folder, FolderPatterns()).cases:
        _, square = read_network_input(case.image, ReadOptions(), size)
        (ours,) = segmenter.predict([square])
        for name, run in runtimes.items():
            theirs = run(np.moveaxis(square, -1, 0)[None])[0, 0]
            dice[name].append(dice_of(theirs > threshold, ours.square[..., 0] > threshold))
            furthest[name] = max(furthest[name], float(np.abs(theirs - ours.square[..., 0]).max()))
    found = {
        name: {
            "images": len(values),
            "mean_dice": round(float(np.mean(values)), 5),
            "least_dice": round(min(values), 5),
            "largest_difference_of_probability": round(furthest[name], 5),
        }
        for name, values in dice.items()
    }
    write_result("onnx_masks", own_environment | {"masks": found})
    print(json.dumps(found, indent=2))


def _runtimes(model: bytes) -> dict[str, Any]:
    """Returns functions from images to probabilities, by name and data type of the runtime."""
    # Imported here, because they are not dependencies.
    import onnxruntime
    import openvino

    session = onnxruntime.InferenceSession(model)
    found: dict[str, Any] = {
        "onnxruntime float32": lambda images: session.run(None, {"images": images})[0]
    }
    core = openvino.Core()
    for dtype, hint in (("float32", "f32"), ("bfloat16", "bf16")):
        options = {"INFERENCE_PRECISION_HINT": hint}
        compiled = core.compile_model(core.read_model(model), "CPU", options)
        found[f"openvino {dtype}"] = lambda images, compiled=compiled: compiled(images)[0]
    return found


if __name__ == "__main__":
    call_with_arguments(main, __doc__)
