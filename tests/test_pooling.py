"""Pooling and its gradient against a windowed reduction and against values derived by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from lungseg_jax.models.pooling import max_pool, spread_by_pads


def test_equals_windowed_reduction_with_its_gradient():
    """Fault: a gradient that goes to another pixel of the block than the largest."""

    def windowed(x):
        return lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")

    x = jax.random.normal(jax.random.key(0), (2, 6, 8, 3))
    np.testing.assert_array_equal(max_pool(x), windowed(x))
    gradients = [jax.grad(lambda x, f=f: (f(x) ** 3).sum())(x) for f in (max_pool, windowed)]
    np.testing.assert_allclose(*gradients, rtol=1e-6)


def test_equal_maxima_share_the_gradient():
    """Fault: each of them takes all of it, so that flat regions weigh up to four times as much."""
    x = jnp.asarray([[2.0, 2.0, 5.0, 1.0], [0.0, 2.0, 5.0, 5.0]])[None, :, :, None]
    gradient = jax.grad(lambda x: (max_pool(x) * jnp.asarray([3.0, 6.0])[:, None]).sum())(x)
    np.testing.assert_allclose(gradient[0, :, :, 0], [[1, 1, 2, 0], [0, 1, 2, 2]])


@pytest.mark.parametrize(("platform", "pads"), [("tpu", 4), ("cpu", 0), ("cuda", 0)])
def test_the_form_for_tpus_is_lowered_for_tpus_alone(platform: str, pads: int):
    """Fault: images that are repeated, written out and read again on a TPU."""
    gradient = jax.jit(jax.grad(lambda x: max_pool(x).sum()))
    lowered = gradient.trace(jnp.zeros((1, 4, 4, 2))).lower(lowering_platforms=(platform,))
    assert lowered.as_text().count("stablehlo.pad") == pads


def test_pads_spread_each_share_to_the_largest():
    """Fault: the form for TPUs, which no test runs on one, puts a share beside its pixel."""
    x = jnp.asarray([[2.0, 2.0, 5.0, 1.0], [0.0, 2.0, 5.0, 5.0]])[None, :, :, None]
    share = jnp.asarray([[1.0, 2.0]])[None, :, :, None]
    spread = spread_by_pads(x, max_pool(x), share)
    np.testing.assert_array_equal(spread[0, :, :, 0], [[1, 1, 2, 0], [0, 1, 2, 2]])
