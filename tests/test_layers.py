"""Layers against XLA's own operations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lungseg_jax.models.batch_norm import EPSILON
from lungseg_jax.models.layers import ConvNormActivation, Head, depth_to_space, space_to_depth


@pytest.mark.parametrize("factor", [1, 2, 4])
def test_depth_to_space_inverts_space_to_depth(factor: int):
    """Fault: rows and columns swapped in one of the two, invisible in square averages."""
    x = jax.random.normal(jax.random.key(0), (2, 8, 12, 3))
    np.testing.assert_array_equal(depth_to_space(space_to_depth(x, factor), factor), x)


def test_space_to_depth_keeps_neighbours_together():
    """Fault: channels gathered from pixels that are not neighbours."""
    x = jnp.arange(16.0).reshape(1, 4, 4, 1)
    np.testing.assert_array_equal(space_to_depth(x, 2)[0, 0, 1], [2, 3, 6, 7])


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("bfloat16", 3e-2)])
def test_convolution_takes_over_the_running_statistics(dtype: str, tolerance: float):
    """Fault: scale, shift, mean or variance left out or applied twice outside training."""
    layer = ConvNormActivation(
        5, 7, norm="batch", activation="relu", dtype=jnp.dtype(dtype), axis_name=None,
        rngs=nnx.Rngs(0),
    )  # fmt: skip
    norm = layer.norm
    rng = np.random.default_rng(0)
    for variable in (norm.scale, norm.bias, norm.mean, norm.var):
        variable[...] = jnp.asarray(rng.uniform(0.5, 2, 7).astype(np.float32))
    x = jnp.asarray(rng.standard_normal((2, 6, 6, 5)), dtype)
    mean, var, scale, bias = (v[...] for v in (norm.mean, norm.var, norm.scale, norm.bias))
    normal = (layer.conv(x) - mean) / jnp.sqrt(var + EPSILON)
    unfolded = jax.nn.relu(normal * scale + bias)
    error = jnp.abs(layer(x, train=False) - unfolded).max() / jnp.abs(unfolded).max()
    assert float(error) < tolerance


def test_initial_activations_neither_fade_nor_explode():
    """Fault: half the variance that a layer before a ReLU needs: group norm hides it, no other."""
    layer = ConvNormActivation(
        64, 64, norm="batch", activation="relu", dtype=jnp.float32, axis_name=None,
        rngs=nnx.Rngs(0),
    )  # fmt: skip
    # He et al. 2015, for a kernel of 3 x 3.
    assert float(layer.conv.kernel[...].var()) == pytest.approx(2 / (9 * 64), rel=0.05)


def test_eight_channels_are_normalised_together_and_no_more():
    """Fault: one group of all channels, so that a loud one silences the rest of a wide network."""
    layer = ConvNormActivation(
        16, 16, norm="group", activation="relu", dtype=jnp.float32, axis_name=None,
        rngs=nnx.Rngs(0),
    )  # fmt: skip
    x = jax.random.normal(jax.random.key(0), (1, 4, 4, 16))
    before, after = layer.norm(x), layer.norm(x * jnp.ones(16).at[0].set(9))
    np.testing.assert_allclose(after[..., 8:], before[..., 8:], atol=1e-6)
    for channel in range(1, 8):
        assert jnp.abs(after[..., channel] - before[..., channel]).max() > 0.1


def test_one_logit_and_several_are_one_function():
    """Fault: the product and sum of a single logit differ from the convolution of several."""
    several = Head(6, 3, rngs=nnx.Rngs(0))
    several.bias[...] = jnp.asarray([0.5, -1.0, 2.0])
    x = jax.random.normal(jax.random.key(1), (2, 4, 4, 6))
    together = several(x)
    for index in range(3):
        one = Head(6, 1, rngs=nnx.Rngs(0))
        one.kernel[...] = several.kernel[..., index : index + 1]
        one.bias[...] = several.bias[index : index + 1]
        np.testing.assert_allclose(one(x)[..., 0], together[..., index], rtol=1e-5, atol=1e-5)
