"""Changes of an image's look against what they are meant to do."""

import dataclasses

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
    for side in (np.s_[:, 0, 30], np.s_[:, -1, 30], np.s_[:, 20, 0], np.s_[:, 20, -1]):
        assert 30 < int(covered[side].sum()) < 100
    # One with lungs at every side has no room for any.
    assert not bars(jax.random.key(0), jnp.ones((8, 8), bool), 0.5).any()


def test_each_change_is_off_at_zero_and_finite_in_small_images():
    """Fault: an option that does nothing, or a neighbourhood without a pixel: 0 / 0."""
    off = dataclasses.replace(
        AugmentConfig(), tone=0.0, local_contrast=0.0, shading=0.0, opacity=0.0, bars=0.0
    )
    key, image = jax.random.key(3), jax.random.uniform(jax.random.key(4), (20, 24))
    lungs = jnp.zeros((20, 24), bool).at[8:12, 8:16].set(True)
    np.testing.assert_array_equal(change_appearance(key, image, lungs, off), image)
    for name, value in (("tone", 0.1), ("local_contrast", 1.0), ("shading", 0.1), ("opacity", 0.3)):
        config = dataclasses.replace(off, **{name: value})
        changed = change_appearance(key, image, lungs, config)
        assert jnp.isfinite(changed).all()
        assert float(jnp.abs(changed - image).max()) > 1e-3, name
