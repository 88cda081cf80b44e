"""The count of a network's work."""

import math

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from lungseg_jax.config import ModelConfig
from lungseg_jax.flops import forward_flops, training_flops
from lungseg_jax.models.unet import UNet


def traced_flops(model: ModelConfig, size: int) -> int:
    """Twice the taps of every convolution in the traced network."""
    network = nnx.eval_shape(
        lambda: UNet(
            width=model.width, depth=model.depth, block_size=model.block_size, rngs=nnx.Rngs(0)
        )
    )
    graph, state = nnx.split(network)
    picture = jax.ShapeDtypeStruct((1, size, size, 1), jnp.float32)
    traced = jax.make_jaxpr(lambda state, x: nnx.merge(graph, state)(x))(state, picture)
    total = 0
    for equation in traced.jaxpr.eqns:
        if equation.primitive.name == "conv_general_dilated":
            kernel = equation.invars[1].aval.shape
            total += 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(kernel[:-1])
    return total


@pytest.mark.parametrize(("width", "depth", "block_size"), [(8, 2, 1), (4, 3, 2)])
def test_count_is_that_of_the_network(width, depth, block_size):
    """Fault: a layer that the formula forgets, or counts at another level's resolution."""
    model = ModelConfig(width=width, depth=depth, block_size=block_size)
    assert forward_flops(model, 64, 64) == traced_flops(model, 64)


def test_count_agrees_with_what_is_published():
    """Fault: a factor of two. U-Net of width 64 at 512 x 512: 1154 GFLOP of training work."""
    model = ModelConfig(width=64, depth=4, block_size=1)
    assert training_flops(model, 512, 512) == pytest.approx(1154e9, rel=0.02)
