"""Networks in ONNX, run by ONNX Runtime: the same function as in Flax."""

import dataclasses
import json
import os
import subprocess
import sys
from itertools import count

import jax
import numpy as np
import onnx
import onnxruntime
import pytest
from flax import nnx

from lungseg_jax import export_onnx
from lungseg_jax.errors import ConfigError
from lungseg_jax.export_onnx import onnx_of
from lungseg_jax.imaging.files import radiograph_of
from lungseg_jax.imaging.network_input import network_input
from lungseg_jax.imaging.radiograph import ReadOptions
from lungseg_jax.network import make_forward
from lungseg_jax.prediction.segmenter import Segmenter
from lungseg_jax.weights import Calibration, Weights, load_weights, packaged_weights, save_weights
from tests.untrained import untrained_weights
from tfds_builder.phantom import generate_phantom


def run(model: onnx.ModelProto, images: np.ndarray) -> np.ndarray:
    """Returns probabilities (b, h, w, c) of images (b, h, w, 1)."""
    session = onnxruntime.InferenceSession(model.SerializeToString())
    (probabilities,) = session.run(None, {"images": images.transpose(0, 3, 1, 2)})
    return np.asarray(probabilities).transpose(0, 2, 3, 1)


def with_random_variables(weights: Weights) -> Weights:
    """Returns weights none of whose scales, shifts and statistics is what it is at the start."""
    seeds = count()

    def random(x: np.ndarray) -> np.ndarray:
        # Variances must not be negative.
        return np.random.default_rng(next(seeds)).uniform(0.5, 1.5, x.shape).astype(x.dtype)

    return dataclasses.replace(
        weights,
        variables=jax.tree.map(lambda x: random(x) if x.ndim == 1 else x, weights.variables),
    )


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"model__block_size": 2},
        {"model__block_size": 4, "data__labels": "left_right"},
        {"data__labels": "left_right", "model__block_size": 2},
        {"model__norm": "group", "model__width": 8},
        {"model__activation": "silu"},
        {"model__activation": "gelu", "model__depth": 3},
    ],
    ids=str,
)
def test_the_same_function_as_in_flax(changes):
    """Fault: kernels transposed, sub-pixels or classes in another order, a layer left out.

    Also a normalisation, activation or padding that is another one's.
    """
    weights = with_random_variables(untrained_weights(Calibration(), **changes))
    size = weights.config.data.image_size
    # Of another number than any side or channel, so that a number in the graph would show.
    images = np.random.default_rng(0).integers(0, 65536, (3, size, size, 1)).astype(np.uint16)
    forward = jax.jit(make_forward(weights.config))
    expected = np.asarray(forward(weights.variables, images))
    assert expected.std() > 0.01, "saturated: nothing to compare"
    np.testing.assert_allclose(run(onnx_of(weights), images), expected, atol=2e-6)


def test_packaged_weights_find_the_same_lungs(tmp_path):
    """Fault: a file by which another runtime finds other lungs, or a threshold that is not told."""
    output = tmp_path / "lungs.onnx"
    assert export_onnx.main(["export_onnx", f"--output={output}"]) == 0
    model = onnx.load(output)
    weights = load_weights(packaged_weights())
    told = {entry.key: json.loads(entry.value) for entry in model.metadata_props}
    # Fault: a format that the runtimes of two years ago do not read.
    assert model.ir_version == 9
    assert [(one.domain, one.version) for one in model.opset_import] == [("", 20)]
    # Fault: other names than docs/predict.md keeps in float32, by which float16 finds other lungs.
    assert [node.name for node in model.graph.node[:3]] == ["Cast_0", "Div_1", "SpaceToDepth_2"]
    assert told["calibration"] == dataclasses.asdict(weights.calibration)
    assert told["config"]["data"] == {"image_size": 256, "labels": "lungs"}
    phantom = radiograph_of(generate_phantom(5, 4).image, ReadOptions())
    squares = np.stack([network_input(phantom, "phantom", 256)])
    ours = [found.square for found in Segmenter(weights).predict(list(squares))]
    theirs = run(model, squares)
    np.testing.assert_allclose(theirs, ours, atol=1e-4)
    threshold = told["calibration"]["threshold"]
    assert 0.1 < (theirs > threshold).mean() < 0.6, "no lungs to compare"


def test_the_same_network_is_the_same_file(tmp_path):
    """Fault: an order that differs each time, by which no published file can be made again."""
    save_weights(tmp_path / "x.safetensors", untrained_weights(Calibration()))
    contents = []
    # What differs between processes is the order of sets and hashes.
    for seed in ("1", "2"):
        output = tmp_path / f"{seed}.onnx"
        arguments = [f"--checkpoint={tmp_path / 'x.safetensors'}", f"--output={output}"]
        command = [sys.executable, "-m", "lungseg_jax.export_onnx", *arguments]
        subprocess.run(command, env=os.environ | {"PYTHONHASHSEED": seed}, check=True)
        contents.append(output.read_bytes())
    assert contents[0] == contents[1]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "--output: is missing"),
        (["--output=net.safetensors"], "end it in .onnx"),
        (["--output=gs://bucket/net.onnx"], "is not on disk"),
        (
            ["--output=net.onnx", "--checkpoint=packaged", "--checkpoint=a.safetensors"],
            "--checkpoint: is given several times; write a file of each",
        ),
        (["net.onnx", "--output=net.onnx"], "unknown argument 'net.onnx'"),
        (["--output=net.onnx", "--checkpoint=absent"], "absent: no such file or folder"),
    ],
)
def test_mistakes_end_in_one_line(arguments, said, capsys):
    """Fault: a traceback, or a file in a place that nobody asked for."""
    assert export_onnx.main(["export_onnx", *arguments]) == 1
    assert said in capsys.readouterr().err


def test_another_network_is_refused_by_its_name(monkeypatch):
    """Fault: an AttributeError about layers that a network of one's own does not have."""
    monkeypatch.setattr(Weights, "network", lambda _: nnx.Linear(2, 2, rngs=nnx.Rngs(0)))
    with pytest.raises(ConfigError, match=r"Linear: is not written, only UNet; add it to lungseg_"):
        onnx_of(untrained_weights(Calibration()))


def test_without_onnx_its_installation_is_told(capsys, monkeypatch):
    """Fault: an ImportError of a library that is not installed by default."""
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert export_onnx.main(["export_onnx", "--output=net.onnx"]) == 1
    assert "onnx: is not installed; pip install onnx" in capsys.readouterr().err
