"""Batch normalisation with its own gradient against the formula and what autodiff makes of it."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from lungseg_jax.models.batch_norm import EPSILON, MOMENTUM, BatchNorm, normalise
from lungseg_jax.models.layers import ACTIVATIONS

SHAPE = (8, 6, 4, 5)


def by_formula(x, scale, bias, activation):
    mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
    return activation((x - mean) / jnp.sqrt(var + EPSILON) * scale + bias), mean, var


@pytest.fixture
def inputs():
    random = np.random.default_rng(3)
    x, weight = random.normal(2, 3, SHAPE), random.normal(size=SHAPE)
    scale, bias = random.uniform(0.5, 2, SHAPE[-1]), random.normal(size=SHAPE[-1])
    return [jnp.asarray(a, jnp.float32) for a in (x, scale, bias, weight)]


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_values_statistics_and_gradients_are_those_of_the_formula(inputs, name):
    """Fault: a term of the gradient by hand that is missing, such as the mean's or the variance's.

    A weighted sum as loss: of a plain sum the gradient is zero whatever the terms are.
    """
    x, scale, bias, weight = inputs
    activation = ACTIVATIONS[name]

    def custom(*arguments):
        return normalise(*arguments, activation, None)

    def plain(*arguments):
        return by_formula(*arguments, activation)

    for result, expected in zip(custom(x, scale, bias), plain(x, scale, bias), strict=True):
        np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-5)
    gradients = [
        jax.grad(lambda *a, f=f: (f(*a)[0] * weight).sum(), argnums=(0, 1, 2))(x, scale, bias)
        for f in (custom, plain)
    ]
    for result, expected in zip(*gradients, strict=True):
        np.testing.assert_allclose(result, expected, rtol=1e-4, atol=2e-5)


def test_a_batch_over_devices_is_one_batch(inputs):
    """Fault: a mean of the backward pass that each device takes of its own images alone."""
    x, scale, bias, weight = inputs
    devices = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))

    def gradients(x, weight, axis_name):
        def loss(x, scale, bias):
            return (normalise(x, scale, bias, jax.nn.relu, axis_name)[0] * weight).sum()

        return jax.grad(loss, argnums=(0, 1, 2))(x, scale, bias)

    def on_a_device(x, weight):
        gradient_of_x, *parameters = gradients(x, weight, "data")
        # Each device's share of the parameters' gradients, as training sums them.
        return gradient_of_x, jax.lax.psum(parameters, "data")

    spread = jax.shard_map(
        on_a_device,
        mesh=devices,
        in_specs=PartitionSpec("data"),
        out_specs=(PartitionSpec("data"), PartitionSpec()),
        check_vma=False,
    )
    gradient_of_x, parameters = spread(x, weight)
    for found, expected in zip(
        (gradient_of_x, *parameters), gradients(x, weight, None), strict=True
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=2e-5)


def test_a_global_batch_of_more_positions_than_32_bits_count():
    """Fault: their number, as an integer, in a computation of 32 bits."""
    shape = jax.ShapeDtypeStruct((32, 8192, 8192, 1), jnp.float32)
    vector = jax.ShapeDtypeStruct((1,), jnp.float32)
    found: Any = jax.eval_shape(lambda *a: normalise(*a, jax.nn.relu, None), shape, vector, vector)
    assert found[0].shape == shape.shape


def test_half_precision_keeps_statistics_of_many_pixels():
    """Fault: sums in bfloat16, which stop growing at a few hundred."""
    x = jnp.asarray(np.random.default_rng(0).normal(1, 0.5, (4, 64, 64, 2)), jnp.bfloat16)
    result: Any = normalise(x, jnp.ones(2), jnp.zeros(2), jax.nn.relu, None)
    y, mean, var = result
    assert y.dtype == jnp.bfloat16
    assert mean.dtype == var.dtype == jnp.float32
    np.testing.assert_allclose(mean, x.astype(jnp.float32).mean((0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(var, x.astype(jnp.float32).var((0, 1, 2)), rtol=1e-4)


def test_running_statistics_move_by_the_momentum(inputs):
    """Fault: momentum and its complement exchanged, so that they follow the last batch alone."""
    x, *_ = inputs
    norm = BatchNorm(SHAPE[-1])
    norm(x, jax.nn.relu)
    np.testing.assert_allclose(norm.mean[...], (1 - MOMENTUM) * x.mean((0, 1, 2)), rtol=1e-5)
    expected = MOMENTUM + (1 - MOMENTUM) * x.var((0, 1, 2))
    np.testing.assert_allclose(norm.var[...], expected, rtol=1e-5)


def test_a_channel_without_spread_stays_finite():
    """Fault: a variance below zero by rounding, and NaN as its root."""
    level = jnp.full((4, 8, 8, 64), 3000.3) + jnp.arange(64)
    result: Any = normalise(level, jnp.ones(64), jnp.zeros(64), jax.nn.relu, None)
    y, _, var = result
    assert jnp.isfinite(y).all()
    assert (var >= 0).all()


def test_a_running_variance_of_zero_scales_by_a_finite_number():
    """Fault: an infinite scale outside training, for a channel that was dead in it."""
    norm = BatchNorm(2)
    norm.scale[...], norm.mean[...] = jnp.full(2, 0.5), jnp.full(2, 3.0)
    norm.var[...] = jnp.array([0.0, 1.0])
    scale, shift = norm.running_affine()
    expected = 0.5 / np.sqrt(np.array([0, 1]) + EPSILON)
    np.testing.assert_allclose(scale, expected, rtol=1e-6)
    np.testing.assert_allclose(shift, -3 * expected, rtol=1e-6)
