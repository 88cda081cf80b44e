"""Trained weights in a file: safetensors, which holds arrays and text and runs no code.

The file carries what is needed to use them: the configuration of the run and what was calibrated
on its validation split. A file `<name>.sha256` beside it, as `sha256sum -c` reads it, shows whether
it is intact; it is checked before anything is read from the file.
"""

import dataclasses
import hashlib
import json
import math
from importlib import resources
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from etils import epath
from flax import nnx

from lungseg_jax.config import Config, from_json
from lungseg_jax.errors import CheckpointError, ConfigError
from lungseg_jax.network import Variables, abstract_variables, model_graph
from lungseg_jax.paths import check_has_end, write_whole

# Half precision keeps three to four digits of a number in half the space.
_STORED = np.float16

_REMEDY = "fetch it again"

SUFFIX = ".safetensors"

# On validation images of three runs, Dice exceeded what the probabilities expect by .011 at most.
MARGIN = 0.05


@dataclasses.dataclass(frozen=True)
class Calibration:
    """What is chosen on validation data.

    Attributes:
      threshold: probability above which a pixel is lung.
      slope: slope of Dice over `quality.outline_doubt`, at most 0; `None` if not calibrated.
      intercept: intercept of the same line.
      margin: by how much an estimate may exceed what the probabilities themselves expect.
    """

    threshold: float = 0.5
    slope: float | None = None
    intercept: float = 1.0
    margin: float = MARGIN

    def in_range(self) -> bool:
        """Whether each number lies in its allowed range."""
        return (
            0 < self.threshold < 1
            and (self.slope is None or -math.inf < self.slope <= 0)
            and math.isfinite(self.intercept)
            and 0 <= self.margin <= 1
        )


# Compared by identity: of arrays, `==` is not one answer.
@dataclasses.dataclass(frozen=True, eq=False)
class Weights:
    """A trained network, ready to be used.

    Attributes:
      config: the run's configuration; from a file, what prediction needs: network, size and labels.
      variables: parameters and batch statistics, float32.
      calibration: what was chosen on its validation split.
    """

    config: Config
    variables: Variables = dataclasses.field(repr=False)
    calibration: Calibration

    def network(self) -> Any:
        """Returns the Flax module: images (b, s, s, 1) in [0, 1] to logits of each class."""
        return nnx.merge(model_graph(self.config), *jax.tree.map(jnp.asarray, self.variables))


def checksum(variables: Variables) -> str:
    """Returns a checksum of the arrays, whatever file they came from.

    The same name may stand for other arrays tomorrow.
    """
    digest = hashlib.sha256()
    for x in jax.tree.leaves(variables):
        digest.update(np.asarray(x).tobytes())
    return digest.hexdigest()


def packaged_weights() -> epath.Path:
    """Returns the file of the weights in the package."""
    return epath.Path(str(resources.files("lungseg_jax.pretrained") / "lungs.safetensors"))


def save_weights(path: epath.PathLike, weights: Weights) -> None:
    """Writes weights, kernels in half precision, and their checksum beside them.

    Raises:
      CheckpointError: the file's name has another ending than `load_weights` takes.
      OSError: it cannot be written.
    """
    path = epath.Path(path).expanduser()
    if path.suffix != SUFFIX:
        raise CheckpointError(path, f"is no name of a {SUFFIX} file", f"end it in {SUFFIX}")
    arrays = {
        name: np.asarray(x, _STORED if np.ndim(x) > 1 else np.float32)
        for name, x in _flatten(weights.variables)
    }
    text = describe(weights)
    content = _in_order(safetensors.numpy.save(arrays, text), text)
    write_whole(path, content)
    digest = hashlib.sha256(content).hexdigest()
    write_whole(_checksum_of(path), f"{digest}  {path.name}\n".encode())


def describe(weights: Weights) -> dict[str, str]:
    """Returns what goes into a file besides the arrays: configuration and calibration, in JSON."""
    return {
        "config": json.dumps(_portable(weights.config)),
        "calibration": json.dumps(dataclasses.asdict(weights.calibration)),
    }


def _in_order(content: bytes, text: dict[str, str]) -> bytes:
    """Returns a safetensors file with its text in this order, which is random otherwise.

    Thus the same weights have the same checksum.
    """
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length]) | {"__metadata__": text}
    ordered = json.dumps(header, separators=(",", ":")).encode().ljust(length)
    assert len(ordered) == length
    return content[:8] + ordered + content[8 + length :]


def load_weights(path: epath.PathLike) -> Weights:
    """Returns the weights in a file.

    Raises:
      CheckpointError: the file is absent, damaged, or of another network than its configuration.
    """
    path = epath.Path(path).expanduser()
    if path.suffix != SUFFIX:
        raise CheckpointError(path, f"is no {SUFFIX} file", "give one of lungseg_jax.export")
    try:
        check_has_end(path)
        content = path.read_bytes()
        stated = _checksum_of(path).read_bytes().split()[:1]
    except OSError as error:
        absent = error.filename or path
        raise CheckpointError(absent, error.strerror or "not readable", "check the path") from error
    if stated != [hashlib.sha256(content).hexdigest().encode()]:
        fault = f"does not match the checksum in {_checksum_of(path).name}"
        raise CheckpointError(path, fault, _REMEDY)
    try:
        length = int.from_bytes(content[:8], "little")
        text = json.loads(content[8 : 8 + length])["__metadata__"]
        config = from_json(text["config"])
        calibration = Calibration(**json.loads(text["calibration"]))
        if not calibration.in_range():
            raise ValueError("a calibration that no validation split tells")
        arrays = safetensors.numpy.load(content)
    except ConfigError as error:
        fault, remedy = f"is not for this version ({error})", "use the one that exported it"
        raise CheckpointError(path, fault, remedy) from error
    # The checksum may match a file that holds no weights at all.
    except (
        safetensors.SafetensorError, ValueError, KeyError, TypeError, RecursionError,
    ) as error:  # fmt: skip
        raise CheckpointError(path, "holds no weights of this package", _REMEDY) from error
    return Weights(config, _unflatten(path, config, arrays), calibration)


def _portable(config: Config) -> dict[str, Any]:
    """Returns what prediction needs of a configuration: a machine's folders are not passed on."""
    return {
        "data": {"image_size": config.data.image_size, "labels": config.data.labels},
        "model": dataclasses.asdict(config.model),
    }


def _unflatten(path: epath.Path, config: Config, arrays: dict[str, np.ndarray]) -> Variables:
    """Returns the arrays in the structure of the configured network."""
    variables = abstract_variables(config)
    shapes = {name: x.shape for name, x in _flatten(variables)}
    if shapes != {name: x.shape for name, x in arrays.items()}:
        raise CheckpointError(path, "holds arrays of another network", _REMEDY)
    return jax.tree_util.tree_map_with_path(
        lambda where, _: arrays[_name(where)].astype(np.float32), variables
    )


def _flatten(variables: Any) -> list[tuple[str, Any]]:
    return [(_name(where), x) for where, x in jax.tree_util.tree_leaves_with_path(tuple(variables))]


def _name(where: Any) -> str:
    return jax.tree_util.keystr(where, simple=True, separator="/")


def _checksum_of(path: epath.Path) -> epath.Path:
    return path.with_name(f"{path.name}.sha256")
