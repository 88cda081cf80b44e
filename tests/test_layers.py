"""Layers against XLA's own operations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lungseg_jax.models.layers import depth_to_space, max_pool, space_to_depth


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
