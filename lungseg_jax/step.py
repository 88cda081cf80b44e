"""One update: the function of state and batch that is compiled and spread over devices."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Float, Int32

from lungseg_jax.augment import augment, augmentation_for
from lungseg_jax.config import Config
from lungseg_jax.data.samples import Store, fetch
from lungseg_jax.losses import segmentation_loss
from lungseg_jax.network import ModelState, Variables, model_graph, split_model, to_intensity
from lungseg_jax.optim import learning_rate_schedule, make_optimizer
from lungseg_jax.packing import pack_like, unpack
from lungseg_jax.parallel import Parallel, Step, sum_over_devices
from lungseg_jax.random_keys import named_key
from lungseg_jax.state import (
    Metrics,
    TrainState,
    create_state,
    pack_state,
    state_layout,
    update_ema,
)


def prepare_step(
    config: Config, parallel: Parallel, variables: Variables | None = None
) -> tuple[TrainState, Callable[..., Any]]:
    """Returns the initial state on every device, and the step over all of them.

    Args:
      config: the run's configuration.
      parallel: how the batch is spread over devices.
      variables: see `create_state`.
    """
    optimizer = make_optimizer(config)
    state = create_state(config, optimizer, variables)
    if parallel.pack_state:
        state = jax.jit(pack_state)(state)
    layout = state_layout(state, parallel)
    step = make_train_step(config, optimizer, parallel)
    return parallel.place(state, layout), parallel.wrap_step(step, layout)


def make_train_step(
    config: Config, optimizer: optax.GradientTransformation, parallel: Parallel
) -> Step:
    """Returns the function (state, store, batch) → (state, metrics) of one update.

    The state's parameters and statistics may be packed or not; it is returned in the same form.

    Metrics are `loss`, `dice` (of the thresholded prediction over the whole batch, averaged over
    classes; 0 for a class that is neither present nor predicted), `gradient_norm` (before
    clipping), `parameter_norm` (after the update) and `learning_rate`.

    Args:
      config: the run's configuration.
      optimizer: the update rule.
      parallel: how the batch is spread over devices.
    """
    graph = model_graph(config, parallel.axis_name)
    schedule = learning_rate_schedule(config)

    def loss_of(
        parameters: ModelState, batch_stats: ModelState, images: Array, masks: Array
    ) -> tuple[Array, tuple[ModelState, Array]]:
        """Returns the loss, with the statistics after the batch and `dice_sums`."""
        model = nnx.merge(graph, *unpack((parameters, batch_stats)), copy=True)
        logits = model(images, train=True)
        batch_stats = pack_like(split_model(model)[2], batch_stats)
        loss = segmentation_loss(logits, masks, parallel.axis_name, config.trimmed_share)
        return loss, (batch_stats, dice_sums(logits, masks))

    def step(
        state: TrainState, store: Store, batch: dict[str, Array]
    ) -> tuple[TrainState, Metrics]:
        """Augments, differentiates, sums over the devices, updates; see `make_train_step`."""
        samples = load_batch(config, state.step, store, batch)
        images, masks = parallel.spread_rows(samples)
        gradient_of = jax.value_and_grad(loss_of, has_aux=True)
        parts = config.accumulation_steps
        result = over_devices(accumulate(gradient_of, state, images, masks, parts), parallel)
        updated = update(config, optimizer, state, result)
        metrics = {
            "loss": result.loss,
            "dice": (2 * result.sums[0] / jnp.maximum(result.sums[1], 1)).mean(),
            "gradient_norm": optax.tree.norm(result.gradients),
            "parameter_norm": optax.tree.norm(updated.parameters),
            "learning_rate": schedule(state.step),
        }
        return updated, metrics

    return step


class BatchResult(NamedTuple):
    """What the network and its loss give for a batch.

    Under `pmap`, loss and statistics are those of the whole batch, because the network and the loss
    sum over the devices themselves; gradients and sums are this device's until `over_devices`.

    Attributes:
      loss: the batch's loss.
      gradients: gradients of the loss with respect to the parameters.
      batch_stats: moving statistics after the batch.
      sums: see `dice_sums`.
    """

    loss: Float[Array, ""]
    gradients: ModelState
    batch_stats: ModelState
    sums: Float[Array, "2 c"]


def load_batch(
    config: Config, step: Int32[Array, ""], store: Store, batch: dict[str, Array]
) -> tuple[Float[Array, "b s s 1"], Float[Array, "b s s c"]]:
    """Returns a batch's augmented images in [0, 1] and masks, {0, 1}."""
    images, masks = fetch(batch, store)
    return augment(
        jax.random.fold_in(named_key(config.seed, "augment"), step),
        batch["slot"],
        to_intensity(images),
        masks.astype(jnp.float32),
        augmentation_for(config),
    )


