"""Batch normalisation together with the activation that follows it, in as few passes as can be.

Not `nnx.BatchNorm`: the gradient that autodiff derives from it reads and writes the activations
half as often again as is needed, and on an accelerator that is what a step waits for.
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

Channels = Float[Array, " c"]


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

    def __call__(
        self, x: Float[Array, "b h w c"], activation: Callable[[Array], Array]
    ) -> Float[Array, "b h w c"]:
        """Returns `x` normalised by its own statistics, activated; updates the running ones."""
        result: Any = normalise(
            x, self.scale[...], self.bias[...], activation, EPSILON, self.axis_name
        )
        y, mean, var = result
        for running, new in ((self.mean, mean), (self.var, var)):
            running[...] = MOMENTUM * running[...] + (1 - MOMENTUM) * new
        return y

    def running_affine(self) -> tuple[Channels, Channels]:
        """Returns scale and shift of each channel by which the running statistics normalise."""
        scale = self.scale[...] * lax.rsqrt(self.var[...] + EPSILON)
        return scale, self.bias[...] - self.mean[...] * scale


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def normalise(
    x: Float[Array, "b h w c"],
    scale: Channels,
    bias: Channels,
    activation: Callable[[Array], Array],
    epsilon: float,
    axis_name: str | None,
) -> tuple[Float[Array, "b h w c"], Channels, Channels]:
    """Returns normalised and activated `x`, in its type, and the batch's mean and variance.

    Mean and variance (biased) are float32 and carry no gradient. The variance is the mean square
    less the squared mean: where values spread by less than a thousandth of their mean, nothing is
    left of it. Under a mapped axis the gradients of scale and bias are the device's own share, to
    be summed like those of all parameters.

    Args:
      x: float32 or narrower; it alone is kept for the backward pass.
      scale: of each channel.
      bias: of each channel.
      activation: applied to each element.
      epsilon: added to the variance.
      axis_name: mapped axis that the batch is spread over.
    """
    return _forward(x, scale, bias, activation, epsilon, axis_name)[0]


def _forward(x, scale, bias, activation, epsilon, axis_name):  # noqa: ANN001, ANN202
    wide = x.astype(jnp.float32)
    mean, square = _means(wide, jnp.square(wide), axis_name)
    var = jnp.maximum(square - jnp.square(mean), 0)
    inverse = lax.rsqrt(var + epsilon)
    y = activation(((wide - mean) * inverse * scale + bias).astype(x.dtype))
    return (y, mean, var), (x, scale, bias, mean, inverse)


def _backward(activation, epsilon, axis_name, saved, gradients):  # noqa: ANN001, ANN202, ARG001
    x, scale, bias, mean, inverse = saved
    outer = gradients[0]

    def parts(x: Array) -> tuple[Array, Array]:
        normal = (x.astype(jnp.float32) - mean) * inverse
        _, pull = jax.vjp(activation, (normal * scale + bias).astype(x.dtype))
        return normal, pull(outer)[0].astype(jnp.float32)

    normal, inner = parts(x)
    own = _sums(inner, inner * normal)
    mean_inner, mean_product = _means(inner, inner * normal, axis_name)
    # The first pass sums, the second one needs the sums. Behind the barrier the second computes its
    # operands from `x` anew; without it XLA would have the first write them for the second to read.
    x, mean_inner, mean_product = lax.optimization_barrier((x, mean_inner, mean_product))
    normal, inner = parts(x)
    gradient = (inner - mean_inner - normal * mean_product) * (inverse * scale)
    return gradient.astype(x.dtype), own[1], own[0]


normalise.defvjp(_forward, _backward)


def _means(a: Array, b: Array, axis_name: str | None) -> tuple[Channels, Channels]:
    """Returns the means by channel over pictures, pixels and the mapped axis."""
    # Not a 32-bit integer, which a large global batch would overflow.
    count = float(a.size // a.shape[-1])
    sums = jnp.stack(_sums(a, b))
    if axis_name is not None:
        sums = lax.psum(sums, axis_name)
        count *= lax.axis_size(axis_name)
    return sums[0] / count, sums[1] / count


def _sums(a: Array, b: Array) -> tuple[Channels, Channels]:
    return a.sum((0, 1, 2)), b.sum((0, 1, 2))
