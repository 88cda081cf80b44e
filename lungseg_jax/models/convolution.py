"""Convolutions with gradients in forms that every backend runs fast.

On a CPU, XLA runs some of them at a tenth of the rate of others: forward passes with few channels,
and kernel gradients where images are large. Here these become what its matrix library takes.
All other backends, and all types other than float32, run XLA's own.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

NHWC = ("NHWC", "HWIO", "NHWC")

# Up to this many channels, in and out, two columns are computed at once.
_FEW_CHANNELS = 16

# Up to this many channels out, a kernel's gradient is summed over strips. Beyond that, XLA's own
# is as fast.
_STRIP_CHANNELS = 64

# A strip's neighbourhoods are to stay in a core's second-level cache.
_STRIP_BYTES = 2**21
_COLUMNS = (4, 2)


@jax.custom_vjp
def convolve(
    x: Float[Array, "b h w c"], kernel: Float[Array, "s s c d"]
) -> Float[Array, "b h w d"]:
    """Returns the cross-correlation, of the same size; there are zeros beyond the borders.

    Args:
      x: images.
      kernel: a kernel of odd side.
    """
    return _dispatch(_convolve_on_cpu, _convolve, x, kernel)


def _forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return convolve(x, kernel), (x, kernel)


def _backward(saved: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    return _dispatch(_gradients_on_cpu, _gradients, *saved, gradient)


convolve.defvjp(_forward, _backward)


def _dispatch(on_cpu, elsewhere, x: Array, *others: Array):  # noqa: ANN001, ANN202
    # Chosen by the platform that is compiled for: a CPU may compile for a TPU.
    if x.dtype != jnp.float32:
        return elsewhere(x, *others)
    return lax.platform_dependent(x, *others, cpu=on_cpu, default=elsewhere)


def _convolve(x: Array, kernel: Array) -> Array:
    return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=NHWC)


def _gradients(x: Array, kernel: Array, gradient: Array) -> tuple[Array, Array]:
    return jax.vjp(_convolve, x, kernel)[1](gradient)


def _convolve_on_cpu(x: Array, kernel: Array) -> Array:
    size, _, c, d = kernel.shape
    if size == 1 or max(c, d) > _FEW_CHANNELS or x.shape[2] % 2:
        return _convolve(x, kernel)
    # Windows one column wider, two columns apart, give two columns of results as channels.
    left, right = (jnp.pad(kernel, ((0, 0), (i, 1 - i), (0, 0), (0, 0))) for i in (0, 1))
    margin = (size // 2, size // 2)
    pairs = lax.conv_general_dilated(
        x,
        jnp.concatenate([left, right], axis=-1),
        (1, 2),
        (margin, margin),
        dimension_numbers=NHWC,
    )
    return pairs.reshape(*x.shape[:3], d)


def _gradients_on_cpu(x: Array, kernel: Array, gradient: Array) -> tuple[Array, Array]:
    mirrored = jnp.flip(kernel, (0, 1)).swapaxes(2, 3)
    gradient_of_x = _convolve_on_cpu(gradient, mirrored)
    if kernel.shape[0] > 1 and kernel.shape[3] > _STRIP_CHANNELS:
        return gradient_of_x, _gradients(x, kernel, gradient)[1]
    return gradient_of_x, _kernel_gradient_by_strips(x, gradient, kernel.shape[0])


def _kernel_gradient_by_strips(x: Array, gradient: Array, size: int) -> Array:
    """The product of all neighbourhoods with the gradient, a strip of columns at a time.

    Images may be spread over devices, so strips are of columns, and sums stay apart by image
    until the end. Where rows are spread, each strip meets its neighbours by itself.
    """
    b, h, w, c = x.shape
    d = gradient.shape[-1]
    columns = _columns_of_a_strip(x, size)
    margin = (size // 2, size // 2)
    padded = jnp.pad(x, ((0, 0), margin, margin, (0, 0)))

    def add_strip(i: Array, total: Array) -> Array:
        """Adds what the i-th strip of columns contributes."""
        strip = lax.dynamic_slice_in_dim(padded, i * columns, columns + size - 1, axis=2)
        offsets = [(i, j) for i in range(size) for j in range(size)]
        neighbourhoods = [strip[:, i : i + h, j : j + columns] for i, j in offsets]
        gradient_strip = lax.dynamic_slice_in_dim(gradient, i * columns, columns, axis=2)
        return total + lax.dot_general(
            gradient_strip.reshape(b, h * columns, d),
            jnp.concatenate(neighbourhoods, axis=-1).reshape(b, h * columns, size**2 * c),
            (((1,), (1,)), ((0,), (0,))),
        )

    by_image = lax.fori_loop(0, w // columns, add_strip, jnp.zeros((b, d, size**2 * c)))
    return by_image.sum(0).reshape(d, size, size, c).transpose(1, 2, 3, 0)


def _columns_of_a_strip(x: Array, size: int) -> int:
    b, h, w, c = x.shape
    if size == 1:
        return w
    fitting = [n for n in _COLUMNS if w % n == 0 and 4 * b * h * n * size**2 * c <= _STRIP_BYTES]
    return max(fitting, default=1)
