"""Losses for segmentation into classes that may overlap; batch reductions span all devices."""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from lungseg_jax.config import num_trimmed
from lungseg_jax.parallel import sum_over_devices

# Added to both sides of the Dice ratio: a batch without lungs, predicted as such, has no loss.
DICE_SMOOTHING = 1.0


def segmentation_loss(
    logits: Float[Array, "b h w c"],
    mask: Float[Array, "b h w c"],
    axis_name: str | None = None,
    trimmed_share: float = 0.0,
) -> Float[Array, ""]:
    """Returns binary cross-entropy, averaged over pixels and classes, plus soft Dice loss.

    The latter is 1 − soft Dice (Milletari et al. 2016, without squares in the sums), averaged over
    classes. A class's sums run over the whole batch, on all devices, before the ratio: a mean of
    per-device Dice values would weight a pixel by how much lung its device happened to get.

    Args:
      logits: float32.
      mask: in [0, 1].
      axis_name: mapped axis that the batch is spread over; `None` for a global batch.
      trimmed_share: share of the batch's images to leave out, rounded down to whole images: those
        with the largest cross-entropy plus Dice loss of their own (as in least trimmed squares,
        Rousseeuw 1984). They still count in batch statistics. A class that is absent from an
        image's mask has no Dice loss there: the ratio would be near its worst however little is
        predicted. Where two losses are all but equal, rounding decides which image stays.
    """
    cross_entropy = optax.sigmoid_binary_cross_entropy(logits, mask).mean((1, 2, 3))
    sums = _soft_dice_sums(logits, mask)
    kept = jnp.ones_like(cross_entropy)
    if trimmed_share:
        has_class = mask.any((1, 2))
        dice_losses = jnp.where(has_class, 1 - _soft_dice(sums), 0).mean(-1)
        losses = jax.lax.stop_gradient(cross_entropy + dice_losses)
        kept = _without_largest(losses, trimmed_share, axis_name)
    # Products and sums, not dot products, which accelerators would compute in low precision.
    totals = ((kept * cross_entropy).sum(), kept.sum(), (kept[:, None] * sums).sum(1))
    if axis_name is not None:
        totals = sum_over_devices(totals, axis_name)
    cross_entropy, count, sums = totals
    return cross_entropy / count + (1 - _soft_dice(sums).mean())


def _without_largest(
    losses: Float[Array, " b"], share: float, axis_name: str | None
) -> Float[Array, " b"]:
    """Returns 0 for the largest share of all devices' losses, and 1 for the others."""
    everywhere, places = losses, slice(None)
    if axis_name is not None:
        everywhere = jax.lax.all_gather(losses, axis_name, tiled=True)
        places = jax.lax.axis_index(axis_name) * len(losses) + jnp.arange(len(losses))
    num_kept = len(everywhere) - num_trimmed(share, len(everywhere))
    ranks = jnp.argsort(jnp.argsort(everywhere))
    return (ranks < num_kept).astype(losses.dtype)[places]


def _soft_dice_sums(
    logits: Float[Array, "b h w c"], mask: Float[Array, "b h w c"]
) -> Float[Array, "2 b c"]:
    probabilities = jax.nn.sigmoid(logits)
    pixels = (1, 2)
    return jnp.stack([(probabilities * mask).sum(pixels), (probabilities + mask).sum(pixels)])


def _soft_dice(sums: Float[Array, "2 *b c"]) -> Float[Array, "*b c"]:
    return (2 * sums[0] + DICE_SMOOTHING) / (sums[1] + DICE_SMOOTHING)
