"""Max pooling with a gradient made of cheap element-wise passes."""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float


@jax.custom_vjp
def max_pool(x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
    """Returns the maximum of each 2×2 block; equal maxima share the gradient evenly.

    Not a windowed reduction, whose gradient is XLA's slow select-and-scatter.
    """
    return functools.reduce(jnp.maximum, _quarters(x))


def _quarters(x: Array) -> list[Array]:
    """Returns the pixels of each 2×2 block by their place in it."""
    assert x.shape[1] % 2 == x.shape[2] % 2 == 0
    return [x[:, i::2, j::2] for i in (0, 1) for j in (0, 1)]


def _forward(x: Array) -> tuple[Array, tuple[Array, Array, Array]]:
    quarters = _quarters(x)
    largest = functools.reduce(jnp.maximum, quarters)
    count = sum((quarter == largest).astype(jnp.int8) for quarter in quarters)
    # Without the barrier XLA counts again in the backward pass: keeping a byte a block is cheaper.
    largest, count = lax.optimization_barrier((largest, count))
    return largest, (x, largest, count)


def _backward(saved: tuple[Array, Array, Array], gradient: Array) -> tuple[Array]:
    x, largest, count = saved
    share = gradient / count.astype(gradient.dtype)
    return (
        lax.platform_dependent(x, largest, share, tpu=spread_by_pads, default=_spread_by_copies),
    )


max_pool.defvjp(_forward, _backward)


def _spread_by_copies(x: Array, largest: Array, share: Array) -> Array:
    return jnp.where(x == _repeat(largest), _repeat(share), 0)


def spread_by_pads(
    x: Float[Array, "b h w c"], largest: Float[Array, "b h2 w2 c"], share: Float[Array, "b h2 w2 c"]
) -> Float[Array, "b h w c"]:
    """Returns each block's share where its largest pixels are, and 0 elsewhere.

    A sum of four images with gaps: a TPU would write both repeated images out.
    """
    nothing = jnp.zeros((), share.dtype)
    spread = jnp.zeros_like(x)
    for place, quarter in enumerate(_quarters(x)):
        i, j = divmod(place, 2)
        gaps = ((0, 0, 0), (i, 1 - i, 1), (j, 1 - j, 1), (0, 0, 0))
        spread += lax.pad(jnp.where(quarter == largest, share, 0), nothing, gaps)
    return spread


def _repeat(x: Array) -> Array:
    """Repeats each position over a 2×2 block."""
    b, h, w, c = x.shape
    return jnp.broadcast_to(x[:, :, None, :, None], (b, h, 2, w, 2, c)).reshape(b, 2 * h, 2 * w, c)
