"""Small runs that several test modules share."""

import dataclasses
from pathlib import Path

import jax
import numpy as np
from jaxtyping import PyTree

from lungseg_jax.config import Config, default_config, resolve
from lungseg_jax.data.records import Pictures


def small_config(**changes: object) -> Config:
    """A run that compiles in seconds; keys with `__` for the dots of `data.source`."""
    config = default_config()
    config.update_from_flattened_dict(
        {
            "batch_size": 8,
            "num_steps": 20,
            "data.image_size": 32,
            "data.num_phantoms": 20,
            "model.width": 4,
            "model.depth": 2,
            "model.block_size": 1,
            "evaluation.every": 10,
            "evaluation.batch_size": 8,
        }
        | {key.replace("__", "."): value for key, value in changes.items()}
    )
    return resolve(config)


def small_pictures(count: int = 8, size: int = 32) -> Pictures:
    """Pictures whose share of foreground grows from a tenth to nine tenths along the batch."""
    rng = np.random.default_rng(0)
    share = np.linspace(0.1, 0.9, count)[:, None, None, None]
    mask = (np.arange(size)[None, :, None, None] < share * size).astype(np.uint8)
    mask = np.broadcast_to(mask, (count, size, size, 1)).copy()
    image = 20000 + 25000 * mask.astype(np.uint16) + rng.integers(0, 9000, mask.shape)
    return Pictures(image.astype(np.uint16), mask)


def assert_trees_close(left: PyTree, right: PyTree, **tolerance: float) -> None:
    """Compares leaf by leaf and names the leaf that differs."""
    pairs = zip(jax.tree.leaves_with_path(left), jax.tree.leaves(right), strict=True)
    for (path, x), y in pairs:
        np.testing.assert_allclose(x, y, err_msg=jax.tree_util.keystr(path), **tolerance)


def assert_trees_equal(left: PyTree, right: PyTree) -> None:
    """Compares bit for bit and names the leaf that differs."""
    pairs = zip(jax.tree.leaves_with_path(left), jax.tree.leaves(right), strict=True)
    for (path, x), y in pairs:
        np.testing.assert_array_equal(x, y, err_msg=jax.tree_util.keystr(path))


def replace(config: Config, **changes: object) -> Config:
    """Returns the configuration with top-level keys changed."""
    return dataclasses.replace(config, **changes)


REPOSITORY = Path(__file__).parent.parent
