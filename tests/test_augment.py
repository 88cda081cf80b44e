"""Augmentation against exact geometry."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lungseg_jax.augment import augment, augmentation_for, random_affine
from lungseg_jax.config import AugmentConfig, Config

OFF = AugmentConfig(
    flip=False, **{f.name: 0.0 for f in dataclasses.fields(AugmentConfig) if f.name != "flip"}
)


def batch(size: int = 16, count: int = 4):
    images = jax.random.uniform(jax.random.key(3), (count, size, size, 1))
    masks = (jax.random.uniform(jax.random.key(4), images.shape) > 0.5).astype(jnp.float32)
    return images, masks


def test_nothing_configured_changes_nothing():
    """Fault: a half-pixel shift or a rescaling hidden in the resampling."""
    images, masks = batch()
    new_images, new_masks = augment(jax.random.key(0), jnp.arange(4), images, masks, OFF)
    np.testing.assert_allclose(new_images, images, atol=2e-5)
    np.testing.assert_array_equal(new_masks, masks)


def test_image_and_masks_move_together():
    """Fault: image and masks, or one class and the other, moved by different random maps."""
    config = dataclasses.replace(AugmentConfig(), gamma=0.0, contrast=0.0, brightness=0.0,
                                 noise=0.0, blur=0.0)  # fmt: skip
    centre = jnp.zeros((16, 32, 32, 1)).at[:, 10:20, 12:25].set(1)
    two = jnp.concatenate([centre, 1 - centre], axis=-1)
    images, masks = augment(jax.random.key(1), jnp.arange(16), centre, two, config)
    np.testing.assert_array_equal(images[..., 0] > 0.5, masks[..., 0] > 0.5)
    # Beyond the frame both classes are 0.
    inner = np.s_[:, 8:24, 8:24]
    np.testing.assert_array_equal(1 - masks[..., 0][inner], masks[..., 1][inner])
    assert len({float(mask.sum()) for mask in masks[..., 0]}) > 8, "all images moved alike"


def test_intensity_changes_leave_the_mask_alone():
    """Fault: noise or blur applied to the stack of image and mask."""
    images, masks = batch()
    config = dataclasses.replace(AugmentConfig(), flip=False, rotation_degrees=0.0, scale=0.0,
                                 shear=0.0, shift=0.0)  # fmt: skip
    new_images, new_masks = augment(jax.random.key(1), jnp.arange(4), images, masks, config)
    np.testing.assert_array_equal(new_masks, masks)
    assert jnp.abs(new_images - images).max() > 0.05
    assert new_images.min() >= 0
    assert new_images.max() <= 1


GEOMETRY = {"rotation_degrees": 10.0, "scale": 0.2, "aspect": 0.25, "shear": 0.1, "shift": 0.1}
LOOKS = {
    "gamma": 1.0, "contrast": 0.5, "brightness": 0.2, "blur": 1.5, "noise": 0.05, "tone": 0.15,
    "local_contrast": 1.0, "shading": 0.1, "opacity": 0.3, "bars": 0.2,
}  # fmt: skip


def test_every_strength_is_tested_below():
    """Fault: a key that is new and does nothing."""
    names = {field.name for field in dataclasses.fields(AugmentConfig)}
    assert names == {"flip", *GEOMETRY, *LOOKS}, (
        "give a new key a strength that shows: in GEOMETRY if it moves masks, else in LOOKS"
    )


@pytest.mark.parametrize("name", [*GEOMETRY, *LOOKS])
def test_each_strength_does_something_and_only_what_it_says(name):
    """Fault: a key that does nothing, or masks moved by what changes looks alone."""
    config = dataclasses.replace(OFF, **{name: (GEOMETRY | LOOKS)[name]})
    images = jnp.broadcast_to(jnp.linspace(0.2, 0.8, 32)[:, None, None], (8, 32, 32, 1))
    images = images + 0.1 * jax.random.uniform(jax.random.key(3), images.shape)
    masks = jnp.zeros_like(images).at[:, 8:20, 10:22].set(1)
    found, moved = augment(jax.random.key(1), jnp.arange(8), images, masks, config)
    assert float(jnp.abs(found - images).max()) > 0.02
    assert bool((moved != masks).any()) == (name in GEOMETRY)


@pytest.mark.parametrize(("name", "limit"), GEOMETRY.items())
def test_geometry_reaches_its_limit_and_no_farther(name, limit):
    """Fault: a range of half or twice the stated strength, or one axis left out."""
    config = dataclasses.replace(OFF, **{name: limit})
    keys = jax.random.split(jax.random.key(0), 512)
    matrices = np.asarray(jax.vmap(partial(random_affine, config=config))(keys))
    (a, b, down), (c, d, right) = matrices.transpose(1, 2, 0)
    # How far each of the changes went, and what must not have changed.
    reached, kept = {
        "rotation_degrees": ([np.rad2deg(np.arctan2(c, a))], [np.hypot(a, c) - 1, down, right]),
        # Size, and height against width, which is the square of a factor of half the range.
        "scale": ([np.sqrt(a * d) - 1, 2 * (np.sqrt(a / d) - 1)], [b, c, down, right]),
        "aspect": ([a / d - 1], [a * d - 1, b, c, down, right]),
        "shear": ([b + c], [a - 1, d - 1, down, right]),
        "shift": ([down, right], [a - 1, d - 1, b, c]),
    }[name]
    for change in reached:
        assert 0.9 * limit < change.max() < 1.001 * limit
        assert change.min() < -0.75 * limit
    np.testing.assert_allclose(kept, 0, atol=1e-6)


def test_bodies_are_stretched_along_the_images_axes_and_then_turned():
    """Fault: turned first, so that a tilted chest is also skewed, more than shear allows."""
    keys = jax.random.split(jax.random.key(0), 64)

    def products(config: AugmentConfig) -> tuple[np.ndarray, np.ndarray]:
        matrices = np.asarray(jax.vmap(partial(random_affine, config=config))(keys))[:, :, :2]
        transposed = matrices.swapaxes(1, 2)
        return transposed @ matrices, matrices @ transposed

    stretched = dataclasses.replace(OFF, rotation_degrees=20.0, scale=0.2, aspect=0.25)
    of_columns, of_rows = products(stretched)
    np.testing.assert_allclose(of_columns[:, 0, 1], 0, atol=1e-6)
    assert np.abs(of_rows[:, 0, 1]).max() > 0.05
    skewed = dataclasses.replace(OFF, rotation_degrees=20.0, shear=0.2)
    of_columns, of_rows = products(skewed)
    np.testing.assert_allclose(of_columns[:, 1, 1], 1, atol=1e-6)
    assert np.abs(of_rows[:, 1, 1] - 1).max() > 0.05
    # The stretched image is skewed by no more than shear, however wide it is.
    both = dataclasses.replace(OFF, shear=0.2, aspect=1.0)
    matrices = np.asarray(jax.vmap(partial(random_affine, config=both))(keys))
    skews = np.abs(matrices[:, 1, 0] / matrices[:, 0, 0])
    assert 0.18 < skews.max() < 0.2


def correlation(x: np.ndarray, y: np.ndarray) -> float:
    return float(np.corrcoef(x, y)[0, 1])


def changed(config: AugmentConfig, image: jax.Array, *masks: jax.Array, count: int = 256):
    """One image changed for each of many slots, and its masks with it."""
    stacks = [
        jnp.broadcast_to(x, (count, *x.shape[:2], x.shape[2]))
        for x in (image[..., None], jnp.stack(masks or (0 * image,), axis=-1))
    ]
    found, moved = augment(jax.random.key(5), jnp.arange(count), *stacks, config)
    return np.asarray(found[..., 0]), np.asarray(moved)


GREY = jnp.full((16, 16), 0.5)


def test_size_and_aspect_are_drawn_apart():
    """Fault: only wide chests large and narrow ones small, because two changes share a number."""
    config = dataclasses.replace(OFF, scale=0.2, aspect=0.25)
    keys = jax.random.split(jax.random.key(0), 512)
    matrices = np.asarray(jax.vmap(partial(random_affine, config=config))(keys))
    height, width = np.log(matrices[:, 0, 0]), np.log(matrices[:, 1, 1])
    assert abs(correlation(height + width, height - width)) < 0.2
    # Apart, variances add up; an aspect that repeats the weaker factor would add deviations.
    alone = [
        np.asarray(jax.vmap(partial(random_affine, config=dataclasses.replace(OFF, **one)))(keys))
        for one in ({"scale": 0.2}, {"aspect": 0.25})
    ]
    variances = [np.log(m[:, 0, 0] / m[:, 1, 1]).var() for m in (matrices, *alone)]
    assert variances[0] == pytest.approx(variances[1] + variances[2], rel=0.25)


def test_looks_do_not_go_with_geometry():
    """Fault: chests turned to the left all darkened, those to the right all lightened."""
    config = dataclasses.replace(OFF, rotation_degrees=20.0, shear=0.2, tone=0.2)
    upper = jnp.zeros((16, 16)).at[:8].set(1)
    found, masks = changed(config, GREY, upper)
    tilt = masks[:, :, :8].sum((1, 2, 3)) - masks[:, :, 8:].sum((1, 2, 3))
    assert tilt.std() > 2
    assert abs(correlation(found[:, 8, 8], tilt)) < 0.2


def test_grey_stays_grey_under_more_contrast():
    """Fault: contrast about black, which is brightness under another name."""
    found, _ = changed(dataclasses.replace(OFF, contrast=0.5), GREY)
    np.testing.assert_allclose(found, 0.5, atol=1e-6)


def test_gamma_darkens_by_as_much_as_it_lightens():
    """Fault: a power of 1 + x, which reaches 0: an image of one white."""
    found, _ = changed(dataclasses.replace(OFF, gamma=1.0), GREY)
    # Powers of 2 and of 1/2.
    assert (found.min(), found.max()) == pytest.approx((0.25, 0.5**0.5), abs=0.01)
    assert 100 < np.count_nonzero(found[:, 0, 0] < 0.5) < 156


def test_noise_has_any_level_up_to_its_own_in_every_pixel():
    """Fault: all images as noisy as the worst; a pixel that tells how noisy its image is."""
    found, _ = changed(dataclasses.replace(OFF, noise=0.05), GREY)
    deviation = found.std((1, 2))
    assert deviation.min() < 0.003
    assert 0.045 < deviation.max() < 0.056
    scores = (found - 0.5) / deviation[:, None, None]
    related = [correlation(deviation, pixel) for pixel in scores.reshape(256, -1).T]
    assert np.abs(related).max() < 0.35


def test_no_lung_of_two_is_under_a_bar():
    """Fault: bars kept off the first class alone, so that black pixels are called left lung."""
    right = jnp.zeros((16, 16)).at[4:12, 6:9].set(1)
    left = jnp.zeros((16, 16)).at[2:15, 11:15].set(1)
    bars = dataclasses.replace(OFF, bars=0.5)
    found, masks = changed(bars, jnp.ones((16, 16)), right, left)
    assert masks[..., 1].all(0).sum() == left.sum()
    assert found[masks.any(-1)].min() > 0.99
    assert np.count_nonzero(found[:, 8, 0] < 0.01) > 30


def test_each_slot_is_changed_the_same_in_any_batch():
    """Fault: random numbers that depend on how the batch is spread over devices."""
    images, masks = batch()
    whole = augment(jax.random.key(1), jnp.arange(4), images, masks, AugmentConfig())
    part = augment(jax.random.key(1), jnp.array([2, 3]), images[2:], masks[2:], AugmentConfig())
    np.testing.assert_allclose(whole[0][2:], part[0], atol=1e-6)
    np.testing.assert_array_equal(whole[1][2:], part[1])


def test_flip_mirrors_columns_in_half_of_the_images():
    """Fault: heads swapped with feet, or a flip that never or always happens."""
    images, masks = batch(count=64)
    config = dataclasses.replace(OFF, flip=True)
    flipped, _ = augment(jax.random.key(1), jnp.arange(64), images, masks, config)
    mirrored = np.abs(flipped - images[:, :, ::-1]).max(axis=(1, 2, 3)) < 1e-4
    same = np.abs(flipped - images).max(axis=(1, 2, 3)) < 1e-4
    assert (mirrored ^ same).all()
    assert 20 < mirrored.sum() < 44


def test_chests_with_sides_are_not_flipped():
    """Fault: a heart on the right side, with the lung beside it called the left one."""
    given = Config()
    assert given.augment.flip
    assert augmentation_for(given) == given.augment
    sided = dataclasses.replace(given, data=dataclasses.replace(given.data, labels="left_right"))
    assert augmentation_for(sided) == dataclasses.replace(given.augment, flip=False)


def test_rotation_stays_in_its_range():
    """Fault: degrees taken for radians."""
    config = dataclasses.replace(OFF, rotation_degrees=10.0)
    line = jnp.zeros((1, 65, 65, 1)).at[:, 31:34].set(1)
    keys = jax.random.split(jax.random.key(0), 32)
    moved = jax.vmap(partial(augment, config=config), in_axes=(0, None, None, None))(
        keys, jnp.zeros(1, jnp.int32), line, line
    )[1][:, 0, :, :, 0]
    rows = jnp.arange(65)[:, None]
    height_at = [
        (rows * moved[:, :, c : c + 1]).sum((1, 2)) / moved[:, :, c].sum(1) for c in (16, 48)
    ]
    angles = np.rad2deg(np.arctan2(np.asarray(height_at[1] - height_at[0]), 32))
    assert 5 < np.abs(angles).max() < 11.5


def test_powers_of_dark_pixels_are_numbers():
    """Fault: NaN where shading or an opacity takes a pixel below zero before gamma."""
    config = dataclasses.replace(OFF, shading=0.5, opacity=0.5, gamma=1.0)
    dark = jnp.full((64, 16, 16, 1), 0.1)
    found, _ = augment(jax.random.key(1), jnp.arange(64), dark, jnp.zeros_like(dark), config)
    assert jnp.isfinite(found).all()


def test_blur_reaches_three_deviations():
    """Fault: a kernel cut off at one deviation, which is a weaker and square blur."""
    config = dataclasses.replace(OFF, blur=2.0)
    point = jnp.zeros((64, 33, 33, 1)).at[:, 16, 16].set(1)
    found, _ = augment(jax.random.key(1), jnp.arange(64), point, point, config)
    # Six pixels from the point a Gaussian of deviation 2 has exp(-4.5) of its value there.
    strongest = found[jnp.argmin(found[:, 16, 16, 0]), 16, :, 0]
    share = strongest[jnp.array([10, 22])] / strongest[16]
    np.testing.assert_allclose(share, np.exp(-4.5), rtol=0.2)
