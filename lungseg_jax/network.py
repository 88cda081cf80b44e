"""The configured network: its structure, its parameters, and what it does once trained."""

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, PyTree, Shaped, UInt16

from lungseg_jax.config import Config
from lungseg_jax.data.labels import num_classes
from lungseg_jax.errors import ConfigError, DataError
from lungseg_jax.models.unet import UNet
from lungseg_jax.packing import unpack
from lungseg_jax.random_keys import named_key

# Nested dictionaries of arrays, keyed by module names and list indices; or the same packed. mypy
# takes a `PyTree` by another name for no type unless that is declared.
ModelState: TypeAlias = PyTree

# Parameters and batch statistics.
Variables = tuple[ModelState, ModelState]

# The compute capability of NVIDIA's Ampere.
FIRST_WITH_BFLOAT16 = 8.0


def make_model(config: Config, axis_name: str | None = None) -> nnx.Module:
    """Returns the configured U-Net with its initial parameters, a function of the seed."""
    model = config.model
    return UNet(
        width=model.width,
        depth=model.depth,
        block_size=model.block_size,
        num_classes=num_classes(config.data.labels),
        norm=model.norm,
        activation=model.activation,
        dtype=compute_dtype(config),
        remat=model.remat,
        axis_name=axis_name,
        rngs=nnx.Rngs(named_key(config.seed, "parameters")),
    )


def compute_dtype(config: Config) -> np.dtype:
    """Returns the type that the network computes in, with `auto` resolved."""
    dtype = config.model.dtype
    if dtype == "auto":
        dtype = "bfloat16" if multiplies_bfloat16(jax.devices()[0]) else "float32"
    return jnp.dtype(dtype)


def multiplies_bfloat16(device: Any) -> bool:
    """Whether a device multiplies bfloat16 faster than float32.

    In XLA, CPUs do not, nor do NVIDIA GPUs before Ampere.
    """
    if device.platform == "cpu":
        return False
    try:
        # Other vendors' devices have a name of another kind there, or none.
        return float(device.compute_capability) >= FIRST_WITH_BFLOAT16
    except (AttributeError, ValueError):
        return True


def split_model(model: nnx.Module) -> tuple[nnx.GraphDef, ModelState, ModelState]:
    """Returns the model's structure, its parameters and its batch statistics.

    `nnx.merge` takes them as they are. They are dictionaries because each call of a compiled step
    flattens its arguments and rebuilds its results on the host, and with `nnx.State` that takes
    longer than everything else that the host has to do for a step.

    Raises:
      ConfigError: the model holds another kind of state, which no checkpoint would have.
    """
    graph, parameters, batch_stats, others = nnx.split(model, nnx.Param, nnx.BatchStat, ...)
    if names := sorted(".".join(map(str, path)) for path in nnx.to_flat_state(others).paths):
        raise ConfigError(
            type(model).__name__,
            f"holds {names[0]}, which is no parameter and no batch statistic",
            "make its layers without rngs that they keep, and hand keys down (CONTRIBUTING.md)",
        )
    return graph, nnx.to_pure_dict(parameters), nnx.to_pure_dict(batch_stats)


def model_graph(config: Config, axis_name: str | None = None) -> nnx.GraphDef:
    """Returns the structure of the configured model without computing its parameters."""
    return split_model(nnx.eval_shape(lambda: make_model(config, axis_name)))[0]


def abstract_variables(config: Config) -> Variables:
    """Returns the shapes of the configured model's parameters and batch statistics."""
    _, parameters, batch_stats = split_model(nnx.eval_shape(lambda: make_model(config)))
    return parameters, batch_stats


def to_intensity(images: Shaped[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Returns intensities in [0, 1], as networks take them, from intensity × 65535.

    Raises:
      DataError: images of a type other than uint16: if already in [0, 1], they would be all but
        black, and a network would be trained on them without a word.
    """
    if images.dtype != jnp.uint16:
        raise DataError(
            "images", f"are of type {images.dtype}", "give intensity x 65535, of type uint16"
        )
    return images.astype(jnp.float32) / 65535


def make_forward(
    config: Config,
) -> Callable[[Variables, UInt16[Array, "b s s 1"]], Float[Array, "b s s c"]]:
    """Returns the function from (variables, intensity × 65535) to the probability of each class."""
    graph = model_graph(config)

    def forward(variables: Variables, images: UInt16[Array, "b s s 1"]) -> Float[Array, "b s s c"]:
        model = nnx.merge(graph, *unpack(variables))
        return jax.nn.sigmoid(model(to_intensity(images), train=False))

    return forward


def count_parameters(parameters: ModelState) -> int:
    """Returns the number of trainable values."""
    return sum(x.size for x in jax.tree.leaves(parameters))
