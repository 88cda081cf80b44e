"""The optimizer and its schedule."""

import dataclasses

import jax
import optax
from jaxtyping import PyTree

from lungseg_jax.config import Config
from lungseg_jax.packing import Packed, is_kernel


def learning_rate_schedule(config: Config) -> optax.Schedule:
    """Returns linear warm-up from zero, then cosine decay to zero at `num_steps`.

    In a run no longer than the warm-up, the warm-up ends one step before the run does.
    """
    warmup = min(config.optimizer.warmup_steps, config.num_steps - 1)
    return optax.warmup_cosine_decay_schedule(
        init_value=0.0 if warmup else config.optimizer.learning_rate,
        peak_value=config.optimizer.learning_rate,
        warmup_steps=warmup,
        decay_steps=config.num_steps,
    )


def make_optimizer(config: Config) -> optax.GradientTransformation:
    """Returns AdamW, applied after clipping the gradient's global norm.

    On a GPU it sees gradients and parameters as `Packed`: two long vectors, one of the kernels and
    one of the rest, instead of an array for each layer. What works element-wise, or on the global
    norm, is unaffected. What works by layer or by name takes a vector for a layer or finds no
    name: LAMB, LARS, Adafactor, `optax.multi_transform` with labels by path. For these, have
    `parallel.all_devices` give `pack_state=False`, as it does on other devices. A mask must handle
    both forms, as `_is_kernel` does.
    """
    return optax.chain(
        optax.clip_by_global_norm(config.optimizer.clip_norm),
        optax.adamw(
            learning_rate_schedule(config),
            weight_decay=config.optimizer.weight_decay,
            mask=_is_kernel,
        ),
    )


def _is_kernel(parameters: PyTree) -> PyTree:
    """Selects kernels for weight decay: scales and biases, a few numbers each, cannot overfit."""
    if isinstance(parameters, Packed):
        return dataclasses.replace(parameters, kernels=True, others=False)
    return jax.tree.map(lambda x: is_kernel(x.shape), parameters)
