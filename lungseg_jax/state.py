"""What a training run carries from step to step."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int32, PyTree

from lungseg_jax.config import Config
from lungseg_jax.network import ModelState, Variables, make_model, split_model
from lungseg_jax.packing import pack_each
from lungseg_jax.parallel import Parallel

# What a step reports, by name.
Metrics = dict[str, Float[Array, ""]]


class TrainState(NamedTuple):
    """The state of a run; it has no random key, which is a function of seed and step.

    Between the steps of a run, parameters and statistics may be packed, including those in the
    optimizer's state and the average: see `Parallel.pack_state`.

    Attributes:
      step: number of updates done.
      parameters: float32.
      batch_stats: running statistics of the normalisation.
      optimizer: state of the Optax optimizer.
      ema: exponential moving average of (parameters, batch_stats), which is what is evaluated.
    """

    step: Int32[Array, ""]
    parameters: ModelState
    batch_stats: ModelState
    optimizer: optax.OptState
    ema: Variables


def create_state(
    config: Config,
    optimizer: optax.GradientTransformation,
    variables: Variables | None = None,
) -> TrainState:
    """Returns the state before the first step, computed by one program; see also `abstract_state`.

    Args:
      config: the run's configuration.
      optimizer: the update rule.
      variables: (parameters, batch_stats) to start from; `None` for those that the seed gives.
    """
    create = jax.jit(
        functools.partial(_initial_state, config, optimizer), compiler_options=_compiler_options()
    )
    return create(variables)


def abstract_state(config: Config, optimizer: optax.GradientTransformation) -> TrainState:
    """Returns the shapes and types of the state's arrays."""
    return jax.eval_shape(functools.partial(_initial_state, config, optimizer), None)


def _initial_state(
    config: Config, optimizer: optax.GradientTransformation, variables: Variables | None
) -> TrainState:
    """Returns the state before the first step; see `create_state`."""
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


def _compiler_options() -> dict[str, int] | None:
    """Returns options of XLA for the program that makes a state, `None` for XLA's own.

    A CPU's compiler spends more than half of its time on this program, which has a kernel for each
    draw and runs once, on optimizations that change the last bit of some weights at most.
    """
    return {"xla_backend_optimization_level": 1} if jax.default_backend() == "cpu" else None


def pack_state(state: TrainState) -> TrainState:
    """Returns a plain state with parameters and statistics packed, those of the optimizer too."""
    parts = (state.parameters, state.batch_stats)
    return pack_each(state, [jax.tree.structure(part) for part in parts])


def state_layout(state: TrainState, parallel: Parallel) -> PyTree:
    """Returns the sharding of each array of a state; `state` may be abstract.

    The forward pass reads parameters and statistics, so every device holds them whole. Only the
    update reads the optimizer's state and the average; see `Parallel.shard_optimizer`.
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
