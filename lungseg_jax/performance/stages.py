"""The stages of a step: augmentation, forward, backward, update, communication.

A stage is not a program of its own: it is timed as the difference between the step that ends after
it and the step that ends before it. Both are the real step with what comes later cut off. These
differences ignore that a compiler and a device overlap stages: they add up to the step's time, but
removing a stage would not always save its difference.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from lungseg_jax.config import Config, num_trimmed
from lungseg_jax.data.samples import Store
from lungseg_jax.data.synthetic import synthetic_batch
from lungseg_jax.optim import make_optimizer
from lungseg_jax.parallel import Parallel, Step
from lungseg_jax.performance.timing import Call, Seconds, spread, time_in_turn
from lungseg_jax.state import TrainState, state_layout
from lungseg_jax.step import load_batch, make_train_step, prepare_step


class Dispatcher:
    """Sends steps to the device, each with the state that the one before returned.

    Args:
      state: the state, on the devices; its memory is taken over.
      store: the store, on the devices.
    """

    def __init__(self, state: TrainState, store: Store) -> None:
        self.state, self.store = state, store

    def __call__(self, step: Callable[..., Any], batch: PyTree) -> PyTree:
        """Returns the step's second result, without waiting for it."""
        self.state, result = step(self.state, self.store, batch)
        return result


def time_stages(
    config: Config,
    parallel: Parallel,
    step: Callable[..., Any],
    dispatch: Dispatcher,
    batch: PyTree,
    rounds: int,
) -> dict[str, dict[str, float] | None]:
    """Returns the spread of each stage's milliseconds over rounds, and `whole`, the step's own.

    `call` is a step that does nothing: it takes over the state and returns it. `backward` includes
    the gradients' all-reduce. `all_reduce` is by how much a step takes longer than that of one
    device on its share of the batch, including the wait for the slowest device; `None` with one
    device, where rows are spread, and on CPU, whose devices share cores.

    Args:
      config: the run's configuration.
      parallel: the devices.
      step: the whole step.
      dispatch: holds the state.
      batch: a batch on the devices.
      rounds: how often each stage is timed.
    """
    layout = state_layout(dispatch.state, parallel)
    steps = {
        name: parallel.wrap_step(cut, layout) for name, cut in cut_steps(config, parallel).items()
    } | {"whole": step}
    calls: dict[str, Call] = {name: partial(dispatch, each, batch) for name, each in steps.items()}
    # Where rows are spread, one device may not be able to hold an image.
    whole_images = parallel.batch_shards > 1 and parallel.space_shards == 1
    if whole_images and parallel.devices[0].platform != "cpu":
        calls["one_device"] = step_of_one_device(config, parallel, dispatch.store)
    seconds = time_in_turn(calls, config.benchmark.warmup_steps, rounds)
    return stage_figures(seconds)


def stage_figures(seconds: dict[str, Seconds]) -> dict[str, dict[str, float] | None]:
    """Returns the figures of `time_stages` from the cut steps' seconds, round by round."""
    alone = seconds.get("one_device")
    return {
        "call": spread(seconds["call"]),
        "augment": spread(seconds["augment"] - seconds["call"]),
        "forward_and_loss": spread(seconds["loss"] - seconds["augment"]),
        "backward": spread(seconds["gradients"] - seconds["loss"]),
        "update": spread(seconds["whole"] - seconds["gradients"]),
        "all_reduce": None if alone is None else spread(seconds["whole"] - alone),
        "whole": spread(seconds["whole"]),
    }


def cut_steps(config: Config, parallel: Parallel) -> dict[str, Step]:
    """Returns steps that keep the state and end after `call`, `augment`, `loss` and `gradients`.

    The last two ask the real step for a part of its results: the compiler drops what only the
    other results need.
    """
    step = make_train_step(config, make_optimizer(config), parallel)
    axis_name = parallel.axis_name

    def call(state: TrainState, store: Store, batch: PyTree) -> tuple[TrainState, PyTree]:
        del store, batch
        # A copy, which the next call does not take over with the state.
        return state, state.step + 0

    def augment(state: TrainState, store: Store, batch: PyTree) -> tuple[TrainState, PyTree]:
        samples = load_batch(config, state.step, store, batch)
        # Sums alone would let the compiler skip writing the images.
        samples = jax.lax.optimization_barrier(samples)
        total = jnp.stack([array.sum() for array in samples])
        return state, total if axis_name is None else jax.lax.psum(total, axis_name)

    def loss(state: TrainState, store: Store, batch: PyTree) -> tuple[TrainState, PyTree]:
        return state, step(state, store, batch)[1]["loss"]

    def gradients(state: TrainState, store: Store, batch: PyTree) -> tuple[TrainState, PyTree]:
        metrics = step(state, store, batch)[1]
        return state, (metrics["loss"], metrics["gradient_norm"])

    return {"call": call, "augment": augment, "loss": loss, "gradients": gradients}


def step_of_one_device(config: Config, parallel: Parallel, store: Store) -> Call:
    """Returns the step of this process's first device alone on its share of the batch.

    Images come from where the whole step gets them: from the store if there is one.
    """
    alone = dataclasses.replace(parallel, devices=(jax.local_devices()[0],))
    batch_size = config.batch_size // len(parallel.devices)
    # The share may be less than one of a device's own images, which no configuration may say.
    whole = num_trimmed(config.trimmed_share, batch_size // config.accumulation_steps)
    share = dataclasses.replace(
        config, batch_size=batch_size, trimmed_share=config.trimmed_share if whole else 0.0
    )
    state, step = prepare_step(share, alone)
    batch = synthetic_batch(share, share.batch_size)
    if store is not None:
        store = jax.tree.map(lambda x: jax.device_put(_on_first(x), alone.replicated), store)
        batch = {name: batch[name] for name in ("position", "slot")}
    return partial(Dispatcher(state, store), step, alone.shard(batch))


def _on_first(array: jax.Array) -> jax.Array:
    """Returns this process's first device's copy of an array that every device holds whole."""
    first = jax.local_devices()[0]
    return next(shard.data for shard in array.addressable_shards if shard.device == first)
