"""Resampling against scipy, and the form for TPUs against the plain one."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
from jax import export

from lungseg_jax.augment import augment, random_affine
from lungseg_jax.config import AugmentConfig
from lungseg_jax.resampling import (
    affine,
    affine_by_gathers,
    affine_by_products,
    blur,
    filter_by_products,
    filter_by_slices,
)

IDENTITY = jnp.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
STRONG = AugmentConfig(rotation_degrees=20.0, scale=0.25, aspect=0.25, shear=0.1, shift=0.1)


def smooth_noise(height: int, width: int) -> np.ndarray:
    """Returns an image in [0, 1] without detail finer than some eight pixels."""
    noise = scipy.ndimage.gaussian_filter(np.random.default_rng(0).random((height, width)), 3)
    return ((noise - noise.min()) / np.ptp(noise)).astype(np.float32)


@pytest.mark.parametrize("size", [(8, 8), (8, 12)])
@pytest.mark.parametrize("shift", [(0.1, -0.05), (-0.2, 0.15)])
def test_affine_equals_scipy(size: tuple[int, int], shift: tuple[float, float]):
    """Fault: row and column swapped, a centre half a pixel off, one side cut off at its edge."""
    image = np.random.default_rng(0).random(size).astype(np.float32)
    matrix = jnp.array([[0.9, -0.3, shift[0]], [0.25, 1.1, shift[1]]])
    sides = np.array(size, np.float64)
    # The map in pixels: x -> S (M (x + 1/2) / S + (t + 1/2 - M 1/2)) - 1/2.
    linear = np.asarray(matrix[:, :2], np.float64) * sides[:, None] / sides[None, :]
    offset = sides * (np.asarray(matrix[:, 2], np.float64) + 0.5) - 0.5
    offset -= linear @ (sides / 2 - 0.5)
    expected = scipy.ndimage.affine_transform(
        image.astype(np.float64), linear, offset, order=1, mode="grid-constant"
    )
    np.testing.assert_allclose(affine([jnp.asarray(image)], matrix)[0], expected, atol=1e-5)


def test_shift_by_whole_pixels_fills_with_zero():
    """Fault: pixels wrapped around or repeated at the border."""
    image = jnp.arange(1.0, 17.0).reshape(4, 4)
    moved = affine([image], IDENTITY.at[1, 2].set(1 / 4))[0]
    np.testing.assert_allclose(moved[:, :3], image[:, 1:], atol=1e-5)
    np.testing.assert_allclose(moved[:, 3], 0, atol=1e-5)


@pytest.mark.parametrize("size", [(64, 64), (64, 100)])
def test_products_move_as_gathers_do(size: tuple[int, int]):
    """Fault: passes in the wrong order, a shear's sign, sides swapped, image and mask apart.

    Or a table that ends at the last whole stride, of which a side of 100 is no multiple.
    """
    image = jnp.asarray(smooth_noise(*size))
    mask = (image > 0.5).astype(jnp.float32)
    keys = jax.random.split(jax.random.key(0), 8)
    matrices = jax.vmap(partial(random_affine, config=STRONG))(keys)
    plain = jax.vmap(affine_by_gathers, in_axes=(None, 0))
    moved = jax.vmap(affine_by_products, in_axes=(None, 0))([image, mask], matrices)
    ones = jnp.ones(size)
    # Waves ring beside the frame's edge, and faintly farther in.
    inner = scipy.ndimage.minimum_filter(np.asarray(plain(ones, matrices)), (1, 13, 13)) == 1
    assert inner.mean() > 0.3
    difference = np.abs(np.asarray(moved[0] - plain(image, matrices)))
    assert difference[inner].max() < 0.05
    assert difference[inner].mean() < 0.006
    expected = np.asarray(plain(mask, matrices) > 0.5)
    agree = np.asarray(moved[1] > 0.5) == expected
    assert agree[inner].mean() > 0.985


def test_products_leave_black_outside_the_frame():
    """Fault: the image's repeats, or ringing, where nothing was."""
    matrix = jnp.array([[2.5, 0.6, 0.9], [-0.4, 2.5, -0.8]])
    image = jnp.ones((64, 64))
    (moved,) = affine_by_products([image], matrix)
    outside = affine_by_gathers(image, matrix) == 0
    assert 0.5 < outside.mean() < 0.95
    np.testing.assert_array_equal(moved[outside], 0)


def test_products_turn_as_far_as_promised():
    """Fault: the second pass divided by what vanishes long before a quarter turn."""
    image = jnp.asarray(smooth_noise(64, 64))
    angle = np.deg2rad(60)
    rotation = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    matrix = jnp.array(np.c_[rotation, [0.0, 0.0]], jnp.float32)
    (moved,) = affine_by_products([image], matrix)
    row, column = np.mgrid[:64, :64] - 31.5
    inner = np.hypot(row, column) < 20
    assert np.abs(np.asarray(moved - affine_by_gathers(image, matrix)))[inner].mean() < 0.03


@pytest.mark.parametrize("sigma", [0.0, 0.5, 1.0])
def test_blur_equals_scipy(sigma: float):
    """Fault: a kernel that is not normalised or blurs one axis only; NaN where nothing blurs."""
    image = np.random.default_rng(0).random((12, 17)).astype(np.float32)
    expected = scipy.ndimage.gaussian_filter(image, sigma, radius=3, mode="nearest")
    np.testing.assert_allclose(blur(jnp.asarray(image), jnp.float32(sigma), 3), expected, atol=1e-5)


@pytest.mark.parametrize("size", [(12, 17), (32, 8)])
def test_products_blur_as_slices_do(size: tuple[int, int]):
    """Fault: edges not repeated, or the matrix of one axis used for the other."""
    image = jnp.asarray(np.random.default_rng(0).random(size), jnp.float32)
    kernel = jnp.array([0.1, 0.2, 0.4, 0.25, 0.05])
    with jax.default_matmul_precision("highest"):
        products = filter_by_products(image, kernel)
    np.testing.assert_allclose(products, filter_by_slices(image, kernel), atol=1e-6)


@pytest.mark.parametrize(("platform", "gathers"), [("tpu", False), ("cpu", True)])
def test_no_pixel_is_gathered_on_a_tpu(platform: str, gathers: bool):
    """Fault: the form for CPUs lowered for TPUs, or a gather among what surrounds it."""
    config = dataclasses.replace(AugmentConfig(), local_contrast=1.0, shading=0.1, bars=0.15)
    images = jnp.zeros((2, 32, 32, 1))
    run = jax.jit(partial(augment, config=config))
    lowered = export.export(run, platforms=[platform])(
        jax.random.key(0), jnp.arange(2), images, images
    )
    assert ("stablehlo.gather" in lowered.mlir_module()) == gathers
