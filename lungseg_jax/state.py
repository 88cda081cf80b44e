"""What a training run carries from step to step."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, Int32, PyTree

from lungseg_jax.config import Config
from lungseg_jax.data.labels import CHANNELS
from lungseg_jax.models.unet import UNet
from lungseg_jax.packing import pack_each
from lungseg_jax.parallel import Parallel

# Nested dictionaries of arrays, by the names of modules and the numbers of lists; or these packed.
ModelState = PyTree


class TrainState(NamedTuple):
    """The state of a run; no random key, which is a function of seed and step.

    Between the steps of a run, parameters and statistics may be packed, the optimizer's and the
    averages too: see `Parallel.pack_state`.

    Attributes:
      step: number of updates done.
      parameters: float32.
      batch_stats: running statistics of the normalisation.
      optimizer: of optax.
      ema: exponential moving average of (parameters, batch_stats): what is evaluated.
    """

    step: Int32[Array, ""]
    parameters: ModelState
    batch_stats: ModelState
    optimizer: optax.OptState
    ema: tuple[ModelState, ModelState]


def make_model(config: Config, axis_name: str | None = None) -> UNet:
    """Returns the configured U-Net with its initial parameters, a function of the seed."""
    model = config.model
    return UNet(
        width=model.width,
        depth=model.depth,
        block_size=model.block_size,
        num_classes=len(CHANNELS[config.data.labels]),
        norm=model.norm,
        activation=model.activation,
        dtype=compute_dtype(config),
        remat=model.remat,
        axis_name=axis_name,
        rngs=nnx.Rngs(named_key(config.seed, "parameters")),
    )


def compute_dtype(config: Config) -> np.dtype:
    """Returns the type that the network computes in, `auto` resolved."""
    dtype = config.model.dtype
    if dtype == "auto":
        dtype = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    return jnp.dtype(dtype)


def split_model(model: UNet) -> tuple[nnx.GraphDef, ModelState, ModelState]:
    """Returns the model's structure, its parameters and its batch statistics.

    `nnx.merge` takes them as they are. They are dictionaries because a call of a compiled step
    takes its arguments apart and puts its results together on the host, each time, and with
    `nnx.State` that takes longer than all else that the host has to do for a step.
    """
    graph, parameters, batch_stats = nnx.split(model, nnx.Param, nnx.BatchStat)
    return graph, nnx.to_pure_dict(parameters), nnx.to_pure_dict(batch_stats)


def model_graph(config: Config, axis_name: str | None = None) -> nnx.GraphDef:
    """Returns the structure of the configured model without computing its parameters."""
    return split_model(nnx.eval_shape(lambda: make_model(config, axis_name)))[0]


def abstract_variables(config: Config) -> tuple[ModelState, ModelState]:
    """Returns the shapes of the configured model's parameters and batch statistics."""
    _, parameters, batch_stats = split_model(nnx.eval_shape(lambda: make_model(config)))
    return parameters, batch_stats


def create_state(
    config: Config,
    optimizer: optax.GradientTransformation,
    variables: tuple[ModelState, ModelState] | None = None,
) -> TrainState:
    """Returns the state before the first step.

    Args:
      config: of the run.
      optimizer: the update rule.
      variables: (parameters, batch_stats) to start from; `None` for those that the seed gives.
    """

    def create(variables: tuple[ModelState, ModelState] | None) -> TrainState:
        if variables is None:
            _, parameters, batch_stats = split_model(make_model(config))
        else:
            parameters, batch_stats = variables
        # Copies: steps take over the memory of each part of a state.
        return jax.tree.map(
            jnp.copy,
            TrainState(
                step=jnp.zeros((), jnp.int32),
                parameters=parameters,
                batch_stats=batch_stats,
                optimizer=optimizer.init(parameters),
                ema=(parameters, batch_stats),
            ),
        )

    return jax.jit(create)(variables)


def pack_state(state: TrainState) -> TrainState:
    """Returns a plain state with parameters and statistics packed, the optimizer's too."""
    parts = (state.parameters, state.batch_stats)
    return pack_each(state, [jax.tree.structure(part) for part in parts])


def state_layout(state: TrainState, parallel: Parallel) -> PyTree:
    """Returns the sharding of each array of a state; `state` may be abstract.

    The forward pass reads parameters and statistics, so every device holds them whole. Optimizer
    and average are the update's alone; see `Parallel.shard_optimizer`.
    """
    layout = jax.tree.map(lambda _: parallel.replicated, state)
    optimizer, ema = jax.tree.map(parallel.optimizer_sharding, (state.optimizer, state.ema))
    return layout._replace(optimizer=optimizer, ema=ema)


def update_ema(average: PyTree, new: PyTree, step: Int32[Array, ""], decay: float) -> PyTree:
    """Returns the moving average after a step.

    The decay grows as (1 + step) / (10 + step) up to `decay`, so that the initial parameters are
    forgotten within the first tens of steps.
    """
    step = step.astype(jnp.float32)
    weight = 1 - jnp.minimum(decay, (1 + step) / (10 + step))
    return jax.tree.map(lambda old, x: old + weight * (x - old), average, new)


def named_key(seed: int, name: str) -> Array:
    """Returns the random key of a named stream; streams of different names are independent."""
    key = jax.random.key(seed)
    for byte in name.encode():
        key = jax.random.fold_in(key, byte)
    return key


def count_parameters(parameters: ModelState) -> int:
    """Returns the number of trainable numbers."""
    return sum(x.size for x in jax.tree.leaves(parameters))


Metrics = dict[str, Float[Array, ""]]
