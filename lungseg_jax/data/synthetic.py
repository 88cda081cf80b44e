"""Random batches for timing where there are no records."""

import jax
import numpy as np

from lungseg_jax.config import Config
from lungseg_jax.data.labels import num_classes
from lungseg_jax.data.samples import Batch


def synthetic_batch(config: Config, count: int) -> Batch:
    """Returns a batch of `count` images of noise, in the form of `training_batches`.

    Args:
      config: gives the shape of images and masks.
      count: this process's part of a batch.
    """
    rng = np.random.default_rng(config.seed)
    shape = (count, config.data.image_size, config.data.image_size)
    slots = jax.process_index() * count + np.arange(count, dtype=np.int32)
    return {
        "position": slots,
        "slot": slots,
        "image": rng.integers(0, 2**16, (*shape, 1), dtype=np.uint16),
        "mask": rng.integers(0, 2, (*shape, num_classes(config.data.labels)), dtype=np.uint8),
    }
