"""Changes of an image's look against what they are meant to do."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lungseg_jax.appearance import (
    bars,
    bend,
    change_appearance,
    change_local_contrast,
    enlarge,
    opacities,
)
from lungseg_jax.config import AugmentConfig

LUNGS = jnp.zeros((40, 60), bool).at[10:30, 20:50].set(True)


def ramp() -> jax.Array:
    return jnp.broadcast_to(jnp.linspace(0, 1, 60), (40, 60))


@pytest.mark.parametrize("amounts", [(0.15, 0.0), (-0.15, 0.15), (0.15, -0.15)])
def test_a_bent_curve_rises_and_keeps_its_ends(amounts: tuple[float, float]):
    """Fault: a curve that falls somewhere swaps dark and bright; moved ends clip the image."""
    bent = np.asarray(bend(ramp(), jnp.array(amounts)))[0]
    assert (np.diff(bent) > 0).all()
    np.testing.assert_allclose(bent[[0, -1]], [0, 1], atol=1e-6)
    assert np.abs(bent - np.asarray(ramp()[0])).max() > 0.1


def test_local_contrast_of_one_changes_nothing_and_of_none_leaves_the_mean():
    """Fault: a neighbourhood's mean that is off, so that the image gets brighter."""
    image = jax.random.uniform(jax.random.key(0), (64, 48))
    np.testing.assert_allclose(change_local_contrast(image, jnp.float32(1)), image, atol=1e-6)
    flat = change_local_contrast(image, jnp.float32(0))
    assert float(flat.mean()) == pytest.approx(float(image.mean()), abs=0.01)
    assert float(flat.std()) < 0.3 * float(image.std())


def test_local_contrast_keeps_slow_changes():
    """Fault: large structures flattened, as by a high-pass filter."""
    changed = change_local_contrast(ramp(), jnp.float32(2))
    np.testing.assert_allclose(changed[:, 4:-4], ramp()[:, 4:-4], atol=0.03)


def test_enlarged_values_are_interpolated_between_centres():
    """Fault: half a part's shift, or weights that do not sum to one at the rim."""
    field = np.asarray(enlarge(jnp.array([[0.0, 1.0], [0.0, 1.0]]), (4, 8)))
    # Centres of the parts lie at columns 1.5 and 5.5.
    expected = np.clip((np.arange(8) - 1.5) / 4, 0, 1)
    np.testing.assert_allclose(field, np.tile(expected, (4, 1)), atol=1e-6)


def test_opacities_are_soft_and_bounded():
    """Fault: a blot with an edge, which a network learns to see, or sums without bound."""
    blots = jax.vmap(lambda key: opacities(key, (64, 48)))(jax.random.split(jax.random.key(1), 64))
    assert float(jnp.abs(jnp.diff(blots, axis=1)).max()) < 1
    assert -2 < float(blots.min()) < 0 < float(blots.max()) <= 4
    assert float(blots.mean()) > 0


def test_bars_are_dark_at_the_sides_and_never_over_lungs():
    """Fault: lung under a bar that the mask still calls lung."""
    covered = jax.vmap(lambda key: bars(key, LUNGS, 0.5))(jax.random.split(jax.random.key(2), 256))
    assert not (covered & LUNGS).any()
    sides = [covered[:, 0, 30], covered[:, -1, 30], covered[:, 20, 0], covered[:, 20, -1]]
    for side in sides:
        assert 30 < int(side.sum()) < 100
    # Fault: bars at all sides or at none.
    for one, other in itertools.combinations(sides, 2):
        assert int((one & other).sum()) < 0.6 * int(one.sum())
    # One with lungs at every side has no room for any.
    assert not bars(jax.random.key(0), jnp.ones((8, 8), bool), 0.5).any()


OFF = dataclasses.replace(
    AugmentConfig(), tone=0.0, local_contrast=0.0, shading=0.0, opacity=0.0, bars=0.0
)


def many(config: AugmentConfig, image: jax.Array, lungs: jax.Array) -> np.ndarray:
    keys = jax.random.split(jax.random.key(6), 256)
    return np.asarray(jax.vmap(lambda key: change_appearance(key, image, lungs, config))(keys))


def test_tone_and_local_contrast_go_both_ways():
    """Fault: images only lightened and sharpened, so that dark and soft ones stay unknown."""
    image = jnp.full((16, 16), 0.5).at[4].set(0.25).at[12].set(0.75)
    no_lungs = jnp.zeros((16, 16), bool)
    found = many(dataclasses.replace(OFF, tone=0.1), image, no_lungs)[:, :, 8]
    # Half a sine wave is 1 in the middle; a whole one is 1 and -1 at the quarters, and counts half.
    for amount in (found[:, 8] - 0.5, found[:, 4] - found[:, 12] + 0.5):
        assert -0.1 < amount.min() < -0.09
        assert 0.09 < amount.max() < 0.1
    checked = jnp.asarray(0.4 + 0.2 * (np.indices((16, 16)).sum(0) % 2), jnp.float32)
    image = jnp.kron(checked, jnp.array([[0.9, 1.1], [1.1, 0.9]]))
    found = many(dataclasses.replace(OFF, local_contrast=1.0), image, jnp.zeros((32, 32), bool))
    gain = (found[:, 8, 8] - found[:, 8, 9]) / float(image[8, 8] - image[8, 9])
    assert (gain.min(), gain.max()) == pytest.approx((0.5, 2), rel=0.03)


def test_opacities_do_not_go_with_bars():
    """Fault: flat blots in framed images and tall ones in others: two changes share numbers."""
    lungs = jnp.zeros((32, 32), bool).at[15:17, 15:17].set(True)
    bright = jnp.ones((32, 32))
    framed = many(dataclasses.replace(OFF, bars=0.4), bright, lungs) == 0
    count = sum(np.int32(framed[side]) for side in (
        np.s_[:, 0, 16], np.s_[:, -1, 16], np.s_[:, 16, 0], np.s_[:, 16, -1],
    ))  # fmt: skip
    assert np.bincount(count, minlength=3)[:3].min() > 20
    blots = many(dataclasses.replace(OFF, opacity=0.3), bright, lungs)
    steep = [np.square(np.diff(blots, axis=axis)).sum((1, 2)) for axis in (1, 2)]
    assert abs(np.corrcoef(count, np.log(steep[0] / steep[1]))[0, 1]) < 0.2


def test_each_change_is_off_at_zero_and_finite_in_small_images():
    """Fault: an option that does nothing, or a neighbourhood without a pixel: 0 / 0."""
    key, image = jax.random.key(3), jax.random.uniform(jax.random.key(4), (20, 24))
    lungs = jnp.zeros((20, 24), bool).at[8:12, 8:16].set(True)
    np.testing.assert_array_equal(change_appearance(key, image, lungs, OFF), image)
    for name, value in (("tone", 0.1), ("local_contrast", 1.0), ("shading", 0.1), ("opacity", 0.3)):
        config = dataclasses.replace(OFF, **{name: value})
        changed = change_appearance(key, image, lungs, config)
        assert jnp.isfinite(changed).all()
        assert float(jnp.abs(changed - image).max()) > 1e-3, name
