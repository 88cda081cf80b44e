"""Layers against XLA's own operations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lungseg_jax.models.layers import (
    ConvNormActivation,
    depth_to_space,
    max_pool,
    space_to_depth,
)


@pytest.mark.parametrize("factor", [1, 2, 4])
def test_depth_to_space_inverts_space_to_depth(factor: int):
    """Fault: rows and columns swapped in one of the two, invisible in square averages."""
    x = jax.random.normal(jax.random.key(0), (2, 8, 12, 3))
    np.testing.assert_array_equal(depth_to_space(space_to_depth(x, factor), factor), x)


def test_space_to_depth_keeps_neighbours_together():
    """Fault: channels gathered from pixels that are not neighbours."""
    x = jnp.arange(16.0).reshape(1, 4, 4, 1)
    np.testing.assert_array_equal(space_to_depth(x, 2)[0, 0, 1], [2, 3, 6, 7])


def test_max_pool_equals_windowed_reduction_with_its_gradient():
    """Fault: a reshape that pools over the wrong axes."""
    x = jax.random.normal(jax.random.key(0), (2, 6, 8, 3))

    def windowed(x):
        return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")

    np.testing.assert_array_equal(max_pool(x), windowed(x))
    gradients = [jax.grad(lambda x, f=f: (f(x) ** 3).sum())(x) for f in (max_pool, windowed)]
    np.testing.assert_allclose(*gradients, rtol=1e-6)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("bfloat16", 3e-2)])
def test_convolution_takes_over_the_running_statistics(dtype: str, tolerance: float):
    """Fault: scale, shift, mean or variance left out or applied twice outside training."""
    layer = ConvNormActivation(
        5, 7, norm="batch", activation="relu", dtype=jnp.dtype(dtype), axis_name=None,
        rngs=nnx.Rngs(0),
    )  # fmt: skip
    rng = np.random.default_rng(0)
    for variable in (layer.norm.scale, layer.norm.bias, layer.norm.mean, layer.norm.var):
        variable[...] = jnp.asarray(rng.uniform(0.5, 2, 7).astype(np.float32))
    x = jnp.asarray(rng.standard_normal((2, 6, 6, 5)), dtype)
    unfolded = nnx.relu(layer.norm(layer.conv(x), use_running_average=True))
    error = jnp.abs(layer(x, train=False) - unfolded).max() / jnp.abs(unfolded).max()
    assert float(error) < tolerance
