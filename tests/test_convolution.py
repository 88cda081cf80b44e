"""Convolutions and their gradients against XLA's own."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lungseg_jax.models.convolution import convolve


def plain(x, kernel):
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def random(seed: int, *shape: int):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape, np.float32))


# Few channels, which are computed in pairs of columns, and many; widths of one to four columns a
# strip; channels beyond which kernels' gradients are XLA's own.
@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize(
    ("height", "width", "channels_in", "channels_out"),
    [(8, 8, 1, 4), (6, 10, 16, 16), (5, 7, 3, 2), (4, 6, 17, 16), (8, 4, 20, 40), (4, 4, 3, 65)],
)
def test_same_as_the_plain_form_with_both_gradients(size, height, width, channels_in, channels_out):
    """Fault: neighbours in another order, a border that is not zero, a strip left out."""
    x = random(0, 2, height, width, channels_in)
    kernel = random(1, size, size, channels_in, channels_out)
    gradient = random(2, 2, height, width, channels_out)
    for form in (convolve, jax.jit(convolve)):
        result, backward = jax.vjp(form, x, kernel)
        expected, plain_backward = jax.vjp(plain, x, kernel)
        pairs = zip(
            (result, *backward(gradient)), (expected, *plain_backward(gradient)), strict=True
        )
        for ours, theirs in pairs:
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("platform", ["tpu", "cuda"])
def test_accelerators_get_plain_convolutions(platform: str):
    """Fault: loops for a CPU's caches in a program for a TPU, where they are slow."""
    x, kernel = random(0, 2, 8, 8, 4), random(1, 3, 3, 4, 4)
    step = jax.jit(jax.grad(lambda x, kernel: (convolve(x, kernel) ** 2).sum(), argnums=(0, 1)))
    text = step.trace(x, kernel).lower(lowering_platforms=(platform,)).as_text()
    assert "stablehlo.while" not in text
    assert len(re.findall("stablehlo.convolution", text)) == 3


def test_other_types_than_float32_are_not_touched():
    """Fault: sums over a large image in bfloat16."""
    x, kernel = random(0, 2, 8, 8, 4).astype("bfloat16"), random(1, 3, 3, 4, 4).astype("bfloat16")
    text = jax.jit(jax.grad(lambda k: convolve(x, k).sum())).lower(kernel).as_text()
    assert "stablehlo.while" not in text


def test_a_cpu_gets_forms_of_its_own():
    """Fault: a condition that never holds, and the plain forms at a third of the rate."""
    x, kernel = random(0, 2, 8, 8, 4), random(1, 3, 3, 4, 4)
    gradient = jax.grad(lambda x, kernel: (convolve(x, kernel) ** 2).sum(), argnums=(0, 1))
    text = jax.jit(gradient).lower(x, kernel).as_text()
    assert "stablehlo.while" in text
    assert set(re.findall(r"stride = \[(.*?)\]", text)) == {"1, 2"}