def accumulate(
    gradient_of: Callable[..., Any], state: TrainState, images: Array, masks: Array, parts: int
) -> BatchResult:
    """Returns the result of a batch processed in equal parts.

    Part i takes every `parts`-th example from i on, so that each part is spread over the devices
    as the batch was.
    """
    if parts == 1:
        (loss, (batch_stats, sums)), gradients = gradient_of(
            state.parameters, state.batch_stats, images, masks
        )
        return BatchResult(loss, gradients, batch_stats, sums)

    def one_part(
        carry: tuple[ModelState, Any], part: tuple[Array, Array]
    ) -> tuple[tuple[ModelState, Any], None]:
        """Carries the statistics forward, and adds a part's results to the total."""
        before, total = carry
        (loss, (after, sums)), gradients = gradient_of(state.parameters, before, *part)
        return (after, jax.tree.map(jnp.add, total, (gradients, loss, sums))), None

    def split(x: Array) -> Array:
        return x.reshape(x.shape[0] // parts, parts, *x.shape[1:]).swapaxes(0, 1)

    no_sums = jnp.zeros((2, masks.shape[-1]))
    zeros = (jax.tree.map(jnp.zeros_like, state.parameters), jnp.zeros(()), no_sums)
    (batch_stats, (gradients, loss, sums)), _ = jax.lax.scan(
        one_part, (state.batch_stats, zeros), (split(images), split(masks))
    )
    gradients = jax.tree.map(lambda x: x / parts, gradients)
    return BatchResult(loss / parts, gradients, batch_stats, sums)


def over_devices(result: BatchResult, parallel: Parallel) -> BatchResult:
    """Returns the result of the whole batch, the same on every device."""
    gradients, sums = result.gradients, result.sums
    axis_name = parallel.axis_name
    if axis_name is not None:
        gradients, sums = sum_over_devices((gradients, sums), axis_name)
        # The loss sums over the devices, and so does the gradient of that sum: each device's
        # gradient is its share times the number of devices.
        gradients = jax.tree.map(lambda x: x / jax.lax.axis_size(axis_name), gradients)
    gradients, batch_stats = parallel.keep_whole((gradients, result.batch_stats))
    return BatchResult(result.loss, gradients, batch_stats, sums)


def update(
    config: Config,
    optimizer: optax.GradientTransformation,
    state: TrainState,
    result: BatchResult,
) -> TrainState:
    """Returns the state after an update with a batch's gradients."""
    updates, optimizer_state = optimizer.update(result.gradients, state.optimizer, state.parameters)
    parameters: Any = optax.apply_updates(state.parameters, updates)
    variables = (parameters, result.batch_stats)
    ema = update_ema(state.ema, variables, state.step, config.optimizer.ema_decay)
    return TrainState(state.step + 1, parameters, result.batch_stats, optimizer_state, ema)


def dice_sums(
    logits: Float[Array, "b h w c"], masks: Float[Array, "b h w c"]
) -> Float[Array, "2 c"]:
    """Returns (|A ∩ B|, |A| + |B|) for each class's thresholded prediction A and mask B."""
    predicted = (logits > 0).astype(jnp.float32)
    pixels = (0, 1, 2)
    common = (predicted * masks).sum(pixels)
    return jnp.stack([common, predicted.sum(pixels) + masks.sum(pixels)])
