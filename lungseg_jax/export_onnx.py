"""Writes a trained network as an ONNX file, for runtimes and languages without JAX.

Usage: python -m lungseg_jax.export_onnx --output=FILE.onnx

--output=FILE        file to write
--checkpoint=NAME    file of lungseg_jax.export, or folder of a run, which is not calibrated;
                     without it, the weights in the package

What goes in and comes out: docs/predict.md.
"""

import importlib.util
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from absl import flags

from lungseg_jax import terminal
from lungseg_jax.command import run_command
from lungseg_jax.command_line import parse_flags_alone
from lungseg_jax.errors import ConfigError
from lungseg_jax.find_weights import PACKAGED, find_weights
from lungseg_jax.models.onnx_graph import onnx_model
from lungseg_jax.models.unet import UNet
from lungseg_jax.paths import local_path, make_folder, write_whole
from lungseg_jax.weights import Weights, describe

if TYPE_CHECKING:
    from onnx import ModelProto

SUFFIX = ".onnx"


def onnx_of(weights: Weights) -> "ModelProto":
    """Returns a trained network in ONNX, with what `describe` returns as its metadata.

    Args:
      weights: the network's weights.

    Raises:
      ConfigError: the network is not a `UNet`.
    """
    from onnx import helper

    network = weights.network()
    if not isinstance(network, UNet):
        fault, remedy = "is not written, only UNet", "add it to lungseg_jax/models/onnx_graph.py"
        raise ConfigError(type(network).__name__, fault, remedy)
    model = onnx_model(network, weights.config.data.image_size)
    helper.set_model_props(model, describe(weights))
    return model


def main(arguments: Sequence[str]) -> int:
    """Writes the file; returns the exit code."""
    again = "run the same command to start over"
    return run_command(arguments, str(__doc__), lambda: _run(arguments), again)


def _run(arguments: Sequence[str]) -> None:
    values = flags.FlagValues()
    output = flags.DEFINE_string("output", None, "File to write.", flag_values=values)
    names = flags.DEFINE_multi_string("checkpoint", [PACKAGED], "Weights.", flag_values=values)
    parse_flags_alone(values, arguments)
    if not output.value:
        raise ConfigError("--output", "is missing", "give the file to write")
    path = local_path(output.value)
    if not output.value.endswith(SUFFIX):
        raise ConfigError("--output", f"is {output.value}", f"end it in {SUFFIX}")
    if len(names.value) > 1:
        raise ConfigError("--checkpoint", "is given several times", "write a file of each")
    if importlib.util.find_spec("onnx") is None:
        raise ConfigError("onnx", "is not installed", "pip install onnx")
    make_folder(path.parent)
    weights = find_weights(names.value[0])
    write_whole(path, onnx_of(weights).SerializeToString(deterministic=True))
    threshold = weights.calibration.threshold
    terminal.say(f"{output.value} written; a pixel is lung above a probability of {threshold}")


if __name__ == "__main__":
    sys.exit(main(sys.argv))
