"""The network as it is applied once trained: stored pictures in, probabilities out."""

import math
from collections.abc import Callable

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, UInt16

from lungseg_jax.config import Config
from lungseg_jax.packing import unpack
from lungseg_jax.state import ModelState, model_graph

# Parameters and batch statistics.
Variables = tuple[ModelState, ModelState]


def make_forward(
    config: Config,
) -> Callable[[Variables, UInt16[Array, "b s s 1"]], Float[Array, "b s s c"]]:
    """Returns the function from (variables, intensity × 65535) to the probability of each class."""
    graph = model_graph(config)

    def forward(variables: Variables, images: UInt16[Array, "b s s 1"]) -> Float[Array, "b s s c"]:
        model = nnx.merge(graph, *unpack(variables))
        return jax.nn.sigmoid(model(images.astype(np.float32) / 65535, train=False))

    return forward


def batch_size_over(shards: int, batch_size: int) -> int:
    """Returns the smallest batch size, at least `batch_size`, that divides into `shards` parts."""
    return math.ceil(batch_size / shards) * shards
