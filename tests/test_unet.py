"""The U-Net as a function."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lungseg_jax.models.unet import UNet, Upsample


def small_unet(**changes) -> UNet:
    settings = {"width": 8, "depth": 2, "rngs": nnx.Rngs(0)} | changes
    return UNet(**settings)


@pytest.mark.parametrize("level", [0, 1])
@pytest.mark.parametrize("block_size", [1, 2])
def test_every_skip_reaches_the_output(level: int, block_size: int):
    """Fault: a dropped skip. Cutting the decoder off its skip's channels must change the output."""
    model = small_unet(block_size=block_size)
    image = jax.random.uniform(jax.random.key(1), (1, 16, 16, 1))
    whole = model(image)
    kernel = model.decoder[level].first.conv.kernel
    skip_channels = kernel.shape[2] // 2
    kernel[...] = kernel[...].at[:, :, :skip_channels].set(0)
    assert jnp.abs(model(image) - whole).max() > 1e-3
    if level:
        return
    # Fault: skip and what comes from below exchanged, by which all saved weights are lost.
    below = model.upsamples[0].conv.kernel
    below[...] = jnp.zeros_like(below[...])
    np.testing.assert_allclose(model(image), model(jnp.zeros_like(image)), atol=1e-6)


@pytest.mark.parametrize("level", [0, 1, 2])
def test_skip_carries_the_encoder_of_its_own_level(level: int):
    """Fault: skips taken in the wrong order, or one level's used for all."""
    model = small_unet()
    image = jax.random.uniform(jax.random.key(1), (1, 16, 16, 1))
    # What comes through deeper levels is cut off; the deepest has no skip.
    for upsample in list(model.upsamples)[level : level + 1]:
        upsample.conv.kernel[...] = jnp.zeros_like(upsample.conv.kernel[...])

    def loss_through(scale):
        scaled = nnx.clone(model)
        norm = scaled.encoder[level].second.norm
        norm.scale[...] = norm.scale[...] * scale
        return scaled(image).sum()

    assert abs(jax.grad(loss_through)(1.0)) > 1e-4


def test_upsample_equals_transposed_convolution():
    """Fault: sub-pixels placed in another order than the transposed convolution's."""
    module = Upsample(6, 3, dtype=jnp.dtype("float32"), rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(1), (2, 4, 5, 6))
    kernel = module.conv.kernel[...][0, 0].reshape(6, 2, 2, 3).transpose(1, 2, 0, 3)
    expected = jax.lax.conv_transpose(
        x, kernel[::-1, ::-1], (2, 2), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"),
        transpose_kernel=False,
    )  # fmt: skip
    np.testing.assert_allclose(module(x), expected, atol=1e-5)


def test_output_of_a_pixel_depends_on_pixels_far_away_and_near():
    """Fault: a bottleneck that is cut off, leaving a net that sees only its first level."""
    model = small_unet(depth=3)
    image = jax.random.uniform(jax.random.key(1), (1, 64, 64, 1))
    gradient = jax.grad(lambda x: model(x)[0, 32, 32, 0])(image)[0, :, :, 0]
    reach = np.argwhere(np.asarray(gradient) != 0)
    # Two 3x3 convolutions at 1/8 resolution alone span 8 * 5 pixels.
    assert np.ptp(reach[:, 0]) >= 39
    assert gradient[32, 32] != 0


def test_side_that_does_not_divide_states_the_padding():
    """Fault: an obscure reshape error for an image of another size."""
    model = small_unet(depth=3, block_size=2)
    with pytest.raises(ValueError, match="pad by 12 rows and 0 columns to 112 x 64"):
        model(jnp.zeros((1, 100, 64, 1)))


def test_rectangular_images_pass():
    """Fault: height and width confused somewhere on the way."""
    assert small_unet()(jnp.zeros((1, 16, 32, 1))).shape == (1, 16, 32, 1)


def test_bfloat16_keeps_parameters_statistics_and_logits_in_float32():
    """Fault: bf16 running statistics or logits, which lose small updates."""
    model = small_unet(dtype=jnp.bfloat16)
    logits = model(jnp.ones((2, 16, 16, 1)), train=True)
    assert logits.dtype == jnp.float32
    state = nnx.state(model, (nnx.Param, nnx.BatchStat))
    assert {x.dtype for x in jax.tree.leaves(state)} == {jnp.dtype("float32")}
    exact = small_unet()(jnp.ones((2, 16, 16, 1)), train=True)
    np.testing.assert_allclose(logits, exact, atol=0.15)


@pytest.mark.parametrize("train", [True, False])
def test_remat_changes_nothing_but_memory(train: bool):
    """Fault: batch statistics lost inside the rematerialised block."""
    plain, remat = small_unet(), small_unet(remat=True)
    image = jax.random.uniform(jax.random.key(1), (2, 16, 16, 1))

    def gradient(model):
        graph, parameters, rest = nnx.split(model, nnx.Param, ...)

        def loss(parameters):
            merged = nnx.merge(graph, parameters, rest, copy=True)
            value = (merged(image, train=train) ** 2).mean()
            return value, nnx.state(merged, nnx.BatchStat)

        return jax.value_and_grad(loss, has_aux=True)(parameters)

    for left, right in zip(
        jax.tree.leaves(gradient(plain)), jax.tree.leaves(gradient(remat)), strict=True
    ):
        np.testing.assert_allclose(left, right, rtol=1e-4, atol=1e-6)


def test_group_norm_does_not_see_the_rest_of_the_batch():
    """Fault: normalisation over the batch axis under the name of group norm."""
    model = small_unet(norm="group")
    pair = jax.random.uniform(jax.random.key(1), (2, 16, 16, 1))
    np.testing.assert_allclose(
        model(pair, train=True)[:1], model(pair[:1], train=True), rtol=1e-4, atol=1e-5
    )
