"""Upsampling's gradients in the form for TPUs against autodiff's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lungseg_jax.models.upsampling import gradients_by_strides, upsample


def test_strides_give_the_gradients():
    """Fault: rows and columns of a block swapped, or the kernel's gradient mirrored."""
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (2, 3, 5, 4))
    kernel = jax.random.normal(keys[1], (1, 1, 4, 12))
    gradient = jax.random.normal(keys[2], (2, 6, 10, 3))
    found = gradients_by_strides(x, kernel, gradient)
    expected = jax.vjp(upsample, x, kernel)[1](gradient)
    for result, reference in zip(found, expected, strict=True):
        np.testing.assert_allclose(result, reference, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("platform", "strided"), [("tpu", True), ("cpu", False), ("cuda", False)])
def test_the_form_for_tpus_is_lowered_for_tpus_alone(platform: str, strided: bool):
    """Fault: a transpose of every block, which moves values between a TPU's lanes."""
    gradients = jax.jit(jax.grad(lambda x, kernel: upsample(x, kernel).sum(), argnums=(0, 1)))
    arguments = jnp.zeros((1, 4, 4, 8)), jnp.zeros((1, 1, 8, 16))
    text = gradients.trace(*arguments).lower(lowering_platforms=(platform,)).as_text()
    assert ("stride = [2, 2]" in text) == strided
