"""Batch normalisation fused with the activation that follows it, in as few passes as possible.

Up to rounding it equals `activation(nnx.BatchNorm(c, momentum=MOMENTUM, epsilon=EPSILON)(x))`. That
itself is not used: the gradient that autodiff derives from it reads and writes the activations half
as often again as needed, and on an accelerator that is what a step waits for.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

# A running average over about ten steps: short runs on small data sets end with statistics of the
# final weights, and the exponential moving average of the state smooths what noise is left.
MOMENTUM = 0.9

EPSILON = 1e-5

Features = Float[Array, "b h w c"]
Channels = Float[Array, " c"]
Activation = Callable[[Array], Array]

# What the backward pass gets: x, scale, bias, mean and inverse deviation.
Saved = tuple[Features, Channels, Channels, Channels, Channels]


class BatchNorm(nnx.Module):
    """Batch normalisation (Ioffe and Szegedy 2015, https://arxiv.org/abs/1502.03167).

    Args:
      features: channels.
      axis_name: mapped axis over which batch statistics are averaged, `None` for a global batch.
    """

    def __init__(self, features: int, axis_name: str | None = None) -> None:
        self.scale = nnx.Param(jnp.ones(features))
        self.bias = nnx.Param(jnp.zeros(features))
        self.mean = nnx.BatchStat(jnp.zeros(features))
        self.var = nnx.BatchStat(jnp.ones(features))
        self.axis_name = axis_name

    def __call__(self, x: Features, activation: Activation) -> Features:
        """Returns `x` normalised by its own statistics and activated; updates the running ones."""
        result: Any = normalise(x, self.scale[...], self.bias[...], activation, self.axis_name)
        y, mean, var = result
        for running, new in ((self.mean, mean), (self.var, var)):
            running[...] = MOMENTUM * running[...] + (1 - MOMENTUM) * new
        return y

    def running_affine(self) -> tuple[Channels, Channels]:
        """Returns each channel's scale and shift that normalise by the running statistics."""
        scale = self.scale[...] * lax.rsqrt(self.var[...] + EPSILON)
        return scale, self.bias[...] - self.mean[...] * scale


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def normalise(
    x: Features,
    scale: Channels,
    bias: Channels,
    activation: Activation,
    axis_name: str | None,
) -> tuple[Features, Channels, Channels]:
    """Returns normalised and activated `x`, in its type, and the batch's mean and variance.

    With σ = √(variance + EPSILON), x̂ = (x − mean)/σ and y = activation(scale · x̂ + bias), and with
    g the gradient with respect to the activation's input:

      dx = scale/σ · (g − mean g − x̂ · mean(g x̂)),  d_scale = Σ g x̂,  d_bias = Σ g

    Mean and variance (biased) are float32 and carry no gradient. The variance is the mean square
    minus the squared mean: where values spread by less than a thousandth of their mean, nothing is
    left of it. Under a mapped axis the gradients of scale and bias are the device's own share, to
    be summed like those of all parameters.

    Args:
      x: float32 or narrower; it alone is kept for the backward pass.
      scale: scale of each channel.
      bias: bias of each channel.
      activation: applied to each element.
      axis_name: mapped axis that the batch is spread over.
    """
    return _forward(x, scale, bias, activation, axis_name)[0]


def _forward(
    x: Features,
    scale: Channels,
    bias: Channels,
    activation: Activation,
    axis_name: str | None,
) -> tuple[tuple[Features, Channels, Channels], Saved]:
    wide = x.astype(jnp.float32)
    mean, mean_square = _means(wide, jnp.square(wide), axis_name)
    var = jnp.maximum(mean_square - jnp.square(mean), 0)
    inverse_deviation = lax.rsqrt(var + EPSILON)
    y = activation(((wide - mean) * inverse_deviation * scale + bias).astype(x.dtype))
    return (y, mean, var), (x, scale, bias, mean, inverse_deviation)


def _backward(
    activation: Activation,
    axis_name: str | None,
    saved: Saved,
    gradients: tuple[Features, Channels, Channels],
) -> tuple[Features, Channels, Channels]:
    """Returns (d_x, d_scale, d_bias); see `normalise` for the formula."""
    x, scale, bias, mean, inverse_deviation = saved
    d_y, *_ = gradients

    def normal_and_gradient(features: Features) -> tuple[Features, Features]:
        """Returns the formula's x̂ and g."""
        normal = (features.astype(jnp.float32) - mean) * inverse_deviation
        _, pull = jax.vjp(activation, (normal * scale + bias).astype(features.dtype))
        return normal, pull(d_y)[0].astype(jnp.float32)

    normal, gradient = normal_and_gradient(x)
    # Sums over this device's images, means over all devices': see `normalise` on a mapped axis.
    sum_gradient, sum_gradient_times_normal = _sums(gradient, gradient * normal)
    means = _means(gradient, gradient * normal, axis_name)
    # The first pass sums, the second needs the sums. Behind the barrier, the second recomputes its
    # operands from `x`; without it, XLA would have the first write them for the second to read.
    x_anew, mean_gradient, mean_gradient_times_normal = lax.optimization_barrier((x, *means))
    normal, gradient = normal_and_gradient(x_anew)
    centred = gradient - mean_gradient - normal * mean_gradient_times_normal
    d_x = centred * (inverse_deviation * scale)
    return d_x.astype(x.dtype), sum_gradient_times_normal, sum_gradient


normalise.defvjp(_forward, _backward)


def _means(first: Features, second: Features, axis_name: str | None) -> tuple[Channels, Channels]:
    """Returns the channel means of both, over images, pixels and the mapped axis."""
    # Not a 32-bit integer, which a large global batch would overflow.
    count = float(first.size // first.shape[-1])
    sums = jnp.stack(_sums(first, second))
    if axis_name is not None:
        sums = lax.psum(sums, axis_name)
        count *= lax.axis_size(axis_name)
    return sums[0] / count, sums[1] / count


def _sums(first: Features, second: Features) -> tuple[Channels, Channels]:
    """Returns the channel sums of both, over this device's images and pixels."""
    return first.sum((0, 1, 2)), second.sum((0, 1, 2))
