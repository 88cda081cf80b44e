"""The loss against hand-derived values and across devices."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lungseg_jax.losses import DICE_SMOOTHING, segmentation_loss


def logit(p: float) -> float:
    return float(np.log(p / (1 - p)))


def dice_part(logits: jax.Array, mask: jax.Array) -> jax.Array:
    cross_entropy = optax.sigmoid_binary_cross_entropy(logits, mask).mean()
    return segmentation_loss(logits, mask) - cross_entropy


def test_dice_loss_of_a_half_right_prediction():
    """Fault: union instead of sum of areas, or a missing factor of two."""
    mask = jnp.zeros((1, 4, 4, 1)).at[:, :2].set(1)
    logits = jnp.full((1, 4, 4, 1), -40.0).at[:, 1:3].set(40.0)
    expected = 1 - (2 * 4 + DICE_SMOOTHING) / (16 + DICE_SMOOTHING)
    np.testing.assert_allclose(dice_part(logits, mask), expected, rtol=1e-5)


def test_dice_loss_is_the_mean_over_classes():
    """Fault: pixels of all classes in one sum, so that the larger lung outweighs the smaller."""
    mask = jnp.zeros((2, 4, 4, 2)).at[:, :2, :, 0].set(1).at[0, 0, 0, 1].set(1)
    logits = jnp.full(mask.shape, -40.0).at[:, 1:3, :, 0].set(40.0).at[0, 0, 0, 1].set(40.0)
    half = (2 * 8 + DICE_SMOOTHING) / (32 + DICE_SMOOTHING)
    np.testing.assert_allclose(dice_part(logits, mask), 1 - (half + 1) / 2, rtol=2e-5)


def test_loss_of_two_classes_is_the_mean_of_their_own_losses():
    """Fault: a cross-entropy summed over classes, whose weight against Dice doubles with two."""
    logits = jax.random.normal(jax.random.key(0), (2, 4, 4, 2))
    mask = (jax.random.uniform(jax.random.key(1), logits.shape) > 0.7).astype(jnp.float32)
    alone = [segmentation_loss(logits[..., i : i + 1], mask[..., i : i + 1]) for i in (0, 1)]
    np.testing.assert_allclose(segmentation_loss(logits, mask), np.mean(alone), rtol=1e-5)


def test_cross_entropy_is_a_mean_over_pixels():
    """Fault: a sum, whose weight against the Dice term grows with the image."""
    for side in (4, 8):
        mask = jnp.ones((2, side, side, 1))
        loss = segmentation_loss(jnp.full_like(mask, logit(0.8)), mask)
        pixels = 2 * side**2
        dice = 1 - (2 * 0.8 * pixels + DICE_SMOOTHING) / (1.8 * pixels + DICE_SMOOTHING)
        np.testing.assert_allclose(loss - dice, -np.log(0.8), rtol=1e-5)


def test_empty_batch_predicted_empty_has_no_loss_and_finite_gradient():
    """Fault: 0 / 0 on a batch without lungs."""
    mask = jnp.zeros((1, 4, 4, 1))
    loss, gradient = jax.value_and_grad(segmentation_loss)(jnp.full_like(mask, -40.0), mask)
    np.testing.assert_allclose(loss, 0, atol=1e-6)
    assert jnp.isfinite(gradient).all()


def test_loss_over_devices_equals_loss_of_the_global_batch(eight_devices):
    """Fault: a per-device Dice. The foreground share differs widely between the devices."""
    share = jnp.linspace(0.0, 0.9, 8)[:, None, None, None, None]
    uniform = jax.random.uniform(jax.random.key(0), (8, 1, 8, 8, 1))
    masks = (uniform < share).astype(jnp.float32)
    logits = jax.random.normal(jax.random.key(1), masks.shape)
    spread = jax.pmap(
        lambda x, y: segmentation_loss(x, y, "data"), axis_name="data", devices=eight_devices
    )
    together = segmentation_loss(logits.reshape(8, 8, 8, 1), masks.reshape(8, 8, 8, 1))
    np.testing.assert_allclose(spread(logits, masks), np.full(8, together), rtol=1e-6)
    alone = jax.vmap(segmentation_loss)(logits, masks).mean()
    assert abs(alone - together) > 1e-2, "the case does not tell the fault apart"


def test_trimmed_loss_leaves_out_the_images_of_the_largest_loss(eight_devices):
    """Fault: each device trims its own share, ranks by index, or gradients of what is left out.

    The two of sixteen images whose reference is turned inside out are on one device.
    """
    good = (jax.random.uniform(jax.random.key(0), (16, 8, 8, 1)) > 0.6).astype(jnp.float32)
    logits = 4 * (good - 0.5) + jax.random.normal(jax.random.key(1), good.shape)
    wrong = jnp.array([6, 7])
    mask = good.at[wrong].set(1 - good[wrong])
    others = jnp.delete(jnp.arange(16), wrong)

    def trimmed(logits: jax.Array) -> jax.Array:
        return segmentation_loss(logits, mask, trimmed_share=1 / 8)

    loss, gradient = jax.value_and_grad(trimmed)(logits)
    expected, expected_gradient = jax.value_and_grad(segmentation_loss)(
        logits[others], mask[others]
    )
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    np.testing.assert_allclose(gradient[others], expected_gradient, rtol=1e-5)
    assert not gradient[wrong].any()
    spread = jax.pmap(
        lambda x, y: segmentation_loss(x, y, "data", 1 / 8), axis_name="data", devices=eight_devices
    )
    shape = (8, 2, 8, 8, 1)
    np.testing.assert_allclose(
        spread(logits.reshape(shape), mask.reshape(shape)), np.full(8, expected), rtol=1e-6
    )


def test_images_are_trimmed_by_cross_entropy_and_dice_together():
    """Fault: by cross-entropy alone a large lung half right goes, and a small one missed stays."""
    mask = jnp.ones((2, 8, 8, 1)).at[1].set(0).at[1, 0, :4].set(1)
    logits = jnp.stack([jnp.full((8, 8, 1), logit(p)) for p in (0.45, 0.4)])
    # By hand: 64 pixels of lung at .45; 4 at .4 with 60 of background.
    cross_entropy = np.array([-np.log(0.45), (-4 * np.log(0.4) - 60 * np.log(0.6)) / 64])
    dice = np.array([(57.6 + 1) / (28.8 + 64 + 1), (3.2 + 1) / (25.6 + 4 + 1)])
    own = jax.vmap(segmentation_loss)(logits[:, None], mask[:, None])
    np.testing.assert_allclose(own, cross_entropy + 1 - dice, rtol=1e-5)
    assert cross_entropy[0] > 1.3 * cross_entropy[1]
    assert own[1] > 1.15 * own[0]
    gradient = jax.grad(lambda x: segmentation_loss(x, mask, trimmed_share=1 / 2))(logits)
    assert gradient.any((1, 2, 3)).tolist() == [True, False]


def test_an_image_without_lung_is_not_trimmed_for_a_dice_of_nothing():
    """Fault: images without lung the first to go, however little is predicted on them."""
    mask = (jax.random.uniform(jax.random.key(0), (4, 8, 8, 1)) > 0.5).astype(jnp.float32)
    mask = mask.at[2].set(0)
    logits = (4 * (mask - 0.5) + jax.random.normal(jax.random.key(1), mask.shape)).at[2].set(-4)
    own = jax.vmap(segmentation_loss)(logits[:, None], mask[:, None])
    assert own.argmax() == 2, "the case does not tell the fault apart"
    gradient = jax.grad(lambda x: segmentation_loss(x, mask, trimmed_share=1 / 4))(logits)
    left_out = ~gradient.any((1, 2, 3))
    assert left_out.sum() == 1
    assert not left_out[2]
    # Fault: nothing but images without lung kept, because they cost nothing.
    worst = logits.at[2].set(4)
    gradient = jax.grad(lambda x: segmentation_loss(x, mask, trimmed_share=1 / 4))(worst)
    assert (~gradient.any((1, 2, 3))).tolist() == [False, False, True, False]


def test_an_image_of_one_lung_is_not_trimmed_for_the_other():
    """Fault: patients with one lung the first to go, for a class that some other class stands for.

    By hand: the first image's cross-entropy is .13 and its lung's Dice loss .11, the second's .20
    and .18; the Dice of the first's other class, of which nothing is there, would be near 0.
    """
    mask = jnp.zeros((2, 8, 8, 2)).at[:, :4, :, 0].set(1).at[1, 4:, :, 1].set(1)
    logits = (mask - 0.5) * jnp.array([4.0, 3.0])[:, None, None, None]
    gradient = jax.grad(lambda x: segmentation_loss(x, mask, trimmed_share=1 / 2))(logits)
    assert gradient.any((1, 2, 3)).tolist() == [True, False]


def test_less_than_a_whole_image_is_not_trimmed():
    """Fault: rounding up, so that a batch of one trains on nothing."""
    mask = (jax.random.uniform(jax.random.key(0), (3, 4, 4, 1)) > 0.5).astype(jnp.float32)
    logits = jax.random.normal(jax.random.key(1), mask.shape)
    np.testing.assert_array_equal(
        segmentation_loss(logits, mask, trimmed_share=0.3), segmentation_loss(logits, mask)
    )
