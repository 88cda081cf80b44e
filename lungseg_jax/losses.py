"""Losses of segmentation into classes that may overlap; batch reductions span all devices."""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from lungseg_jax.parallel import sum_over_devices

# Added to both sides of the Dice ratio: a batch without lungs, predicted as such, has no loss.
DICE_SMOOTHING = 1.0


def segmentation_loss(
    logits: Float[Array, "b h w c"],
    mask: Float[Array, "b h w c"],
    axis_name: str | None = None,
) -> Float[Array, ""]:
    """Returns binary cross-entropy, the mean over pixels and classes, plus soft Dice loss.

    That is 1 − soft Dice (Milletari et al. 2016, with sums not squared), the mean over classes. The
    sums of a class run over the whole batch, on all devices, before the ratio: a mean of
    per-device Dice values would weight a pixel by how much lung its device happened to get.

    Args:
      logits: float32.
      mask: in [0, 1].
      axis_name: mapped axis that the batch is spread over; `None` for a global batch.
    """
    cross_entropy = optax.sigmoid_binary_cross_entropy(logits, mask).mean()
    sums = _soft_dice_sums(logits, mask)
    if axis_name is not None:
        share = cross_entropy / jax.lax.axis_size(axis_name)
        cross_entropy, sums = sum_over_devices((share, sums), axis_name)
    return cross_entropy + _soft_dice_loss(sums)


def _soft_dice_sums(
    logits: Float[Array, "b h w c"], mask: Float[Array, "b h w c"]
) -> Float[Array, "2 c"]:
    probabilities = jax.nn.sigmoid(logits)
    pixels = (0, 1, 2)
    return jnp.stack([(probabilities * mask).sum(pixels), (probabilities + mask).sum(pixels)])


def _soft_dice_loss(sums: Float[Array, "2 c"]) -> Float[Array, ""]:
    return 1 - ((2 * sums[0] + DICE_SMOOTHING) / (sums[1] + DICE_SMOOTHING)).mean()
